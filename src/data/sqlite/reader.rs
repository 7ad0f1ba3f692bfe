//! The reading connections. Each read is a span of its trace.

use std::ops::Deref;

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use sqlx::{
    Either, Execute, Executor, SqlStr, Sqlite, SqlitePool,
    sqlite::{SqliteQueryResult, SqliteRow, SqliteStatement, SqliteTypeInfo},
};
use tracing::{Instrument, Span};

use crate::data::spans::{RoundTrip, TracedRows, fail_by};

/// A pool of connections that only read.
#[derive(Debug)]
pub(super) struct Reader(pub SqlitePool);

impl Deref for Reader {
    type Target = SqlitePool;

    fn deref(&self) -> &SqlitePool {
        &self.0
    }
}

fn span() -> Span {
    round_trip("SELECT")
}

/// The span of a statement, or of a batch of several.
pub(super) fn round_trip(name: &'static str) -> Span {
    RoundTrip { system: "sqlite", name, operation: name, batch: None, script: None, server: None }.span()
}

impl<'p> Executor<'p> for &'p Reader {
    type Database = Sqlite;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<SqliteQueryResult, SqliteRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        let (span, rows) = (span(), self.0.fetch_many(query));
        if span.is_disabled() { rows } else { TracedRows { rows, span }.boxed() }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<SqliteRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        let (span, row) = (span(), self.0.fetch_optional(query));
        if span.is_disabled() {
            return row;
        }
        let traced = row.instrument(span.clone());
        async move { traced.await.inspect_err(|error| fail_by(&span, error)) }.boxed()
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [SqliteTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<SqliteStatement>>
    where
        'p: 'e,
    {
        self.0.prepare_with(sql, parameters)
    }
}
