//! The reads of the front end, alternating between much data and little data.

use std::time::Instant;

use billing_service::service::proto::{
    GetAccountRequest, GetStatsMonthRequest, GetStatsSummaryRequest, GetStatsTodayRequest, GetUsageRequest,
    ListRecordsRequest, billing_service_client::BillingServiceClient,
};
use tonic::transport::Channel;

use super::{Context, LARGE, SMALL};
use crate::{
    data::{Seeded, Size, user_id},
    process::{Server, configure, run_job},
    report::{Bound, quantile},
};

/// Calls of each kind per database.
const CALLS: usize = 2_000;

const KINDS: [&str; 6] = ["account", "stats today", "stats month", "stats summary", "usage", "records"];

/// Measures the reads.
///
/// # Errors
/// A server does not start, or refuses a call.
pub async fn reads(context: &mut Context<'_>) -> anyhow::Result<()> {
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    for database in [LARGE, SMALL] {
        let conf = configure(context.mariadb, database, context.folder)?;
        // Open the month of all accounts first; otherwise the first read would open it.
        run_job("reset-quotas", &conf, &[]).await?;
        let server = Server::start(&conf).await?;
        clients.push(BillingServiceClient::connect(server.grpc.clone()).await?);
        servers.push(server);
    }
    let sizes = [context.large, context.small];
    for whose in ["users", "heavy users"] {
        // The times by kind and by database.
        let mut times = vec![[const { Vec::new() }; 2]; KINDS.len()];
        let mut seeded = Seeded::of(context.large.seed, 1);
        for call in 0..CALLS + CALLS / 10 {
            for (kind, times) in times.iter_mut().enumerate() {
                for (which, client) in clients.iter_mut().enumerate() {
                    let user = pick(sizes[which], whose, &mut seeded);
                    let begun = Instant::now();
                    read(client, kind, user).await?;
                    if call >= CALLS / 10 {
                        times[which].push(begun.elapsed().as_secs_f64() * 1_000.0);
                    }
                }
            }
        }
        for (name, [large, small]) in KINDS.iter().zip(&mut times) {
            let (p50, p99, of_small) = (quantile(large, 0.5), quantile(large, 0.99), quantile(small, 0.5));
            context.report.add(format!("{name} of {whose}: p50"), p50, "ms", Bound::Below(5.0));
            context.report.add(format!("{name} of {whose}: p99"), p99, "ms", Bound::None);
            context.report.add(
                format!("{name} of {whose}: p50, times that of little data"),
                p50 / of_small,
                "",
                Bound::Below(1.5),
            );
        }
    }
    Ok(())
}

fn pick(size: &Size, whose: &str, seeded: &mut Seeded) -> String {
    let heavy = size.heavy_users();
    match whose {
        "users" => user_id(1 + heavy + seeded.below(size.users - 1 - heavy)),
        _ => user_id(1 + seeded.below(heavy)),
    }
}

async fn read(client: &mut BillingServiceClient<Channel>, kind: usize, user_id: String) -> Result<(), tonic::Status> {
    match KINDS[kind] {
        "account" => client.get_account(GetAccountRequest { user_id }).await.map(drop),
        "stats today" => client.get_stats_today(GetStatsTodayRequest { user_id, ..Default::default() }).await.map(drop),
        "stats month" => client.get_stats_month(GetStatsMonthRequest { user_id, ..Default::default() }).await.map(drop),
        "stats summary" => client.get_stats_summary(GetStatsSummaryRequest { user_id }).await.map(drop),
        "usage" => client.get_usage(GetUsageRequest { user_id, ..Default::default() }).await.map(drop),
        _ => client.list_records(ListRecordsRequest { user_id, ..Default::default() }).await.map(drop),
    }
}
