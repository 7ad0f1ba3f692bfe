//! Statements with the values of a [`Scope`], and reads in one snapshot.

use futures_util::FutureExt;
use sqlx::mysql::MySqlRow;

use super::unreadable::unreadable;
use crate::{
    biz::values::{
        error::StoreError,
        ids::{ApiKeyId, UserId},
    },
    data::{
        history::{Piece, Scope, pieces},
        mysql::{MySqlStore, connections::Lease, settlement::transactions, statement::Statement},
    },
};

impl MySqlStore {
    /// A connection with one snapshot, until [`end`].
    pub(super) async fn snapshot(&self) -> Result<Lease, StoreError> {
        // Applies to the next transaction only, which reads one snapshot. TiDB knows no READ ONLY.
        let begin = Statement::new(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT",
        );
        let (connection, ()) = self.waiter.take_with(|connection| begin.clone().execute(connection).boxed()).await?;
        Ok(connection)
    }
}

pub(super) async fn end(mut connection: Lease) -> Result<(), StoreError> {
    Statement::new("ROLLBACK").execute(&mut *connection).await?;
    connection.give_back();
    Ok(())
}

pub(super) async fn fetch(connection: &mut Lease, statement: Statement) -> Result<Vec<MySqlRow>, StoreError> {
    Ok(statement.fetch(&mut **connection).await?.into_iter().flatten().collect())
}

/// The statement with the values of `scope`.
pub(super) fn scoped(sql: &'static str, scope: &Scope<'_>) -> Statement {
    let mut statement = Statement::new("");
    for piece in pieces(sql) {
        match piece {
            Piece::Sql(sql) => statement.push(sql),
            Piece::Value("users") => statement.texts(scope.users.iter().map(UserId::as_str)),
            Piece::Value("first") => statement.texts([scope.first]),
            Piece::Value("last") => statement.texts([scope.last]),
            Piece::Value("from") => statement.instant(scope.from),
            Piece::Value("until") => statement.instant(scope.until),
            Piece::Value("id") => statement.texts([scope.id]),
            Piece::Value("after_trace") => statement.texts([scope.after_trace]),
            Piece::Value("last_trace") => statement.texts([scope.last_trace]),
            Piece::Value("traces") => statement.texts(scope.traces.iter().map(String::as_str)),
            Piece::Value("keys") => statement.texts(scope.keys.iter().map(ApiKeyId::as_str)),
            Piece::Value("first_key") => statement.texts([scope.first_key]),
            Piece::Value("last_key") => statement.texts([scope.last_key]),
            Piece::Value("columns") => statement.push(transactions::COLUMNS),
            Piece::Value("is_part") => statement.number(u8::from(scope.is_part)),
            Piece::Value("day") => statement.row(|row| {
                row.day(scope.day);
            }),
            Piece::Value("month") => statement.texts([scope.day.format("%Y-%m").to_string().as_str()]),
            Piece::Value("limit") => statement.number(scope.limit),
            Piece::Value("an_hour_before_the_end_of_s") => statement.push("s.sealed_until - INTERVAL 1 HOUR"),
            Piece::Value("t_free_remaining_large") => statement.push("COALESCE(t.free_remaining_large, '')"),
            Piece::Value("no_amount") => statement.push("0.0"),
            // There is no index by status.
            Piece::Value("pending_as_t") => statement.push(
                "reservation_expiry e JOIN billing_transaction t ON t.user_id = e.user_id AND t.trace_id = e.trace_id",
            ),
            // The database names an unknown one in its error.
            Piece::Value(name) => statement.push(unreadable(name).unwrap_or(name)),
        };
    }
    statement
}
