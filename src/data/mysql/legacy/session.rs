//! The database session of a conversion: limits, zone, statements, and the error of a refusal.

use sqlx::{AssertSqlSafe, MySqlConnection};

use crate::{biz::values::error::StoreError, data::error::schema_error};

/// A conversion has no time limit per statement, and sorts large tables. It waits for a table that
/// another session locks for 60 seconds.
pub(super) const LIMITS: &str = "SET SESSION lock_wait_timeout = 60, sort_buffer_size = 33554432 /*M! , max_statement_time = 0 */ \
    /*!50708 , max_execution_time = 0 */";
/// A change of a table waits until every transaction that has used the table ends, and all later statements on
/// the table wait behind it. The default of the server is a day or a year, so the wait is bounded. TiDB waits
/// for no transaction.
pub(super) const SHORT_WAIT: &str = "SET SESSION lock_wait_timeout = 5";
pub(super) const OUR_ZONE: &str = "'+00:00'";

/// Sets the session's zone, in which TIMESTAMP columns are shown. `zone` is SQL.
pub(super) async fn in_zone(connection: &mut MySqlConnection, zone: &str) -> Result<(), StoreError> {
    execute(connection, format!("SET SESSION time_zone = {zone}")).await
}

/// The error of a refused conversion.
pub(super) fn refused(reasons: &[String]) -> StoreError {
    StoreError::Failed(format!(
        "the legacy tables can't be converted; nothing was changed:\n  {}",
        reasons.join("\n  ")
    ))
}

pub(super) async fn execute(connection: &mut MySqlConnection, sql: impl Into<String>) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(connection).await.map(|_| ()).map_err(schema_error)
}
