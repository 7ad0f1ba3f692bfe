//! The reason of a refusal is the same from the cache and from the database. Periods that turn.

use billing_service::service::proto::{CheckQuotaReply, CheckQuotaRequest, DeductQuotaRequest};
use rstest::rstest;

use super::servers::{beside, bind_key, call, cap, check, keyed_call, keyed_charge, reads, second, with_redis};
use crate::harness::{Backend, MySql, Service, Sqlite, charge, wait::until};

/// A call, and the expected reply: allowed, reason and error code.
type Case = (CheckQuotaRequest, (bool, &'static str, &'static str));

fn of(user: &str, count: i32) -> CheckQuotaRequest {
    CheckQuotaRequest { count, ..call(user) }
}

fn with_key(key: &str, request: CheckQuotaRequest) -> CheckQuotaRequest {
    CheckQuotaRequest { api_key_id: key.into(), ..request }
}

/// Accounts and keys of every kind, and a call for each limit.
async fn situations(service: &Service) -> Vec<Case> {
    service.check("new", "asset", 1).await;
    service.deduct(charge("some", "asset", 400)).await;
    service.adjust("some", 5.0).await;
    service.use_up_free_quota("poor", "asset").await;
    service.adjust("poor", 0.049_999).await;

    for (user, daily, monthly) in
        [("day", Some(1), Some(100)), ("month", Some(100), Some(1)), ("both", Some(0), Some(0))]
    {
        let body = serde_json::json!({"daily_limit": daily, "monthly_limit": monthly}).to_string();
        assert_eq!(service.post(&format!("/internal/v1/billing/users/{user}/limits"), body).await.0, 200);
        let _ = service.try_deduct(charge(user, "asset", 1)).await;
    }
    for (key, kind, limit) in [("requests", "requests", 1), ("tokens", "tokens", 100), ("amount", "amount", 1)] {
        let body = serde_json::json!({"quota_type": kind, "period": "month", "limit": limit}).to_string();
        assert_eq!(service.post(&format!("/internal/v1/billing/api-keys/{key}/quota"), body).await.0, 200);
    }
    service.deduct(DeductQuotaRequest { api_key_id: "requests".into(), ..charge("keyed", "asset", 1) }).await;
    service.use_up_free_quota("keyed", "asset").await;
    service.adjust("keyed", 10.0).await;
    let tokens = |input, output| CheckQuotaRequest {
        estimated_input_tokens: input,
        estimated_output_tokens: output,
        ..with_key("tokens", of("keyed", 1))
    };
    vec![
        (of("new", 1_000), (true, "free", "")),
        (of("new", 1_001), (false, "insufficient balance", "10001")),
        (of("some", 600), (true, "free", "")),
        (of("some", 601), (true, "balance", "")),
        (of("some", 700), (true, "balance", "")),
        (of("some", 701), (false, "insufficient balance", "10001")),
        (of("poor", 1), (false, "insufficient balance", "10001")),
        (CheckQuotaRequest { estimated_cost: 0.049_999, ..of("poor", 1) }, (true, "balance", "")),
        (of("day", 1), (false, "daily limit", "10002")),
        (of("month", 1), (false, "monthly limit", "10002")),
        (of("both", 1), (false, "daily limit", "10002")),
        (with_key("requests", of("keyed", 1)), (false, "api key quota", "10002")),
        (tokens(60, 40), (true, "balance", "")),
        (tokens(60, 41), (false, "api key quota", "10002")),
        (with_key("amount", of("keyed", 20)), (true, "balance", "")),
        (with_key("amount", of("keyed", 21)), (false, "api key quota", "10002")),
        (with_key("unbound", of("keyed", 1)), (true, "balance", "")),
        (with_key("requests", of("poor", 1)), (false, "insufficient balance", "10001")),
        (with_key("requests", of("day", 1)), (false, "daily limit", "10002")),
    ]
}

async fn replies(service: &Service, cases: &[Case]) -> Vec<CheckQuotaReply> {
    let mut replies = Vec::new();
    for (request, _) in cases {
        replies.push(check(&service.internal, request.clone()).await);
    }
    replies
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caches_and_the_database_give_a_call_the_same_reply(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let cases = situations(&service).await;
    let alone = Service::start_on(with_redis(beside(&service.database), None), &[]).await;
    let truth = replies(&alone, &cases).await;
    for ((request, expected), reply) in cases.iter().zip(&truth) {
        assert_eq!((reply.allowed, reply.reason.as_str(), reply.error_code.as_str()), *expected, "{request:?}");
    }
    if let Some(redis) = &service.database.redis {
        redis.flush().await;
    }
    let cold = second(&service).await;
    assert_eq!(replies(&cold, &cases).await, truth, "loaded");
    for _ in 0..3 {
        assert_eq!(replies(&cold, &cases).await, truth, "cached");
        assert_eq!(replies(&service, &cases).await, truth, "followed");
    }
    if on == MySql {
        // The near cache is empty, and Redis has the entries.
        let warm = second(&service).await;
        assert_eq!(replies(&warm, &cases).await, truth, "shared");
        until("redis has answered", async || reads(&warm, "redis").await >= cases.len() as f64).await;
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_day_and_a_new_month_show_in_checks_of_a_cached_account(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    // November 29 has just begun in Shanghai.
    service.clock.set("2026-11-28T16:00:10Z");
    cap(&service.internal, Some(2), Some(3)).await;
    bind_key(&service.internal, "requests", 100.0).await;
    service.deduct(charge("u", "asset", 900)).await;
    service.deduct(keyed_charge()).await;
    let reply = async || {
        let mut replies = Vec::new();
        // From the database, from Redis, and from the near cache.
        for _ in 0..3 {
            let reply = check(&service.internal, keyed_call()).await;
            replies.push((reply.reason, reply.free_remaining, reply.daily_remaining, reply.monthly_remaining));
        }
        replies.dedup();
        let [only] = <[_; 1]>::try_from(replies).expect("the cache gives the same reply each time");
        only
    };
    let reason = |text: &str| text.to_owned();
    assert_eq!(reply().await, (reason("daily limit"), 99, Some(0), Some(1)));
    service.clock.set("2026-11-29T15:59:50Z");
    assert_eq!(reply().await, (reason("daily limit"), 99, Some(0), Some(1)));
    service.clock.set("2026-11-29T16:00:10Z");
    assert_eq!(reply().await, (reason("free"), 99, Some(2), Some(1)));
    service.deduct(charge("u", "asset", 99)).await;
    assert_eq!(reply().await, (reason("monthly limit"), 0, Some(1), Some(0)));
    // Still November in UTC.
    service.clock.set("2026-11-30T16:00:10Z");
    assert_eq!(reply().await, (reason("free"), 1_000, Some(2), Some(3)));
    service.deduct(charge("u", "asset", 1)).await;
    assert_eq!(reply().await, (reason("free"), 999, Some(1), Some(2)));
    service.assert_audit_is_clean().await;
}
