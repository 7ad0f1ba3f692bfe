//! Price versions on several servers, and changes whose read fails.

use billing_service::{
    app::App,
    biz::values::calendar::Clock,
    service::proto::{
        DeletePriceVersionRequest, QuotePriceRequest, billing_internal_service_client::BillingInternalServiceClient,
    },
};
use chrono::TimeDelta;
use rstest::rstest;
use tonic::transport::Channel;

use super::{
    models::{MODELS, put},
    tokens,
};
use crate::harness::{Backend, MySql, Service, Sqlite, wait::until};

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_uses_a_version_after_its_next_read(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    let clock = service.clock.clone();
    let second = App::start_with_clock(service.database.config(MODELS), clock.clone()).await.unwrap();
    let client = BillingInternalServiceClient::connect(format!("http://{}", second.grpc_addr)).await.unwrap();
    let quoted_by = async |client: &BillingInternalServiceClient<Channel>| {
        let request = QuotePriceRequest {
            service_name: "rag".into(),
            model: "m".into(),
            usage: tokens(1_000_000, 0, 0),
            ..Default::default()
        };
        client.clone().quote_price(request).await.ok().map(|reply| reply.into_inner().amount)
    };
    let quoted = async || quoted_by(&client).await;
    assert_eq!(quoted().await, None);
    let now = clock.now();
    service.put(put("m", "v1", now, 2.0)).await.unwrap();
    until("the second server has the version", async || quoted().await == Some(2.0)).await;
    // One that is to come is deleted again, and does not count on either server.
    service.put(put("m", "v2", now + TimeDelta::hours(1), 3.0)).await.unwrap();
    service.put(put("m", "v3", now + TimeDelta::hours(2), 4.0)).await.unwrap();
    let delete = DeletePriceVersionRequest { model: "m".into(), version_id: "v2".into() };
    assert!(client.clone().delete_price_version(delete).await.unwrap().into_inner().changed);
    clock.advance(TimeDelta::minutes(90));
    assert_eq!(quoted().await, Some(2.0));
    until("the first server has the deletion", async || quoted_by(&service.internal).await == Some(2.0)).await;
    clock.advance(TimeDelta::minutes(90));
    until("the second server has the last version", async || quoted().await == Some(4.0)).await;
    second.stop().await;
}

/// The change is made, so its reply says so, whatever becomes of the read after it.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_succeeds_although_the_read_after_it_fails(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    let rename = |from: &str, to: &str| match on {
        MySql => format!("ALTER TABLE price_version RENAME COLUMN {from} TO {to}"),
        Sqlite => format!("ALTER TABLE price_change RENAME COLUMN {from} TO {to}"),
    };
    let column = if on == MySql { "changed_at" } else { "changes" };
    service.database.execute(&rename(column, "elsewhere")).await;
    let to_come = put("m", "v1", service.clock.now() + TimeDelta::hours(1), 2.0);
    for changed in [true, false] {
        assert_eq!(service.put(to_come.clone()).await.unwrap(), changed);
    }
    assert!(service.delete("m", "v1").await.unwrap());
    service.put(to_come).await.unwrap();
    service.database.execute(&rename("elsewhere", column)).await;
    service.clock.advance(TimeDelta::hours(2));
    service.until_input_costs("m", Some(2.0)).await;
}
