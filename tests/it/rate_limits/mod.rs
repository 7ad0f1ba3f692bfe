//! Rate limits of users and API keys: of one process, and in `shared` of all processes.

mod shared;

use std::time::Duration;

use billing_service::{
    config::Config,
    service::proto::{CheckQuotaReply, CheckQuotaRequest, ReserveQuotaReply, ReserveQuotaRequest},
};
use chrono::TimeDelta;
use futures_util::future::join_all;
use reqwest::header::RETRY_AFTER;
use rstest::rstest;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{Backend, Database, MySql, Service, Sqlite, charge, code_of};

const USER_MINUTE: &str = "billing.rate_limits.user.minute";
const KEY_MINUTE: &str = "billing.rate_limits.api_key.minute";

/// A server without Redis, because a test can't move the clock of Redis.
async fn alone(on: Backend, changes: &[(&str, &str)]) -> Service {
    let mut database = Database::create(on).await;
    database.redis = None;
    Service::start_on(database, changes).await
}

async fn check(service: &Service, user: &str, key: &str) -> CheckQuotaReply {
    let request = CheckQuotaRequest {
        user_id: user.into(),
        service_name: "asset".into(),
        count: 1,
        api_key_id: key.into(),
        ..Default::default()
    };
    service.internal.clone().check_quota(request).await.unwrap().into_inner()
}

async fn reserve(service: &Service, user: &str, trace: &str) -> Result<ReserveQuotaReply, Status> {
    let request = ReserveQuotaRequest {
        user_id: user.into(),
        service_name: "asset".into(),
        count: 1,
        trace_id: trace.into(),
        ..Default::default()
    };
    service.internal.clone().reserve_quota(request).await.map(|reply| reply.into_inner())
}

fn allowed(reply: CheckQuotaReply) {
    assert_eq!((reply.reason.as_str(), reply.retry_after_ms), ("free", None), "{reply:?}");
}

/// The retry time of a refusal. It must be in `range`.
fn refused(reply: CheckQuotaReply, range: std::ops::RangeInclusive<i32>) -> TimeDelta {
    assert_eq!((reply.allowed, reply.reason.as_str(), reply.error_code.as_str()), (false, "rate limit", "10002"));
    let retry_after_ms = reply.retry_after_ms.unwrap();
    assert!(range.contains(&retry_after_ms), "{retry_after_ms}");
    TimeDelta::milliseconds(retry_after_ms.into())
}

/// Like [`refused`], for an error.
fn refused_reserve(answer: Result<ReserveQuotaReply, Status>, range: std::ops::RangeInclusive<i32>) -> TimeDelta {
    let status = answer.unwrap_err();
    assert_eq!(code_of(&status), (Code::ResourceExhausted, "10002".into()));
    assert_eq!(status.message(), "the rate limit is reached");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "INSUFFICIENT_QUOTA");
    let retry_after_ms: i32 = details.error_info().unwrap().metadata["retry_after_ms"].parse().unwrap();
    assert!(range.contains(&retry_after_ms), "{retry_after_ms}");
    let delay = details.retry_info().unwrap().retry_delay.unwrap();
    assert_eq!(delay.as_micros().div_ceil(1_000), retry_after_ms as u128);
    TimeDelta::milliseconds(retry_after_ms.into())
}

#[rstest]
#[tokio::test]
async fn above_the_limit_checks_are_refused_until_the_retry_time(#[values(MySql, Sqlite)] on: Backend) {
    let service = alone(on, &[(USER_MINUTE, "3")]).await;
    service.adjust("u", 5.0).await;
    for _ in 0..3 {
        allowed(check(&service, "u", "").await);
    }
    let reply = check(&service, "u", "").await;
    assert_eq!((reply.free_remaining, reply.balance), (1_000, 5.0));
    refused(reply, 10_000..=20_000);
    // Refused requests do not count, so the retry time decreases.
    let wait = refused(check(&service, "u", "").await, 10_000..=20_000);
    service.clock.advance(wait - TimeDelta::seconds(8));
    let wait = refused(check(&service, "u", "").await, 1..=8_000);
    service.clock.advance(wait);
    allowed(check(&service, "u", "").await);
    refused(check(&service, "u", "").await, 10_000..=20_000);
    // Charges have no rate limit, because the work has been delivered.
    for _ in 0..10 {
        service.deduct(charge("u", "asset", 1)).await;
    }
    service.clock.advance(TimeDelta::minutes(1));
    for _ in 0..3 {
        allowed(check(&service, "u", "").await);
    }
    refused(check(&service, "u", "").await, 10_000..=20_000);
}

#[rstest]
#[tokio::test]
async fn every_window_counts_and_the_reply_has_the_longest_wait(#[values(MySql, Sqlite)] on: Backend) {
    let limits = [("billing.rate_limits.user.second", "2"), (USER_MINUTE, "3"), ("billing.rate_limits.user.hour", "4")];
    let service = alone(on, &limits).await;
    // The minute refuses the fourth request, and the hour those after the next one.
    for (seconds, admitted) in [(0, true), (0, true), (2, true), (1, false), (30, true), (60, false), (120, false)] {
        service.clock.advance(TimeDelta::seconds(seconds));
        assert_eq!(check(&service, "u", "").await.allowed, admitted);
    }
    refused(check(&service, "u", "").await, 600_000..=900_000);
}

#[rstest]
#[tokio::test]
async fn users_and_keys_have_separate_limits(#[values(MySql, Sqlite)] on: Backend) {
    let service = alone(on, &[(USER_MINUTE, "2"), (KEY_MINUTE, "3")]).await;
    allowed(check(&service, "a", "k").await);
    allowed(check(&service, "a", "k").await);
    // The limit of the user refuses. The key keeps its last request.
    refused(check(&service, "a", "k").await, 20_000..=30_000);
    refused(check(&service, "a", "another").await, 20_000..=30_000);
    refused(check(&service, "a", "").await, 20_000..=30_000);
    allowed(check(&service, "b", "k").await);
    // The limit of the key refuses. The user keeps the last request.
    refused(check(&service, "b", "k").await, 10_000..=20_000);
    allowed(check(&service, "b", "").await);
    // A key with the name of a user has its own limit.
    allowed(check(&service, "k", "a").await);
}

#[rstest]
#[tokio::test]
async fn many_callers_are_admitted_up_to_the_limit(#[values(MySql, Sqlite)] on: Backend) {
    let service = alone(on, &[("billing.rate_limits.user.hour", "30")]).await;
    let checks = join_all((0..40).map(|_| check(&service, "u", "")));
    let traces: Vec<String> = (0..40).map(|number| format!("t{number}")).collect();
    let reserves = join_all(traces.iter().map(|trace| reserve(&service, "u", trace)));
    let (checks, reserves) = tokio::join!(checks, reserves);
    let reserved = reserves.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(checks.iter().filter(|reply| reply.allowed).count() + reserved, 30);
    assert_eq!(service.account("u").await.quotas[0].held_quota, reserved as i32);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_reserve_that_is_refused_leaves_nothing_behind(#[values(MySql, Sqlite)] on: Backend) {
    let service = alone(on, &[(USER_MINUTE, "2")]).await;
    reserve(&service, "u", "a").await.unwrap();
    // A repeat counts as a request, and gets its first outcome.
    assert!(reserve(&service, "u", "a").await.unwrap().replayed);
    refused_reserve(reserve(&service, "u", "a").await, 20_000..=30_000);
    let wait = refused_reserve(reserve(&service, "u", "b").await, 20_000..=30_000);
    let path = "/internal/v1/billing/transactions/u/b";
    assert_eq!(service.internal_get(path).await.1["reason"], "TRANSACTION_NOT_FOUND");
    assert_eq!(service.account("u").await.quotas[0].held_quota, 1);
    refused(check(&service, "u", "").await, 20_000..=30_000);
    // Bad input does not count as a request.
    service.clock.advance(wait);
    let nonsense = ReserveQuotaRequest { user_id: "u".into(), service_name: "nonsense".into(), ..Default::default() };
    service.internal.clone().reserve_quota(nonsense).await.unwrap_err();
    assert!(!reserve(&service, "u", "b").await.unwrap().replayed);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn both_styles_of_rest_have_the_retry_time(#[values(MySql, Sqlite)] on: Backend) {
    let changes = [
        (USER_MINUTE, "1"),
        ("server.http.style", "devshare"),
        ("server.http.internal_routes", "true"),
        ("billing.rate_limits.api_key.hour", "1"),
    ];
    let service = alone(on, &changes).await;
    let post = |addr, rpc: &str, user: &str, key: &str| {
        let body = json!({"user_id": user, "service_name": "asset", "count": 1, "api_key_id": key});
        let request = service.http.post(format!("http://{addr}/internal/v1/billing/{rpc}")).body(body.to_string());
        async move {
            let response = request.send().await.unwrap();
            let retry_after = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
            (response.status().as_u16(), retry_after, response.json::<Value>().await.unwrap())
        }
    };
    let (plain, devshare) = (service.app.grpc_addr, service.app.http_addr);
    assert_eq!(post(plain, "check", "u", "").await.2.get("retry_after_ms"), None);

    let (status, header, mut body) = post(plain, "check", "u", "").await;
    let retry_after_ms = body.as_object_mut().unwrap().remove("retry_after_ms").unwrap().as_i64().unwrap();
    assert!((50_000..=60_000).contains(&retry_after_ms), "{retry_after_ms}");
    let expected = json!({"allowed": false, "reason": "rate limit", "free_remaining": 1000, "balance": 0.0,
        "estimated_cost": 0.0, "error_code": "10002", "free_remaining_units": "1000"});
    assert_eq!((status, header, body), (200, None, expected));
    let (status, _, body) = post(devshare, "check", "u", "").await;
    assert!(status == 200 && body["data"]["retryAfterMs"].as_i64().unwrap() <= retry_after_ms, "{body}");

    let (status, header, body) = post(plain, "reserve", "u", "").await;
    assert_eq!((status, &body["code"], &body["reason"]), (429, &json!(429), &json!("INSUFFICIENT_QUOTA")), "{body}");
    assert_eq!(body["metadata"]["error_code"], "10002");
    let retry_ms: i64 = body["metadata"]["retry_after_ms"].as_str().unwrap().parse().unwrap();
    assert!(retry_ms <= retry_after_ms);
    assert_eq!(header.unwrap(), ((retry_ms + 999) / 1_000).to_string());

    let (status, header, body) = post(devshare, "reserve", "u", "").await;
    let expected = json!({"success": false, "errorCode": "10002", "errorMessage": "the rate limit is reached"});
    assert_eq!((status, body), (429, expected));
    assert!((50..=60).contains(&header.unwrap().parse::<i32>().unwrap()));

    // The limit of a key per hour.
    assert_eq!(post(plain, "reserve", "a", "k").await.0, 200);
    let (status, header, _) = post(plain, "reserve", "b", "k").await;
    assert!(status == 429 && header.unwrap().parse::<i32>().unwrap() > 3_500);
    assert_eq!(post(plain, "reserve", "b", "").await.1, None);

    let metrics = service.http.get(format!("http://{plain}/metrics")).send().await.unwrap().text().await.unwrap();
    for line in [
        "billing_rate_limit_local 0",
        r#"billing_quota_check_total{result="rate_limit",service="asset"} 2"#,
        r#"billing_quota_check_total{result="free",service="asset"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[rstest]
#[tokio::test]
async fn a_caller_that_waits_for_the_retry_time_is_admitted(#[values(MySql, Sqlite)] on: Backend) {
    // One request each 100 ms, after the first 600 requests.
    let service = alone(on, &[(USER_MINUTE, "600")]).await;
    join_all((0..600).map(|_| check(&service, "u", ""))).await;
    let wait = loop {
        if let Some(wait) = check(&service, "u", "").await.retry_after_ms {
            break wait;
        }
    };
    assert!((1..=100).contains(&wait), "{wait}");
    tokio::time::sleep(Duration::from_millis(wait.try_into().unwrap())).await;
    allowed(check(&service, "u", "").await);
}

#[tokio::test]
async fn a_bad_limit_is_an_error_at_the_start_that_names_it() {
    let database = Database::create(Sqlite).await;
    for (key, value) in [
        (USER_MINUTE, "-1"),
        (KEY_MINUTE, "many"),
        ("billing.rate_limits.user.second", "1.5"),
        ("billing.rate_limits.api_key.hour", "1000001"),
    ] {
        let message = format!("{:#}", Config::load(&database.config_file(&[(key, value)])).unwrap_err());
        assert!(message.contains(key) && message.contains("from 0 to 1000000"), "{message}");
    }
}
