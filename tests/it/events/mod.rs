//! Events: each once, with its data, in the order of the commits.

mod deaths;
pub mod feed;
pub mod gate;
mod kills;
mod months;
mod pages;
pub mod rounds;
mod servers;
mod stops;
mod stored;
mod types;

use std::collections::BTreeSet;

use billing_service::service::proto::{
    BillingEvent, ListEventsRequest, ReserveQuotaRequest, SetAlertsReply, SetAlertsRequest,
};
use rstest::rstest;
use serde_json::{Value, json};
use tonic::{Code, transport::Channel};

use crate::{
    account_status::set_status,
    harness::{
        Backend, MySql, Service, Sqlite, caller::Client, charge, code_of, process::ServerProcess, traced, wait::until,
    },
    refunds::refund,
};

pub async fn set_alerts(client: &Client, user: &str, balance_below: &[f64], quota_percent: &[i32]) -> SetAlertsReply {
    let request = SetAlertsRequest {
        user_id: user.into(),
        balance_below: balance_below.into(),
        quota_percent: quota_percent.into(),
        ..Default::default()
    };
    client.clone().set_alerts(request).await.unwrap().into_inner()
}

/// Reads the feed from a cursor to its end, in pages of `limit`. Returns the events and the cursor behind them.
pub async fn read_on(client: &Client, after: &str, limit: i32) -> (Vec<BillingEvent>, String) {
    let (mut events, mut after) = (Vec::new(), after.to_owned());
    loop {
        let request = ListEventsRequest { after: after.clone(), limit, ..Default::default() };
        let page = client.clone().list_events(request).await.unwrap().into_inner();
        assert!(page.events.len() <= limit as usize);
        events.extend(page.events);
        after = page.next;
        if !page.has_more {
            return (events, after);
        }
    }
}

pub async fn all(client: &Client) -> Vec<BillingEvent> {
    read_on(client, "", 100).await.0
}

/// The events of a user.
pub async fn events_of(client: &Client, user: &str) -> Vec<BillingEvent> {
    let request = ListEventsRequest { user_id: user.into(), limit: 1_000, ..Default::default() };
    client.clone().list_events(request).await.unwrap().into_inner().events
}

async fn client_of(server: &ServerProcess) -> Client {
    Client::new(Channel::from_shared(server.grpc.clone()).unwrap().connect().await.unwrap())
}

pub fn data(event: &BillingEvent) -> Value {
    serde_json::from_str(&event.data).unwrap()
}

pub fn types(events: &[BillingEvent]) -> Vec<&str> {
    events.iter().map(|event| event.r#type.as_str()).collect()
}

#[rstest]
#[tokio::test]
async fn each_change_leaves_its_event_in_the_order_of_the_commits(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 10.0).await;
    let alerts = set_alerts(&service.internal, "u", &[9.0, 2.0], &[50]).await;
    assert_eq!((alerts.changed, alerts.balance_below, alerts.quota_percent), (true, vec![2.0, 9.0], vec![50]));
    assert!(!set_alerts(&service.internal, "u", &[2.0, 9.0], &[50]).await.changed);
    service.deduct(traced("free", charge("u", "asset", 500))).await;
    service.deduct(traced("mixed", charge("u", "asset", 600))).await;
    service.deduct(traced("mixed", charge("u", "asset", 600))).await;
    let refused = service.try_deduct(traced("dear", charge("u", "asset", 5_000))).await.unwrap_err();
    assert_eq!(code_of(&refused).1, "10001");
    service.try_deduct(traced("dear", charge("u", "asset", 5_000))).await.unwrap_err();
    service.internal.clone().refund_charge(refund("u", "mixed", "r", None)).await.unwrap();
    service.internal.clone().refund_charge(refund("u", "mixed", "r", None)).await.unwrap();
    set_status(&service.internal, "u", "FROZEN").await;
    set_status(&service.internal, "u", "FROZEN").await;

    let events = all(&service.internal).await;
    let shown: Vec<_> = events.iter().map(|event| (event.r#type.as_str(), data(event))).collect();
    assert_eq!(
        shown,
        [
            (
                "quota.threshold",
                json!({"user_id": "u", "quota": "free", "service_name": "asset",
                    "month": service.account("u").await.quotas[0].reset_month, "percent": 50, "used": 500, "limit": 1000})
            ),
            ("balance.low", json!({"user_id": "u", "threshold": "9", "balance": "5"})),
            (
                "balance.exhausted",
                json!({"user_id": "u", "refused": "charge", "service_name": "asset", "needed": "250", "available": "5",
                    "trace_id": "dear"})
            ),
            (
                "charge.refunded",
                json!({"user_id": "u", "refund_id": "r", "trace_id": "mixed", "amount": "5", "free_count": 500,
                    "paid_count": 100, "balance": "10"})
            ),
            ("account.status", json!({"user_id": "u", "before": "ACTIVE", "after": "FROZEN"})),
        ]
    );
    let ids: BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids.len(), events.len());
    assert!(events.iter().all(|event| event.user_id == "u" && event.created_at.is_some()));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_refused_check_leaves_one_event_until_the_next_credit(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.use_up_free_quota("u", "asset").await;
    let exhausted = async || {
        let events = all(&service.internal).await;
        events.iter().filter(|event| event.r#type == "balance.exhausted").count()
    };
    for refill in 1..=2 {
        for _ in 0..20 {
            assert!(!service.check("u", "asset", 1_000).await.allowed);
        }
        until("the refusal is noted", async || exhausted().await >= refill).await;
        for _ in 0..20 {
            assert!(!service.check("u", "asset", 1_000).await.allowed);
        }
        service.try_deduct(charge("u", "asset", 1_000)).await.unwrap_err();
        assert_eq!(exhausted().await, refill);
        service.adjust("u", 1.0).await;
    }
}

#[tokio::test]
async fn bad_alerts_are_named() {
    let service = Service::start(Sqlite).await;
    let request = |balance_below: Vec<f64>, quota_percent: Vec<i32>, use_defaults| SetAlertsRequest {
        user_id: "u".into(),
        balance_below,
        quota_percent,
        use_defaults,
        ..Default::default()
    };
    for (bad, field) in [
        (request(vec![-1.0], vec![], false), "balance_below"),
        (request(vec![1.0; 11], vec![], false), "balance_below"),
        (request(vec![], vec![0], false), "quota_percent"),
        (request(vec![], vec![300], false), "quota_percent"),
        (request(vec![], vec![50], true), "use_defaults"),
    ] {
        let refused = service.internal.clone().set_alerts(bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{}", refused.message());
    }
    let reset = service.internal.clone().set_alerts(request(vec![], vec![], true)).await.unwrap().into_inner();
    assert_eq!((reset.changed, reset.quota_percent), (false, vec![50, 80, 100]));
    let body = json!({"balance_below": [1.5, 0.5], "quota_percent": [90], "reason": "asked"}).to_string();
    let (status, reply) = service.post("/internal/v1/billing/users/u/alerts", body).await;
    assert_eq!(
        (status, reply),
        (200, json!({"success": true, "balance_below": [0.5, 1.5], "quota_percent": [90], "changed": true}))
    );
    let reserve =
        ReserveQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: 1, ..Default::default() };
    service.internal.clone().reserve_quota(reserve).await.unwrap();
}
