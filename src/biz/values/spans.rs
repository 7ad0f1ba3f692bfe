//! The spans of traces: their target, and the record of an error.
//!
//! A span is made only below a traced request. The filter of the traces decides that, so code makes spans without
//! a question. Spans never reach the logs.

use std::{
    future::Future,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tracing::{Instrument, Span};

use super::error::StoreError;

/// The target of all spans of traces. The filter of the traces knows them by it.
pub const TARGET: &str = "billing_service::spans";

/// The name of the span of a request. Only the transport makes it, for a request that is traced.
pub const ROOT: &str = "rpc";

/// Most links of one span to others.
pub const MAX_LINKS: usize = 128;

/// Spans of this process that were lost. Global, like the subscriber that makes spans.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Counts spans that found the queue full, or that the collector of traces did not take.
pub fn lose(spans: u64) {
    LOST.fetch_add(spans, Relaxed);
}

/// The spans that this process has lost.
pub fn lost() -> u64 {
    LOST.load(Relaxed)
}

/// Whether the current work is traced. Ask before a span whose attributes cost something.
pub fn is_traced() -> bool {
    !Span::current().is_disabled()
}

/// Records on a span that its work failed. `kind` is a word of a small set, never a text of a caller.
pub fn fail(span: &Span, kind: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", kind);
}

/// The word for a failure of a storage.
pub fn kind(error: &StoreError) -> &'static str {
    match error {
        StoreError::Conflict(_) => "conflict",
        StoreError::Unavailable(_) => "unavailable",
        StoreError::Failed(_) => "failed",
    }
}

/// Runs `work` in a span, and records its failure there.
///
/// # Errors
/// The errors of `work`.
pub async fn traced<T>(span: Span, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    if span.is_disabled() {
        return work.await;
    }
    let done = work.instrument(span.clone()).await;
    if let Err(error) = &done {
        fail(&span, kind(error));
    }
    done
}
