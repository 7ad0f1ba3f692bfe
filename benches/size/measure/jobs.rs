//! Jobs that go through all users.

use anyhow::ensure;
use sqlx::{Connection, MySqlConnection};

use super::{Context, LARGE};
use crate::{
    data, process,
    report::Bound::{self, Below},
};

/// Opens two months for all users, who have neither but for what the data need.
///
/// # Errors
/// The job fails.
pub async fn reset_quotas(context: &mut Context<'_>) -> anyhow::Result<()> {
    data::restore_quotas(context.mariadb, LARGE).await?;
    let took = run(context, "reset-quotas", Below(120.0), Below(100.0)).await?;
    ensure!(took.said.contains(" 0 failed"), "{}", took.said);
    Ok(())
}

/// # Errors
/// The books do not balance.
pub async fn audit(context: &mut Context<'_>) -> anyhow::Result<()> {
    let took = run(context, "audit", Below(300.0), Below(100.0)).await?;
    ensure!(took.said.ends_with(" 0 differences"), "{}", took.said);
    Ok(())
}

/// Of a rollup that is right, and of one that is lost for a hundred users, heavy ones among
/// them.
///
/// # Errors
/// It is not made right.
pub async fn rebuild_rollup(context: &mut Context<'_>) -> anyhow::Result<()> {
    let took = run(context, "rebuild-rollup", Bound::None, Below(100.0)).await?;
    ensure!(took.said.contains(" 0 differing"), "{}", took.said);
    let mut connection = MySqlConnection::connect(&context.mariadb.url(LARGE)).await?;
    sqlx::raw_sql("DELETE FROM usage_daily WHERE user_id < 'user00000100'").execute(&mut connection).await?;
    connection.close().await?;
    let again = run(context, "rebuild-rollup of 100 lost", Bound::None, Below(100.0)).await?;
    ensure!(again.said.contains(" 100 differing"), "{}", again.said);
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
