//! The feed of events: each once, in the order of the commits, and none missed by a reader that goes on.

use std::collections::{BTreeMap, BTreeSet};

use billing_service::service::proto::{
    BillingEvent, ListEventsRequest, ReserveQuotaRequest, SetAlertsReply, SetAlertsRequest,
};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, Row};
use tonic::{Code, transport::Channel};

use crate::{
    account_status::set_status,
    cache::processes::servers::pair,
    harness::{
        Backend, Database, MySql, Service, Sqlite,
        caller::Client,
        charge, code_of,
        payments::{Paying, success},
        process::ServerProcess,
        traced,
        wait::until,
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

async fn client_of(server: &ServerProcess) -> Client {
    Client::new(Channel::from_shared(server.grpc.clone()).unwrap().connect().await.unwrap())
}

fn data(event: &BillingEvent) -> Value {
    serde_json::from_str(&event.data).unwrap()
}

fn types(events: &[BillingEvent]) -> Vec<&str> {
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
async fn the_list_filters_by_type_and_user_and_its_cursor_goes_on(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for user in ["a", "b", "a", "b"] {
        set_status(&service.internal, user, "FROZEN").await;
        set_status(&service.internal, user, "ACTIVE").await;
    }
    service.use_up_free_quota("c", "asset").await;
    let (status, body) = service.internal_get("/internal/v1/billing/events?user_id=a&limit=3").await;
    assert_eq!((status, body["events"].as_array().unwrap().len(), &body["has_more"]), (200, 3, &json!(true)));
    let next = body["next"].as_str().unwrap();
    let (_, rest) = service.internal_get(&format!("/internal/v1/billing/events?user_id=a&limit=3&after={next}")).await;
    assert_eq!((rest["events"].as_array().unwrap().len(), &rest["has_more"]), (1, &json!(false)));
    let (_, typed) = service.internal_get("/internal/v1/billing/events?types=quota.threshold,month.closed").await;
    let percents: Vec<i64> = typed["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            serde_json::from_str::<Value>(event["data"].as_str().unwrap()).unwrap()["percent"].as_i64().unwrap()
        })
        .collect();
    assert_eq!(percents, [50, 80, 100]);
    // One page at a time shows the same as all at once.
    assert_eq!(read_on(&service.internal, "", 1).await.0, all(&service.internal).await);
    for bad in ["after=x", "types=none", "limit=1001", "limit=-1"] {
        assert_eq!(service.internal_get(&format!("/internal/v1/billing/events?{bad}")).await.0, 400, "{bad}");
    }
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
async fn an_event_that_becomes_visible_late_comes_behind_the_cursor() {
    let service = Service::start(MySql).await;
    set_status(&service.internal, "a", "FROZEN").await;
    let (first, cursor) = read_on(&service.internal, "", 100).await;
    assert_eq!(types(&first), ["account.status"]);
    // This transaction takes its number before the next one, and commits after it.
    let mut late = service.database.mysql().await;
    let mut transaction = late.begin().await.unwrap();
    transaction
        .execute(
            "INSERT INTO event (event_id, type, data, created_at) \
             VALUES ('01a1fdc0-db6d-77eb-953c-86aecbccde43', 'month.closed', '{}', UTC_TIMESTAMP(6))",
        )
        .await
        .unwrap();
    set_status(&service.internal, "b", "FROZEN").await;
    let (second, cursor) = read_on(&service.internal, &cursor, 100).await;
    assert_eq!(second.iter().map(|event| event.user_id.as_str()).collect::<Vec<_>>(), ["b"]);
    transaction.commit().await.unwrap();
    let (third, cursor) = read_on(&service.internal, &cursor, 100).await;
    assert_eq!(types(&third), ["month.closed"]);
    assert!(read_on(&service.internal, &cursor, 100).await.0.is_empty());
    let seqs = sqlx::query("SELECT seq FROM event ORDER BY position").fetch_all(&mut late).await.unwrap();
    let seqs: Vec<i64> = seqs.iter().map(|row| row.get(0)).collect();
    assert!(seqs[2] < seqs[1], "the late event has the lower number: {seqs:?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_beside_writers_on_two_servers_miss_nothing(#[values(MySql, Sqlite)] on: Backend) {
    const USERS: usize = 6;
    const CHANGES: usize = 15;
    let (one, other) = pair(on).await;
    let writers = (0..USERS).map(|user| {
        let server = if user % 2 == 0 { &one } else { &other };
        async move {
            for change in 0..CHANGES {
                let status = if change % 2 == 0 { "FROZEN" } else { "ACTIVE" };
                set_status(&server.internal, &format!("u{user}"), status).await;
            }
        }
    });
    let reader = async |client: &Client| {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        while seen.len() < USERS * CHANGES {
            let (events, next) = read_on(client, &cursor, 7).await;
            seen.extend(events);
            cursor = next;
        }
        seen
    };
    let (_, first, second) = tokio::join!(join_all(writers), reader(&one.internal), reader(&other.internal));
    assert_eq!(first, second);
    assert_eq!(first, all(&one.internal).await);
    let mut by_user: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for event in &first {
        by_user.entry(&event.user_id).or_default().push(data(event)["after"].clone());
    }
    for (user, states) in by_user {
        let expected: Vec<_> = (0..CHANGES).map(|change| if change % 2 == 0 { "FROZEN" } else { "ACTIVE" }).collect();
        assert_eq!(states, expected, "{user}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_threshold_fires_once_for_callers_of_two_servers_and_their_retries(#[values(MySql, Sqlite)] on: Backend) {
    let (one, other) = pair(on).await;
    one.use_up_free_quota("u", "asset").await;
    one.adjust("u", 2.0).await;
    set_alerts(&one.internal, "u", &[1.0], &[]).await;
    let calls = (0..80).map(|number| {
        let server = if number % 2 == 0 { &one } else { &other };
        // Each trace id comes twice, once to each server.
        server.try_deduct(traced(&format!("t{}", number / 2), charge("u", "asset", 1)))
    });
    for outcome in join_all(calls).await {
        outcome.unwrap();
    }
    assert_eq!(one.account("u").await.balance, 0.0);
    one.try_deduct(charge("u", "asset", 1)).await.unwrap_err();
    let events = all(&one.internal).await;
    let money: Vec<_> = types(&events).into_iter().filter(|kind| kind.starts_with("balance")).collect();
    assert_eq!(money, ["balance.low", "balance.exhausted"]);
}

#[rstest]
#[tokio::test]
async fn a_top_up_and_a_stray_payment_leave_events(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let order = paying.recharge("u", 20.0).await;
    paying.press(&order.payment_url, "SUCCESS").await;
    paying.until_order_is(&order.order_id, "success").await;
    for _ in 0..3 {
        let _ = paying.notify(success("no-such-order", "stray-1", 5.0)).await;
    }
    let events = all(&paying.service.internal).await;
    assert_eq!(types(&events), ["recharge.succeeded", "payment.unapplied"]);
    let credited = data(&events[0]);
    assert_eq!((&credited["order_id"], &credited["amount"]), (&json!(order.order_id), &json!("20")));
    assert_eq!((&credited["balance"], &credited["user_id"]), (&json!("20"), &json!("u")));
    assert_eq!(data(&events[1])["payment_order_id"], "stray-1");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_leaves_each_event_once(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(&[]);
    let mut seen = BTreeMap::new();
    let call = |round: usize, number: usize| traced(&format!("r{round}-{number}"), charge("u", "asset", 10));
    let mut server = ServerProcess::start_beside(&conf).await;
    for round in 0..4 {
        let client = client_of(&server).await;
        let calls = (0..25).map(|number| {
            let (mut client, call) = (client.clone(), call(round, number));
            async move { client.deduct_quota(call).await.is_ok() }
        });
        let calls = tokio::spawn(join_all(calls.collect::<Vec<_>>()));
        server.kill();
        calls.await.unwrap();
        server = ServerProcess::start_beside(&conf).await;
        let client = client_of(&server).await;
        for number in 0..25 {
            client.clone().deduct_quota(call(round, number)).await.unwrap();
        }
        for event in all(&client).await {
            seen.insert(event.id.clone(), data(&event)["percent"].clone());
        }
    }
    let percents: Vec<_> = seen.values().cloned().collect();
    assert_eq!(percents, [json!(50), json!(80), json!(100)]);
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
