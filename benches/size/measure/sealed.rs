//! The nightly audit behind sealed history, with new charges of random users.

use anyhow::ensure;
use billing_service::service::proto::{
    BatchDeductQuotaRequest, DeductQuotaRequest, billing_internal_service_client::BillingInternalServiceClient,
};

use super::{Context, LARGE};
use crate::{
    data::{Seeded, user_id},
    process::{self, Server, configure},
    report::Bound::{self, Below},
};

/// New charges, and the items of a call.
const CHARGES: usize = 100_000;
const ITEMS: usize = 500;

/// Measures the seals of the whole history, and both audits behind them. The history must end in a month that may be
/// sealed; see the option `--months-ago`.
///
/// # Errors
/// A job fails, or an audit finds differences.
pub async fn sealed(context: &mut Context<'_>) -> anyhow::Result<()> {
    let conf = configure(context.mariadb, LARGE, context.folder)?;
    let took = process::run_job("seal-months", &conf, &[]).await?;
    ensure!(took.last_line.ends_with(" 0 with differences left"), "{}", took.last_line);
    context.report.add("seal-months: time", took.time.as_secs_f64(), "s", Bound::None);
    context.report.add("seal-months: peak memory", took.peak, "MiB", Below(200.0));
    let server = Server::start(&conf).await?;
    let mut client = BillingInternalServiceClient::connect(server.grpc.clone()).await?;
    let mut seeded = Seeded::of(context.large.seed, 2);
    for _ in 0..CHARGES / ITEMS {
        let charge = |_| DeductQuotaRequest {
            user_id: user_id(seeded.below(context.large.users)),
            service_name: "asset".into(),
            count: 1,
            ..Default::default()
        };
        let items: Vec<_> = (0..ITEMS).map(charge).collect();
        client.batch_deduct_quota(BatchDeductQuotaRequest { items }).await?;
    }
    drop(server);
    for (name, job, time) in
        [("audit behind seals", "audit", Below(10.0)), ("whole audit with seals", "audit --full", Below(900.0))]
    {
        let took = process::run_job(job, &conf, &[]).await?;
        ensure!(took.last_line.ends_with(" 0 differences"), "{}", took.last_line);
        context.report.add(format!("{name}: time"), took.time.as_secs_f64(), "s", time);
        context.report.add(format!("{name}: peak memory"), took.peak, "MiB", Below(200.0));
    }
    Ok(())
}
