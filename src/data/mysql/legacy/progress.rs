//! How far an upgrade has got: the row of `former_upgrade`, which is there while one is
//! under way.

use chrono_tz::Tz;
use sqlx::MySqlConnection;

use super::{
    super::{optional_text, store_error, text},
    Settings, execute,
};
use crate::biz::values::error::StoreError;

/// An upgrade that was begun, perhaps by another process.
#[derive(Debug)]
pub(super) struct Begun {
    legacy_zone: String,
    billing_zone: String,
    /// Everything of the users up to this one, in key order, is done.
    pub(super) last_user: Option<String>,
}

impl Begun {
    /// The zone that it reads times in. Those that were converted can't be read in another.
    pub(super) fn legacy_zone(&self, settings: &Settings) -> Result<Tz, StoreError> {
        match &settings.legacy_zone.zone {
            Ok(zone) if settings.legacy_zone.is_chosen && zone.name() != self.legacy_zone => {
                Err(other_zone("data.database.legacy_zone or --legacy-zone", &self.legacy_zone, *zone))
            }
            _ => parse(&self.legacy_zone),
        }
    }

    /// The zone that it gives days in.
    pub(super) fn billing_zone(&self, settings: &Settings) -> Result<Tz, StoreError> {
        if settings.billing_zone.name() == self.billing_zone {
            return Ok(settings.billing_zone);
        }
        Err(other_zone("billing.timezone", &self.billing_zone, settings.billing_zone))
    }
}

fn parse(zone: &str) -> Result<Tz, StoreError> {
    zone.parse().map_err(|_| StoreError::Failed(format!("former_upgrade names an unknown zone {zone:?}")))
}

fn other_zone(of: &str, begun: &str, now: Tz) -> StoreError {
    StoreError::Failed(format!(
        "{of} is {now}, but this upgrade was begun with {begun} and can only go on with it: set it back to {begun}, \
         or restore the backup and begin again"
    ))
}

/// Nothing, when it was not begun.
pub(super) async fn begun(connection: &mut MySqlConnection) -> Result<Option<Begun>, StoreError> {
    let row = sqlx::query("SELECT legacy_zone, billing_zone, last_user FROM former_upgrade")
        .fetch_optional(connection)
        .await
        .map_err(store_error)?;
    row.map(|row| {
        Ok(Begun { legacy_zone: text(&row, 0)?, billing_zone: text(&row, 1)?, last_user: optional_text(&row, 2)? })
    })
    .transpose()
}

/// Remembers the zones before the first change, so that all of it is made in the same.
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

/// Within the transaction that did it: everything of the users behind `before` up to `last`
/// is done. Only once: on a cluster the lock may be of one node alone.
pub(super) async fn reached(
    connection: &mut MySqlConnection,
    before: Option<&str>,
    last: &str,
) -> Result<(), StoreError> {
    let reached = sqlx::query("UPDATE former_upgrade SET last_user = ? WHERE id = 1 AND last_user <=> ?");
    let rows = reached.bind(last).bind(before).execute(connection).await.map_err(store_error)?.rows_affected();
    if rows == 1 { Ok(()) } else { Err(StoreError::Failed("another process takes the same users over".into())) }
}

/// The upgrade is finished, which the schema says by then.
pub(super) async fn forget(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    execute(connection, "DROP TABLE IF EXISTS former_upgrade").await
}
