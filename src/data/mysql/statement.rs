//! Statements of variable length, as text that contains the values.
//!
//! Prepared statements of every length would fill the statement cache. A statement that is prepared
//! for a single use costs two round trips, and between them sqlx's connections, which keep Nagle's
//! algorithm on, wait for a delayed acknowledgement: 40 ms a statement, measured. As text, several
//! statements take one round trip.
//!
//! Injection is impossible by construction: the SQL is `&'static str`, and a value is a number, a
//! quoted text of harmless characters, or a hexadecimal literal.

use std::{
    fmt::{Display, Write},
    time::Duration,
};

use chrono::{DateTime, NaiveDate, Utc};
use futures_util::TryStreamExt;
use sqlx::{
    AssertSqlSafe, Either, MySqlConnection,
    mysql::{MySqlQueryResult, MySqlRow},
};
use tracing::Span;

use crate::{
    biz::values::{error::StoreError, money::Money, spans},
    data::{
        error::store_error,
        spans::{Address, RoundTrip, operation},
    },
};

/// The end of an IF in a compound statement, which ends with an error: the packet was made for another version of an
/// account.
pub(super) const STALE: &str = " THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'an account has changed'; END IF; ";
/// As [`STALE`]: an API key has a quota.
pub(super) const LIMITED: &str = " THEN SIGNAL SQLSTATE '45001' SET MESSAGE_TEXT = 'a quota was set'; END IF; ";

/// SQL text under construction.
#[derive(Clone)]
pub(super) struct Statement {
    sql: String,
    /// Its name in traces; `None` for its command.
    name: Option<&'static str>,
}

/// A connection that may know its server.
pub(super) trait OnNode: Send {
    fn parts(&mut self) -> (&mut MySqlConnection, Option<&Address>);
}

impl OnNode for MySqlConnection {
    fn parts(&mut self) -> (&mut MySqlConnection, Option<&Address>) {
        (self, None)
    }
}

impl Statement {
    pub(super) fn new(sql: &'static str) -> Self {
        Self { sql: sql.to_owned(), name: None }
    }

    /// Names the packet in traces.
    pub(super) fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// The begin of a read with a time limit, because the server does not notice a caller that has gone. MariaDB has
    /// the limit before the statement, and MySQL in a hint. Each server ignores the form of the other as a comment, or
    /// takes it as the same limit.
    pub(super) fn select_within(within: Duration) -> Self {
        // Zero would mean no limit.
        let within_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX).max(1);
        let mut statement = Self::new("/*M! SET STATEMENT max_statement_time = ");
        statement.number(within_ms).push(" / 1000 FOR */ SELECT /*+ MAX_EXECUTION_TIME(").number(within_ms);
        statement.push(") */ ");
        statement
    }

    pub(super) fn push(&mut self, sql: &'static str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    /// Values for an `IN (...)`, without the parentheses.
    pub(super) fn texts<'v>(&mut self, values: impl IntoIterator<Item = &'v str>) -> &mut Self {
        let mut row = Row { sql: &mut self.sql, first: true };
        for value in values {
            row.text(value);
        }
        self
    }

    /// One value; NULL for `None`.
    pub(super) fn optional_text(&mut self, value: Option<&str>) -> &mut Self {
        Row { sql: &mut self.sql, first: true }.optional(value, Row::text);
        self
    }

    /// One value.
    pub(super) fn number(&mut self, value: impl Into<i128>) -> &mut Self {
        Row { sql: &mut self.sql, first: true }.number(value);
        self
    }

    /// One value.
    pub(super) fn money(&mut self, value: Money) -> &mut Self {
        Row { sql: &mut self.sql, first: true }.money(value);
        self
    }

    /// One value.
    pub(super) fn instant(&mut self, value: DateTime<Utc>) -> &mut Self {
        Row { sql: &mut self.sql, first: true }.instant(value);
        self
    }

    /// Pairs for a `(a, b) IN (...)`, without the outer parentheses.
    pub(super) fn pairs<'v, A: AsRef<str> + 'v, B: AsRef<str> + 'v>(
        &mut self,
        pairs: impl IntoIterator<Item = &'v (&'v A, &'v B)>,
    ) -> &mut Self {
        self.rows(pairs, |row, (a, b)| {
            row.text(a.as_ref()).text(b.as_ref());
        })
    }

    /// The values of one row, without parentheses.
    pub(super) fn row(&mut self, fill: impl FnOnce(&mut Row<'_>)) -> &mut Self {
        fill(&mut Row { sql: &mut self.sql, first: true });
        self
    }

    /// `(...), (...)`, a row for each item.
    pub(super) fn rows<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut fill: impl FnMut(&mut Row<'_>, T),
    ) -> &mut Self {
        for (index, item) in items.into_iter().enumerate() {
            self.sql.push_str(if index == 0 { "(" } else { ",(" });
            fill(&mut Row { sql: &mut self.sql, first: true }, item);
            self.sql.push(')');
        }
        self
    }

    /// Runs the statements. Returns the rows of each, in order.
    pub(super) async fn fetch(self, connection: &mut impl OnNode) -> Result<Vec<Vec<MySqlRow>>, StoreError> {
        let (connection, server) = connection.parts();
        let fetching = |sql| async {
            let mut results = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(connection);
            let (mut sets, mut rows) = (Vec::new(), Vec::new());
            while let Some(part) = results.try_next().await.map_err(store_error)? {
                match part {
                    Either::Right(row) => rows.push(row),
                    Either::Left(_) => sets.push(std::mem::take(&mut rows)),
                }
            }
            Ok(sets)
        };
        spans::traced(self.span(server), fetching(self.sql)).await
    }

    /// Runs the statement, and calls `take` for each row, so that the rows are not in memory together.
    pub(super) async fn fetch_each(
        self,
        connection: &mut impl OnNode,
        take: &mut (dyn FnMut(&MySqlRow) -> Result<(), StoreError> + Send),
    ) -> Result<(), StoreError> {
        let (connection, server) = connection.parts();
        let span = self.span(server);
        let fetching = async {
            let mut rows = sqlx::raw_sql(AssertSqlSafe(self.sql)).fetch(connection);
            while let Some(row) = rows.try_next().await.map_err(store_error)? {
                take(&row)?;
            }
            Ok(())
        };
        spans::traced(span, fetching).await
    }

    /// Runs the statements. The server stops at the first that fails.
    pub(super) async fn execute(self, connection: &mut impl OnNode) -> Result<(), StoreError> {
        self.execute_counting(connection).await.map(|_| ())
    }

    /// As [`Self::execute`]. Returns the number of matched rows.
    pub(super) async fn execute_counting(self, connection: &mut impl OnNode) -> Result<u64, StoreError> {
        let (connection, server) = connection.parts();
        let span = self.span(server);
        let run = async { Ok(self.run(connection).await.map_err(store_error)?.rows_affected()) };
        spans::traced(span, run).await
    }

    /// As [`Self::execute`]; `false` if a row was not inserted because its key is in use.
    pub(super) async fn execute_unless_taken(self, connection: &mut impl OnNode) -> Result<bool, StoreError> {
        let (connection, server) = connection.parts();
        let span = self.span(server);
        let run = async {
            match self.run(connection).await {
                Ok(_) => Ok(true),
                Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
                Err(error) => Err(store_error(error)),
            }
        };
        spans::traced(span, run).await
    }

    /// As [`Self::execute`], for a packet with guards.
    pub(super) async fn execute_guarded(self, connection: &mut impl OnNode) -> Result<Guarded, StoreError> {
        let (connection, server) = connection.parts();
        let span = self.span(server);
        let run = async {
            match self.run(connection).await {
                Ok(_) => Ok(Guarded::Done),
                Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(Guarded::Taken),
                Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("45000") => Ok(Guarded::Stale),
                Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("45001") => Ok(Guarded::Limited),
                Err(error) => match store_error(error) {
                    StoreError::Conflict(_) => Ok(Guarded::Locked),
                    error => Err(error),
                },
            }
        };
        spans::traced(span, run).await
    }

    async fn run(self, connection: &mut MySqlConnection) -> sqlx::Result<MySqlQueryResult> {
        sqlx::raw_sql(AssertSqlSafe(self.sql)).execute(connection).await
    }

    fn span(&self, server: Option<&Address>) -> Span {
        match self.name {
            _ if !spans::is_traced() => Span::none(),
            Some(name) => round_trip(name, "BATCH", server),
            None => round_trip(operation(&self.sql), operation(&self.sql), server),
        }
    }
}

/// The span of a round trip.
pub(super) fn round_trip(name: &str, operation: &str, server: Option<&Address>) -> Span {
    RoundTrip { system: "mysql", name, operation, batch: None, script: None, server }.span()
}

/// The end of a packet with guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guarded {
    Done,
    /// A row was not inserted because its key is in use.
    Taken,
    /// See [`STALE`].
    Stale,
    /// See [`LIMITED`].
    Limited,
    /// Another transaction has a lock.
    Locked,
}

/// Whether a statement waits for the locks that other transactions hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LockMode {
    Wait,
    /// Rows that others hold are missing from the result.
    Skip,
}

impl LockMode {
    /// The end of a locking read.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Wait => " FOR UPDATE; ",
            Self::Skip => " FOR UPDATE SKIP LOCKED; ",
        }
    }
}

/// The values of one row, separated by commas.
pub(super) struct Row<'s> {
    sql: &'s mut String,
    first: bool,
}

impl Row<'_> {
    fn value(&mut self, literal: impl Display) -> &mut Self {
        // A write to a String can't fail.
        let _ = write!(self.begin(), "{literal}");
        self
    }

    /// The place of the next value.
    fn begin(&mut self) -> &mut String {
        if !std::mem::take(&mut self.first) {
            self.sql.push(',');
        }
        self.sql
    }

    pub(super) fn number(&mut self, value: impl Into<i128>) -> &mut Self {
        let value = value.into();
        // Nearly all numbers are small, and those are written faster.
        match i64::try_from(value) {
            Ok(value) => self.value(value),
            Err(_) => self.value(value),
        }
    }

    /// A text literal: quoted if all characters are harmless, hexadecimal otherwise. Quotes and backslashes
    /// then have no meaning in any SQL mode.
    pub(super) fn text(&mut self, value: &str) -> &mut Self {
        let sql = self.begin();
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@ {}[],\"".contains(&byte);
        if value.bytes().all(harmless) {
            sql.push('\'');
            sql.push_str(value);
        } else {
            sql.push_str("_utf8mb4 X'");
            for byte in value.bytes() {
                // A write to a String can't fail.
                let _ = write!(sql, "{byte:02X}");
            }
        }
        sql.push('\'');
        self
    }

    pub(super) fn money(&mut self, value: Money) -> &mut Self {
        self.value(value)
    }

    /// In UTC.
    pub(super) fn instant(&mut self, value: DateTime<Utc>) -> &mut Self {
        self.value(format_args!("'{}'", value.naive_utc()))
    }

    pub(super) fn day(&mut self, value: NaiveDate) -> &mut Self {
        self.value(format_args!("'{value}'"))
    }

    /// The value, written by `push`; NULL for `None`.
    pub(super) fn optional<T>(
        &mut self,
        value: Option<T>,
        push: impl for<'r> FnOnce(&'r mut Self, T) -> &'r mut Self,
    ) -> &mut Self {
        match value {
            Some(value) => push(self, value),
            None => self.value("NULL"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_ends_its_literal() {
        let mut statement = Statement::new("VALUES ");
        statement.rows(["it's", "a\\", "plain-1.5:@ x", "é", "", r#"{"a":["b"],"c"}"#], |row, text| {
            row.text(text).number(7u32).optional(None::<u32>, Row::number);
        });
        assert_eq!(
            statement.sql,
            "VALUES (_utf8mb4 X'69742773',7,NULL),(_utf8mb4 X'615C',7,NULL),('plain-1.5:@ x',7,NULL),\
             (_utf8mb4 X'C3A9',7,NULL),('',7,NULL),('{\"a\":[\"b\"],\"c\"}',7,NULL)"
        );
    }

    #[test]
    fn amounts_and_times_keep_every_digit() {
        let mut statement = Statement::new("");
        statement.rows([()], |row, ()| {
            row.money("-12.000001".parse().unwrap())
                .instant("2026-11-21T09:33:21.000042Z".parse().unwrap())
                .day("2026-11-21".parse().unwrap());
        });
        assert_eq!(statement.sql, "(-12.000001,'2026-11-21 09:33:21.000042','2026-11-21')");
    }
}
