//! Jobs that go through all users.

use anyhow::ensure;

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
    let took = run(context, "audit", Below(300.0), Bound::None).await?;
    ensure!(took.said.ends_with(" 0 differences"), "{}", took.said);
    Ok(())
}

/// Of a rollup that is right.
///
/// # Errors
/// It is not.
pub async fn rebuild_rollup(context: &mut Context<'_>) -> anyhow::Result<()> {
    let took = run(context, "rebuild-rollup", Bound::None, Bound::None).await?;
    ensure!(took.said.contains(" 0 differing"), "{}", took.said);
    Ok(())
}

async fn run(context: &mut Context<'_>, job: &str, time: Bound, peak: Bound) -> anyhow::Result<process::Took> {
    let conf = process::configure(context.mariadb, LARGE, context.folder)?;
    let took = process::run_job(job, &conf, &[]).await?;
    context.report.add(format!("{job}: time"), took.time.as_secs_f64(), "s", time);
    context.report.add(format!("{job}: peak memory"), took.peak, "MiB", peak);
    Ok(took)
}
