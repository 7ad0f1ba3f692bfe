//! The first and the thousandth page of records, alternating, for the user with the most records.

use std::time::Instant;

use anyhow::ensure;
use billing_service::service::proto::{ListRecordsRequest, billing_service_client::BillingServiceClient};
use tonic::transport::Channel;

use super::{Context, LARGE};
use crate::{
    data::user_id,
    process::{Server, configure},
    report::{Bound, quantile},
};

const CALLS: usize = 1_000;
const DEEP: usize = 1_000;

/// Measures the pages.
///
/// # Errors
/// The server does not start, or there are too few pages.
pub async fn pages(context: &mut Context<'_>) -> anyhow::Result<()> {
    let server = Server::start(&configure(context.mariadb, LARGE, context.folder)?).await?;
    let mut client = BillingServiceClient::connect(server.grpc.clone()).await?;
    for page_size in [20, 100] {
        let mut request = ListRecordsRequest { user_id: user_id(0), page_size, ..Default::default() };
        let first = request.clone();
        for page in 1..DEEP {
            let reply = client.list_records(request.clone()).await?.into_inner();
            ensure!(!reply.next_page_token.is_empty(), "page {page} is the last");
            request.page_token = reply.next_page_token;
        }
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..CALLS {
            times[0].push(list(&mut client, &first).await?);
            times[1].push(list(&mut client, &request).await?);
        }
        let [first, deep] = times.map(|mut times| quantile(&mut times, 0.5));
        let name = format!("pages of {page_size} records");
        context.report.add(format!("{name}: the first, p50"), first, "ms", Bound::None);
        context.report.add(format!("{name}: the thousandth, p50"), deep, "ms", Bound::None);
        context.report.add(format!("{name}: the thousandth, times the first"), deep / first, "", Bound::Below(2.0));
    }
    Ok(())
}

async fn list(client: &mut BillingServiceClient<Channel>, request: &ListRecordsRequest) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let reply = client.list_records(request.clone()).await?.into_inner();
    ensure!(reply.records.len() == request.page_size as usize, "a page is not full");
    Ok(begun.elapsed().as_secs_f64() * 1_000.0)
}
