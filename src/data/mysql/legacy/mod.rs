//! Brings a database up to date, also one of the service this one replaces, which becomes
//! ours in place.
//!
//! What the legacy service left differs from place to place, so it is looked at first
//! (`inspect`), refused if it can't be taken over (`check`), and told in a plan (`plan`).
//! Then its columns get our names and types (`columns`), the numbered migrations run, and
//! every user's times, days, rollup and opening entries are written (`users`,
//! `openings`), as the zones have it (`times`). MySQL commits at every change of a table,
//! so each of these looks at what is there, or at `former_upgrade` (`progress`), and goes
//! on where a process that was killed stopped.

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

/// What bringing a schema up to date has to know beside the database.
#[derive(Debug, Clone)]
pub struct Settings {
    pub legacy_zone: LegacyZone,
    pub billing_zone: Tz,
}

/// Brings the schema up to date, one process at a time. `announce` is told the plan
/// before anything is changed.
pub(super) async fn bring_up_to_date(
    connection: &mut MySqlConnection,
    settings: &Settings,
    announce: &Announce,
) -> Result<(), StoreError> {
    migrations::lock_mysql(connection).await?;
    // The lock goes with the connection.
    let shape = inspect::shape(connection).await?;
    let found = look(connection, settings, shape).await?;
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

/// What [`bring_up_to_date`] would do. Changes nothing.
pub(super) async fn plan(connection: &mut MySqlConnection, settings: &Settings) -> Result<Plan, StoreError> {
    let shape = inspect::shape(connection).await?;
    Ok(look(connection, settings, shape).await?.plan)
}

/// What was found, and what is to be done about it.
struct Found {
    shape: Shape,
    plan: Plan,
    /// Of a database of the legacy service.
    legacy: Option<Reading>,
}

/// How the rows of the legacy service are read.
struct Reading {
    zone: Tz,
    billing_zone: Tz,
    /// Its sessions' `time_zone`, as SQL: in which TIMESTAMP columns show what it stored.
    session: String,
    times: Times,
    begun: Option<Begun>,
}

async fn look(connection: &mut MySqlConnection, settings: &Settings, shape: Shape) -> Result<Found, StoreError> {
    let pending = migrations::pending_mysql(connection).await?;
    let mut plan = Plan::default();
    let legacy = match shape.kind {
        Kind::Legacy => Some(read_legacy(connection, settings, &shape, (&pending, &mut plan)).await?),
        Kind::Ours => {
            plan.lines.push("the database is this service's: there is nothing of the legacy service in it".into());
            None
        }
        Kind::Empty => {
            plan.lines.push("the database has none of the tables: there is nothing of the legacy service in it".into());
            None
        }
    };
    plan.add_migrations(&pending);
    Ok(Found { shape, plan, legacy })
}

/// Reads all that decides whether and how, before anything is changed.
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
                "the zone of its times is not known ({}): {why} with data.database.legacy_zone or --legacy-zone",
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
        return Err(refused(&["the tables are the legacy service's, but its upgrade was made before: a backup was \
            restored over it. Restore it into an empty database"
            .into()]));
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
    // Whoever has users done has had the columns done before, and has times in UTC now.
    if reading.begun.as_ref().is_none_or(|begun| begun.last_user.is_none()) {
        columns::normalise(connection, &found.shape, reading).await?;
    }
    migrations::run_mysql(connection).await?;
    columns::ensure_one_order_a_payment(connection).await?;
    users::take_over(connection, reading).await?;
    users::forbid_records_without_a_day(connection).await?;
    progress::forget(connection).await
}

/// An upgrade takes the time it takes, and sorts much. What waits for a table that others
/// use gives up.
const LIMITS: &str = "SET SESSION lock_wait_timeout = 60, sort_buffer_size = 33554432 /*M! , max_statement_time = 0 */ \
    /*!50708 , max_execution_time = 0 */";
const OUR_ZONE: &str = "'+00:00'";

/// Shows TIMESTAMP columns by the clocks of `zone`, which is SQL.
async fn in_zone(connection: &mut MySqlConnection, zone: &str) -> Result<(), StoreError> {
    execute(connection, format!("SET SESSION time_zone = {zone}")).await
}

/// Why a database stays as it is.
fn refused(reasons: &[String]) -> StoreError {
    StoreError::Failed(format!(
        "the legacy service's tables can't be taken over, and nothing was changed:\n  {}",
        reasons.join("\n  ")
    ))
}

async fn execute(connection: &mut MySqlConnection, sql: impl Into<String>) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(connection).await.map(|_| ()).map_err(store_error)
}
