//! Brings a MySQL database up to date, and converts a legacy database in place.
//!
//! Legacy databases differ, so the conversion has these steps:
//! 1. inspect the tables (`inspect`), refuse those that can't be converted (`check`), and print
//!    the plan (`plan`);
//! 2. give the columns the names and types of this service (`columns`);
//! 3. run the numbered migrations;
//! 4. for each user, convert the times (`times`), and write billing days, rollup and opening
//!    entries (`users`, `openings`).
//!
//! MySQL commits at every change of a table, so a conversion can be killed half-way. Each step
//! looks at the current state of the tables, or at the progress in `former_upgrade` (`progress`),
//! and continues from there.

mod check;
mod chunk;
mod columns;
mod inspect;
mod openings;
mod options;
mod plan;
mod progress;
mod reading;
mod session;
mod times;
mod users;

use chrono::Utc;
use sqlx::{MySqlConnection, mysql::MySqlConnectOptions};

pub use self::options::UpgradeOptions;
use self::{
    inspect::{Kind, Shape},
    plan::Books,
    reading::Reading,
    session::{LIMITS, OUR_ZONE, SHORT_WAIT, execute, in_zone, refused},
    times::Times,
};
use crate::{
    biz::values::error::StoreError,
    data::{
        migrations,
        mysql::{
            Server,
            schema_lock::{self, SchemaLock},
        },
        plan::{Announce, UpgradePlan},
    },
};

/// Brings the schema up to date, one process at a time. `announce` receives the plan before
/// anything is changed.
pub(super) async fn bring_up_to_date(
    connection: &mut MySqlConnection,
    server: &MySqlConnectOptions,
    options: &UpgradeOptions,
    announce: &Announce,
) -> Result<(), StoreError> {
    // A refused database stays as it is: the lock writes to it. Without the lock, a refusal can be
    // about tables that another process is changing.
    match look(connection, options).await {
        Ok(found) if found.is_up_to_date() => {
            announce(&found.plan);
            return migrations::check_mysql(connection).await;
        }
        Err(StoreError::Failed(_)) if schema_lock::is_held(connection).await? => {}
        found => drop(found?),
    }
    let lock = SchemaLock::take(connection, server).await?;
    // Another process may have migrated meanwhile.
    let found = look(connection, options).await?;
    announce(&found.plan);
    match &found.shape.kind {
        Kind::Ours => migrate(connection, &lock).await?,
        Kind::Empty => {
            lock.note_creating(connection, true).await?;
            migrate(connection, &lock).await?;
            users::forbid_records_without_a_day(connection).await?;
            lock.note_creating(connection, false).await?;
        }
        Kind::Legacy => take_over(connection, &found, &lock).await?,
    }
    if found.shape.has_progress {
        progress::forget(connection).await?;
    }
    lock.give_back(connection).await
}

async fn migrate(connection: &mut MySqlConnection, lock: &SchemaLock) -> Result<(), StoreError> {
    for version in migrations::versions() {
        lock.confirm(connection).await?;
        migrations::run_mysql(connection, version).await?;
    }
    Ok(())
}

/// The plan of [`bring_up_to_date`]. Changes nothing.
pub(super) async fn plan(
    connection: &mut MySqlConnection,
    options: &UpgradeOptions,
) -> Result<UpgradePlan, StoreError> {
    Ok(look(connection, options).await?.plan)
}

/// The state of the database, and the plan for it.
struct Inspection {
    shape: Shape,
    plan: UpgradePlan,
    pending: Vec<&'static str>,
    /// Present for a legacy database.
    legacy: Option<Reading>,
}

impl Inspection {
    fn is_up_to_date(&self) -> bool {
        self.shape.kind == Kind::Ours && !self.shape.has_progress && self.pending.is_empty()
    }
}

async fn look(connection: &mut MySqlConnection, options: &UpgradeOptions) -> Result<Inspection, StoreError> {
    if Server::of(connection).await? != Server::TiDb {
        execute(connection, SHORT_WAIT).await?;
    }
    let mut shape = inspect::shape(connection).await?;
    if schema_lock::is_creating(connection).await? {
        shape.kind = Kind::Empty;
    }
    let pending = migrations::pending_mysql(connection).await?;
    let mut plan = UpgradePlan::default();
    let legacy = match shape.kind {
        Kind::Legacy => Some(read_legacy(connection, options, &shape, (&pending, &mut plan)).await?),
        Kind::Ours => {
            plan.lines.push("the database is this service's; it has no legacy tables".into());
            None
        }
        Kind::Empty => {
            plan.lines.push("the database is new; it has no legacy tables".into());
            None
        }
    };
    plan.add_migrations(&pending);
    Ok(Inspection { shape, plan, pending, legacy })
}

/// Reads everything that the conversion depends on, and refuses a database that can't be
/// converted.
async fn read_legacy(
    connection: &mut MySqlConnection,
    options: &UpgradeOptions,
    shape: &Shape,
    (pending, plan): (&[&str], &mut UpgradePlan),
) -> Result<Reading, StoreError> {
    if Server::of(connection).await? == Server::TiDb {
        return Err(refused(&["TiDB can't change the primary keys of tables: convert the database on MySQL or \
            MariaDB, and import it into TiDB then"
            .into()]));
    }
    execute(connection, LIMITS).await?;
    let begun = if shape.has_progress { progress::begun(connection).await? } else { None };
    let zone = match &begun {
        Some(begun) => begun.legacy_zone(options)?,
        None => options.legacy_zone.zone.clone().map_err(|why| {
            refused(&[format!(
                "the time zone of the legacy times is unknown ({}): {why}; set data.database.legacy_zone or --legacy-zone",
                options.legacy_zone.found
            )])
        })?,
    };
    let billing_zone = begun.as_ref().map_or(Ok(options.billing_zone), |begun| begun.billing_zone(options))?;
    let reading = Reading {
        zone,
        billing_zone,
        session: options.legacy_zone.session.clone().unwrap_or_else(|| "@@GLOBAL.time_zone".into()),
        times: Times::new(zone, billing_zone, Utc::now()),
        begun,
    };
    in_zone(connection, &reading.session).await?;
    check::refusals(connection, shape, reading.begun.is_some()).await?;
    if reading.begun.is_none() && !pending.contains(&migrations::FIRST_OWN) {
        return Err(refused(&[
            "the tables are legacy tables, but the migrations have run already, because a backup was \
        restored over a converted database: restore it into an empty database"
                .into(),
        ]));
    }
    let books = Books::read(connection, shape, &reading).await?;
    plan::describe(plan, shape, &reading, &options.legacy_zone.found, &books);
    in_zone(connection, OUR_ZONE).await?;
    Ok(reading)
}

async fn take_over(connection: &mut MySqlConnection, found: &Inspection, lock: &SchemaLock) -> Result<(), StoreError> {
    let Some(reading) = &found.legacy else { return Ok(()) };
    if reading.begun.is_none() {
        progress::begin(connection, reading.zone, reading.billing_zone).await?;
    }
    // Once users are done, the columns are done too, and their times are UTC already.
    if reading.begun.as_ref().is_none_or(|begun| begun.last_user.is_none()) {
        columns::normalise(connection, &found.shape, reading).await?;
    }
    migrate(connection, lock).await?;
    columns::ensure_one_order_a_payment(connection).await?;
    users::take_over(connection, reading).await?;
    users::forbid_records_without_a_day(connection).await?;
    // Statements begin with the first full month from now.
    execute(connection, TAKEN_OVER).await?;
    progress::forget(connection).await
}

/// In place of the time that the migration noted: the opening entries have the time of this run.
const TAKEN_OVER: &str = "INSERT INTO legacy_takeover (only_row, taken_over_at) VALUES (1, UTC_TIMESTAMP(6)) \
                          ON DUPLICATE KEY UPDATE taken_over_at = VALUES(taken_over_at)";
