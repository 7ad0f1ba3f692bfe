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
mod columns;
mod inspect;
mod openings;
mod plan;
mod progress;
mod times;
mod users;

use chrono::Utc;
use chrono_tz::Tz;
use sqlx::{AssertSqlSafe, MySqlConnection};

use self::{
    inspect::{Kind, Shape},
    plan::Books,
    progress::Begun,
    times::Times,
};
use super::store_error;
use crate::{
    biz::values::error::StoreError,
    data::{
        legacy_zone::LegacyZone,
        migrations,
        plan::{Announce, Plan},
    },
};

/// The settings of bringing a schema up to date.
#[derive(Debug, Clone)]
pub struct Settings {
    pub legacy_zone: LegacyZone,
    pub billing_zone: Tz,
}

/// Brings the schema up to date, one process at a time. `announce` receives the plan before
/// anything is changed.
pub(super) async fn bring_up_to_date(
    connection: &mut MySqlConnection,
    settings: &Settings,
    announce: &Announce,
) -> Result<(), StoreError> {
    migrations::lock_mysql(connection).await?;
    // Closing the connection releases the lock.
    let shape = inspect::shape(connection).await?;
    let found = inspect_and_plan(connection, settings, shape).await?;
    announce(&found.plan);
    match &found.shape.kind {
        Kind::Ours => migrations::run_mysql(connection).await?,
        Kind::Empty => {
            migrations::run_mysql(connection).await?;
            users::forbid_records_without_a_day(connection).await?;
        }
        Kind::Legacy => take_over(connection, &found).await?,
    }
    if found.shape.has_progress {
        progress::forget(connection).await?;
    }
    Ok(())
}

/// The plan of [`bring_up_to_date`]. Changes nothing.
pub(super) async fn plan(connection: &mut MySqlConnection, settings: &Settings) -> Result<Plan, StoreError> {
    let shape = inspect::shape(connection).await?;
    Ok(inspect_and_plan(connection, settings, shape).await?.plan)
}

/// The state of the database, and the plan for it.
struct Found {
    shape: Shape,
    plan: Plan,
    /// Present for a legacy database.
    legacy: Option<Reading>,
}

/// The settings for reading legacy rows.
struct Reading {
    zone: Tz,
    billing_zone: Tz,
    /// `time_zone` of the legacy sessions, as SQL. In it, TIMESTAMP columns show the stored times.
    session: String,
    times: Times,
    begun: Option<Begun>,
}

async fn inspect_and_plan(
    connection: &mut MySqlConnection,
    settings: &Settings,
    shape: Shape,
) -> Result<Found, StoreError> {
    let pending = migrations::pending_mysql(connection).await?;
    let mut plan = Plan::default();
    let legacy = match shape.kind {
        Kind::Legacy => Some(read_legacy(connection, settings, &shape, (&pending, &mut plan)).await?),
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
    Ok(Found { shape, plan, legacy })
}

/// Reads everything that the conversion depends on, and refuses a database that can't be
/// converted.
async fn read_legacy(
    connection: &mut MySqlConnection,
    settings: &Settings,
    shape: &Shape,
    (pending, plan): (&[&str], &mut Plan),
) -> Result<Reading, StoreError> {
    execute(connection, LIMITS).await?;
    let begun = if shape.has_progress { progress::begun(connection).await? } else { None };
    let zone = match &begun {
        Some(begun) => begun.legacy_zone(settings)?,
        None => settings.legacy_zone.zone.clone().map_err(|why| {
            refused(&[format!(
                "the time zone of the legacy times is unknown ({}): {why}; set data.database.legacy_zone or --legacy-zone",
                settings.legacy_zone.found
            )])
        })?,
    };
    let billing_zone = begun.as_ref().map_or(Ok(settings.billing_zone), |begun| begun.billing_zone(settings))?;
    let reading = Reading {
        zone,
        billing_zone,
        session: settings.legacy_zone.session.clone().unwrap_or_else(|| "@@GLOBAL.time_zone".into()),
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
    plan::describe(plan, shape, &reading, &settings.legacy_zone.found, &books);
    in_zone(connection, OUR_ZONE).await?;
    Ok(reading)
}

async fn take_over(connection: &mut MySqlConnection, found: &Found) -> Result<(), StoreError> {
    let Some(reading) = &found.legacy else { return Ok(()) };
    if reading.begun.is_none() {
        progress::begin(connection, reading.zone, reading.billing_zone).await?;
    }
    // Once users are done, the columns are done too, and their times are UTC already.
    if reading.begun.as_ref().is_none_or(|begun| begun.last_user.is_none()) {
        columns::normalise(connection, &found.shape, reading).await?;
    }
    migrations::run_mysql(connection).await?;
    columns::ensure_one_order_a_payment(connection).await?;
    users::take_over(connection, reading).await?;
    users::forbid_records_without_a_day(connection).await?;
    progress::forget(connection).await
}

/// A conversion has no time limit per statement, and sorts large tables. It waits for a table that
/// another session locks for 60 seconds.
const LIMITS: &str = "SET SESSION lock_wait_timeout = 60, sort_buffer_size = 33554432 /*M! , max_statement_time = 0 */ \
    /*!50708 , max_execution_time = 0 */";
const OUR_ZONE: &str = "'+00:00'";

/// Sets the session's zone, in which TIMESTAMP columns are shown. `zone` is SQL.
async fn in_zone(connection: &mut MySqlConnection, zone: &str) -> Result<(), StoreError> {
    execute(connection, format!("SET SESSION time_zone = {zone}")).await
}

/// The error of a refused conversion.
fn refused(reasons: &[String]) -> StoreError {
    StoreError::Failed(format!(
        "the legacy tables can't be converted; nothing was changed:\n  {}",
        reasons.join("\n  ")
    ))
}

async fn execute(connection: &mut MySqlConnection, sql: impl Into<String>) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(connection).await.map(|_| ()).map_err(store_error)
}
