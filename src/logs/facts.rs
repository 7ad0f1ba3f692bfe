//! The facts of a request that each of its log lines names. No user, no amount and no secret is one of them.

use std::fmt::{Result, Write};

use tracing_subscriber::{
    field::RecordFields,
    fmt::{
        FormatFields,
        format::{DefaultFields, Writer},
    },
};

use crate::context::{self, RequestFacts};

/// Calls `take` with the name and the value of each fact that is known.
pub fn each(request: &RequestFacts, mut take: impl FnMut(&'static str, &str) -> Result) -> Result {
    if let Some(rpc) = &request.rpc {
        take("rpc", rpc)?;
    }
    take("request_id", request.request_id.to_str().unwrap_or_default())?;
    let mut trace_id = String::with_capacity(32);
    write!(trace_id, "{:032x}", request.trace_id)?;
    take("trace_id", &trace_id)?;
    if let Some(id) = request.charge_id() {
        take("charge_id", id)?;
    }
    match request.caller() {
        Some((name, _)) => take("caller", name),
        None => Ok(()),
    }
}

/// The fields of an event as text, with the facts of its request behind them.
pub struct WithFacts(pub DefaultFields);

impl<'w> FormatFields<'w> for WithFacts {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> Result {
        self.0.format_fields(writer.by_ref(), fields)?;
        context::read(|request| each(request, |name, value| write!(writer, " {name}={value:?}"))).unwrap_or(Ok(()))
    }
}
