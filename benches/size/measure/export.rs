//! The CSV export of one month, for the user with the most records.

use std::time::Instant;

use anyhow::ensure;
use chrono::Months;

use super::{Context, LARGE};
use crate::{
    data::{charges_of, user_id},
    process::{Server, configure},
    report::Bound,
};

/// Measures the export.
///
/// # Errors
/// The export ends early, or lacks records.
pub async fn export(context: &mut Context<'_>) -> anyhow::Result<()> {
    let server = Server::start(&configure(context.mariadb, LARGE, context.folder)?).await?;
    let month = context.large.month;
    let (from, to) = (month - Months::new(1), month.pred_opt().unwrap_or(month));
    let url = format!("{}/api/v1/billing/records.csv?user_id={}&from={from}&to={to}", server.http, user_id(0));
    server.forget_peak()?;
    let before = server.peak()?;
    let begun = Instant::now();
    let mut reply = reqwest::get(url).await?.error_for_status()?;
    let mut lines = 0;
    while let Some(part) = reply.chunk().await? {
        lines += part.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let records = charges_of(0, context.large);
    ensure!(lines == records + 1, "{lines} lines for {records} records");
    context.report.add("export of a month: records", records as f64, "", Bound::None);
    context.report.add("export of a month: rate", records as f64 / seconds, "rows/s", Bound::Above(50_000.0));
    context.report.add("export of a month: server's peak memory", server.peak()?, "MiB", Bound::None);
    context.report.add("export of a month: more than before", server.peak()? - before, "MiB", Bound::Below(32.0));
    Ok(())
}
