//! A panic in a handler is the error of its own request. The layer of tower-http does not fit: it makes its
//! answer without the request, and so knows neither the protocol nor the request id.

use std::{any::Any, convert::Infallible, panic::AssertUnwindSafe, sync::Arc};

use axum::response::Response;
use futures_util::FutureExt;

use super::refusal::Refusal;
use crate::{biz::values::error::Error, metrics::Metrics};

/// Runs the handler of one request. Answers 10099 when it panics, and counts and logs the panic.
///
/// Built of combinators, because an `async` function would keep two copies of the handler's future, which is large.
pub fn contain(
    answer: impl Future<Output = Result<Response, Infallible>>,
    refusal: Refusal,
    metrics: Arc<Metrics>,
) -> impl Future<Output = Response> {
    AssertUnwindSafe(answer).catch_unwind().map(move |ended| match ended {
        Ok(Ok(response)) => response,
        Err(panic) => {
            metrics.connections.count_panic();
            refusal.answer(&Error::Internal(format!("panic in a handler: {}", message(&*panic))))
        }
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
