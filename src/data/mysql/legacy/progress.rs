//! The progress of a conversion: the row of `former_upgrade`, a table that exists during the
//! conversion.

use chrono_tz::Tz;
use sqlx::MySqlConnection;

use super::{options::UpgradeOptions, session::execute};
use crate::{
    biz::values::error::StoreError,
    data::{error::store_error, row::Columns},
};

/// A conversion that has begun, possibly in another process.
#[derive(Debug)]
pub(super) struct UpgradeProgress {
    legacy_zone: String,
    billing_zone: String,
    /// All users up to this one, in key order, are converted.
    pub(super) last_user: Option<String>,
}

impl UpgradeProgress {
    /// The zone of the legacy times. It can't change during a conversion, because the times of
    /// some users are converted already.
    pub(super) fn legacy_zone(&self, options: &UpgradeOptions) -> Result<Tz, StoreError> {
        match &options.legacy_zone.zone {
            Ok(zone) if options.legacy_zone.is_chosen && zone.name() != self.legacy_zone => {
                Err(other_zone("data.database.legacy_zone or --legacy-zone", &self.legacy_zone, *zone))
            }
            _ => parse(&self.legacy_zone),
        }
    }

    /// The zone of the billing days.
    pub(super) fn billing_zone(&self, options: &UpgradeOptions) -> Result<Tz, StoreError> {
        if options.billing_zone.name() == self.billing_zone {
            return Ok(options.billing_zone);
        }
        Err(other_zone("billing.timezone", &self.billing_zone, options.billing_zone))
    }
}

fn parse(zone: &str) -> Result<Tz, StoreError> {
    zone.parse().map_err(|_| StoreError::Failed(format!("the table former_upgrade names an unknown zone {zone:?}")))
}

fn other_zone(of: &str, begun: &str, now: Tz) -> StoreError {
    StoreError::Failed(format!(
        "{of} is {now}, but the conversion began with {begun}: set it back to {begun}, or restore the backup and \
        begin again"
    ))
}

/// The progress of a conversion; `None` before it begins.
pub(super) async fn begun(connection: &mut MySqlConnection) -> Result<Option<UpgradeProgress>, StoreError> {
    let row = sqlx::query("SELECT legacy_zone, billing_zone, last_user FROM former_upgrade")
        .fetch_optional(connection)
        .await
        .map_err(store_error)?;
    row.map(|row| {
        Ok(UpgradeProgress { legacy_zone: row.text(0)?, billing_zone: row.text(1)?, last_user: row.optional_text(2)? })
    })
    .transpose()
}

/// Saves the zones before the first change, so that the whole conversion uses them.
pub(super) async fn begin(connection: &mut MySqlConnection, legacy: Tz, billing: Tz) -> Result<(), StoreError> {
    execute(
        connection,
        "CREATE TABLE IF NOT EXISTS former_upgrade (
            id           TINYINT     NOT NULL PRIMARY KEY,
            legacy_zone  VARCHAR(64) NOT NULL,
            billing_zone VARCHAR(64) NOT NULL,
            begun_at     DATETIME(6) NOT NULL,
            last_user    VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL
        ) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4",
    )
    .await?;
    sqlx::query(
        "INSERT INTO former_upgrade (id, legacy_zone, billing_zone, begun_at) VALUES (1, ?, ?, UTC_TIMESTAMP(6))",
    )
    .bind(legacy.name())
    .bind(billing.name())
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(store_error)
}

/// Saves that the users after `before` up to `last` are converted, in the transaction that
/// converted them. Fails if another process has converted them; on a cluster, the lock may
/// cover one node only.
pub(super) async fn reached(
    connection: &mut MySqlConnection,
    before: Option<&str>,
    last: &str,
) -> Result<(), StoreError> {
    let reached = sqlx::query("UPDATE former_upgrade SET last_user = ? WHERE id = 1 AND last_user <=> ?");
    let rows = reached.bind(last).bind(before).execute(connection).await.map_err(store_error)?.rows_affected();
    if rows == 1 {
        Ok(())
    } else {
        Err(StoreError::Failed("another process converts the same users; stop all but one, and start it again".into()))
    }
}

/// Drops the progress after the conversion. The schema shows by then that it is finished.
pub(super) async fn forget(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    execute(connection, "DROP TABLE IF EXISTS former_upgrade").await
}
