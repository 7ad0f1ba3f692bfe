//! The spans of round trips, by the conventions of OpenTelemetry. They name the statement, and never its values.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::Stream;
use tracing::{Span, field::Empty};

use crate::biz::values::spans::{TARGET, fail};

/// The server of a round trip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub host: String,
    pub port: u16,
}

/// One round trip to a database or a cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoundTrip<'a> {
    /// `db.system.name`.
    pub system: &'static str,
    /// The name of the statement, or of the batch.
    pub name: &'a str,
    /// The command.
    pub operation: &'a str,
    /// The number of commands, if they are several: two or more.
    pub batch: Option<usize>,
    /// The name of the script.
    pub script: Option<&'static str>,
    pub server: Option<&'a Address>,
}

impl RoundTrip<'_> {
    /// The span, which is disabled unless the current work is traced.
    pub fn span(self) -> Span {
        let RoundTrip { system, name, operation, batch, script, server } = self;
        tracing::info_span!(
            target: TARGET,
            "round trip",
            "otel.name" = name,
            "otel.kind" = "client",
            "otel.status_code" = Empty,
            "db.system.name" = system,
            "db.operation.name" = operation,
            "db.query.summary" = name,
            "db.operation.batch.size" = batch,
            "db.stored_procedure.name" = script,
            "server.address" = server.map(|server| server.host.as_str()),
            "server.port" = server.map(|server| server.port),
            "error.type" = Empty,
        )
    }
}

/// The command of a statement in SQL.
pub(super) fn operation(sql: &str) -> &str {
    sql.trim_start().split(|char: char| !char.is_ascii_alphabetic()).next().unwrap_or_default()
}

/// A stream of rows in its span.
pub(super) struct TracedRows<S> {
    pub rows: S,
    pub span: Span,
}

impl<T, S: Stream<Item = sqlx::Result<T>> + Unpin> Stream for TracedRows<S> {
    type Item = sqlx::Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let span = self.span.clone();
        let polled = span.in_scope(|| Pin::new(&mut self.rows).poll_next(context));
        if let Poll::Ready(Some(Err(error))) = &polled {
            fail_by(&span, error);
        }
        polled
    }
}

/// Records on a span that a driver failed.
pub(super) fn fail_by(span: &Span, error: &sqlx::Error) {
    if span.is_disabled() {
        return;
    }
    match error {
        sqlx::Error::Database(error) => fail(span, error.code().as_deref().unwrap_or("database")),
        _ => fail(span, "unavailable"),
    }
}
