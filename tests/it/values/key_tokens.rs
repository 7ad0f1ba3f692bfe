//! The quota of a key counts the same tokens as the free quota, at any cost of a call.

use billing_service::service::proto::{CommitReservationRequest, DeductQuotaRequest, ReserveQuotaRequest};
use chrono::TimeDelta;
use rstest::rstest;
use serde_json::json;

use super::{MODELS, call, delivered, hold, tokens, with};
use crate::harness::{
    Backend, MySql, Service, Sqlite, code_of,
    process::{CRON, run},
    traced,
};

impl Service {
    async fn llm_used(&self) -> i32 {
        let quotas = self.account("u").await.quotas;
        quotas.into_iter().find(|quota| quota.service_name == "llm").unwrap().used_quota
    }
}

const FREE_TOKENS: &str = "{llm: 1000000}";

#[rstest]
#[tokio::test]
async fn a_commit_with_a_cost_takes_the_same_tokens_from_the_key_and_the_free_quota(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let service = Service::start_with(on, &with("billing.free_quotas", FREE_TOKENS)).await;
    service.bind_key("tokens", "month", 10_000.0).await;
    service.internal.clone().reserve_quota(hold("a", "llm", "gpt-4.1", (1_000, 1_000))).await.unwrap();
    let body = json!({"user_id": "u", "trace_id": "a", "cost": 0.5});
    for _ in 0..2 {
        let (status, reply) = service.post("/internal/v1/billing/commit", body.to_string()).await;
        assert_eq!((status, &reply["free_count"]), (200, &json!(2_000)), "{reply}");
        assert_eq!((service.key_used("tokens").await, service.llm_used().await), (2_000.0, 2_000));
    }
    // A cost at the reserve, and a usage without tokens, which counts as no usage.
    let costly = ReserveQuotaRequest { cost: 1.0, ..hold("b", "llm", "gpt-4.1", (300, 200)) };
    service.internal.clone().reserve_quota(costly).await.unwrap();
    let commit = CommitReservationRequest { usage: tokens(0, 0), ..delivered("b") };
    service.internal.clone().commit_reservation(commit).await.unwrap();
    assert_eq!((service.key_used("tokens").await, service.llm_used().await), (2_500.0, 2_500));
    // Reported tokens count, also with a cost.
    service.internal.clone().reserve_quota(hold("c", "llm", "gpt-4.1", (300, 200))).await.unwrap();
    let commit = CommitReservationRequest { cost: 0.5, usage: tokens(20, 10), ..delivered("c") };
    service.internal.clone().commit_reservation(commit).await.unwrap();
    assert_eq!((service.key_used("tokens").await, service.llm_used().await), (2_530.0, 2_530));
    service.deduct(DeductQuotaRequest { cost: 2.0, ..call("llm", "unpriced", tokens(50, 20)) }).await;
    assert_eq!((service.key_used("tokens").await, service.llm_used().await), (2_600.0, 2_600));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn if_calls_are_the_units_a_commit_without_usage_takes_the_expected_tokens(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 10.0).await;
    service.bind_key("tokens", "total", 10_000.0).await;
    for (trace, name, commit) in [
        ("a", "embed", CommitReservationRequest { cost: 0.5, ..delivered("a") }),
        ("b", "asset", delivered("b")),
        ("c", "asset", CommitReservationRequest { usage: tokens(0, 0), ..delivered("c") }),
    ] {
        service.internal.clone().reserve_quota(hold(trace, name, "embed-s", (600, 400))).await.unwrap();
        service.internal.clone().commit_reservation(commit).await.unwrap();
    }
    assert_eq!(service.key_used("tokens").await, 3_000.0);
    service.internal.clone().reserve_quota(hold("d", "asset", "", (600, 400))).await.unwrap();
    let reported = CommitReservationRequest { usage: tokens(5, 2), ..delivered("d") };
    service.internal.clone().commit_reservation(reported).await.unwrap();
    assert_eq!(service.key_used("tokens").await, 3_007.0);
}

#[rstest]
#[tokio::test]
async fn a_late_commit_with_a_cost_takes_the_tokens_that_its_expiry_freed(#[values(MySql, Sqlite)] on: Backend) {
    let changes = [&with("billing.free_quotas", FREE_TOKENS)[..], &[("billing.reservation_ttl", "1ms")]].concat();
    let service = Service::start_with(on, &changes).await;
    service.bind_key("tokens", "month", 10_000.0).await;
    service.internal.clone().reserve_quota(hold("a", "llm", "gpt-4.1", (1_000, 1_000))).await.unwrap();
    service.clock.advance(TimeDelta::minutes(1));
    let conf = service.database.config_file(&changes);
    assert!(run(CRON, &["-conf", conf.to_str().unwrap(), "--once", "expire-reservations"], &[]).status.success());
    assert_eq!((service.key_used("tokens").await, service.llm_used().await), (0.0, 0));
    let late = CommitReservationRequest { cost: 0.5, ..delivered("a") };
    service.internal.clone().commit_reservation(late).await.unwrap();
    assert_eq!((service.key_used("tokens").await, service.llm_used().await), (2_000.0, 2_000));
    let refused = service.try_deduct(traced("b", call("llm", "gpt-4.1", tokens(8_000, 1)))).await.unwrap_err();
    assert_eq!(code_of(&refused).1, "10002");
    service.assert_audit_is_clean().await;
}
