//! The session of an upgrade: its limits, its zone, its statements, and its refusal.

use sqlx::{AssertSqlSafe, MySqlConnection};

use crate::{biz::values::error::StoreError, data::error::store_error};

/// An upgrade takes the time it takes, and sorts much. What waits for a table that others
/// use gives up.
pub(super) const LIMITS: &str = "SET SESSION lock_wait_timeout = 60, sort_buffer_size = 33554432 /*M! , max_statement_time = 0 */ \
    /*!50708 , max_execution_time = 0 */";
pub(super) const OUR_ZONE: &str = "'+00:00'";

/// Shows TIMESTAMP columns by the clocks of `zone`, which is SQL.
pub(super) async fn in_zone(connection: &mut MySqlConnection, zone: &str) -> Result<(), StoreError> {
    execute(connection, format!("SET SESSION time_zone = {zone}")).await
}

/// Why a database stays as it is.
pub(super) fn refused(reasons: &[String]) -> StoreError {
    StoreError::Failed(format!(
        "the legacy service's tables can't be taken over, and nothing was changed:\n  {}",
        reasons.join("\n  ")
    ))
}

pub(super) async fn execute(connection: &mut MySqlConnection, sql: impl Into<String>) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(connection).await.map(|_| ()).map_err(store_error)
}
