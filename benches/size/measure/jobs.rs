//! The jobs that process all users.

use anyhow::ensure;
use sqlx::{Connection, MySqlConnection};

use super::{Context, LARGE};
use crate::{
    data, process,
    report::Bound::{self, Below},
};

/// Measures the opening of two months for all users. The data contain few rows of these months.
///
/// # Errors
/// The job fails.
pub async fn reset_quotas(context: &mut Context<'_>) -> anyhow::Result<()> {
    data::restore_quotas(context.mariadb, LARGE).await?;
    let took = run(context, "reset-quotas", Below(120.0), Below(100.0)).await?;
    ensure!(took.last_line.contains(" 0 failed"), "{}", took.last_line);
    Ok(())
}

/// Measures the nightly audit without any before it, and one that follows a run of yesterday without a difference.
///
/// # Errors
/// An audit finds differences.
pub async fn audit(context: &mut Context<'_>) -> anyhow::Result<()> {
    let mut connection = MySqlConnection::connect(&context.mariadb.url(LARGE)).await?;
    sqlx::raw_sql("DELETE FROM job_run WHERE job = 'audit'").execute(&mut connection).await?;
    let took = run(context, "audit", Below(300.0), Below(100.0)).await?;
    ensure!(took.last_line.ends_with(" 0 differences"), "{}", took.last_line);
    // Only runs of the schedule are stored.
    let ran = "INSERT INTO job_run (job, period, position, started_at, finished_at) \
               SELECT 'audit', DATE_FORMAT(at, '%Y-%m-%dT%H:%i:%sZ'), '0 0 user', at, at \
               FROM (SELECT UTC_TIMESTAMP() - INTERVAL 1 DAY AS at) yesterday";
    sqlx::raw_sql(ran).execute(&mut connection).await?;
    connection.close().await?;
    let took = run(context, "audit after a clean one", Bound::None, Below(100.0)).await?;
    ensure!(took.last_line.ends_with(" 0 differences"), "{}", took.last_line);
    Ok(())
}

/// Measures the rebuild of a correct rollup, and of one that lacks the rows of a hundred users,
/// some of them with thousands of records.
///
/// # Errors
/// The number of rebuilt users is wrong.
pub async fn rebuild_rollup(context: &mut Context<'_>) -> anyhow::Result<()> {
    let took = run(context, "rebuild-rollup", Bound::None, Below(100.0)).await?;
    ensure!(took.last_line.contains(" 0 differing"), "{}", took.last_line);
    let mut connection = MySqlConnection::connect(&context.mariadb.url(LARGE)).await?;
    sqlx::raw_sql("DELETE FROM usage_daily WHERE user_id < 'user00000100'").execute(&mut connection).await?;
    connection.close().await?;
    let again = run(context, "rebuild-rollup of 100 lost", Bound::None, Below(100.0)).await?;
    ensure!(again.last_line.contains(" 100 differing"), "{}", again.last_line);
    Ok(())
}

async fn run(context: &mut Context<'_>, name: &str, time: Bound, peak: Bound) -> anyhow::Result<process::Took> {
    let conf = process::configure(context.mariadb, LARGE, context.folder)?;
    let job = name.split(' ').next().unwrap_or(name);
    let took = process::run_job(job, &conf, &[]).await?;
    context.report.add(format!("{name}: time"), took.time.as_secs_f64(), "s", time);
    context.report.add(format!("{name}: peak memory"), took.peak, "MiB", peak);
    Ok(took)
}
