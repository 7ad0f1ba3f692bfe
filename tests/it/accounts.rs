//! The first call of a user opens the account. Operators adjust accounts.

use std::sync::atomic::{AtomicU32, Ordering};

use billing_service::{
    app::App,
    biz::values::calendar::Clock,
    service::proto::{
        AdjustBalanceRequest, CheckQuotaRequest, InitializeUserRequest,
        billing_internal_service_client::BillingInternalServiceClient,
    },
};
use chrono::{DateTime, Utc};
use rstest::rstest;
use tonic::Code;

use crate::harness::{Backend, Database, MySql, Service, Sqlite, charge, code_of};

#[rstest]
#[tokio::test]
async fn a_user_needs_no_set_up(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;

    let account = service.account("by_account").await;
    assert_eq!((account.balance, account.held, account.currency.as_str()), (0.0, 0.0, "CNY"));
    let quotas: Vec<_> =
        account.quotas.iter().map(|quota| (quota.service_name.as_str(), quota.total_quota, quota.used_quota)).collect();
    assert_eq!(quotas, [("asset", 1000, 0), ("passport", 10000, 0), ("payment", 1000, 0)]);

    let check = service.check("by_check", "passport", 1).await;
    assert_eq!((check.allowed, check.reason.as_str(), check.free_remaining), (true, "free", 10000));
    assert_eq!(service.state("by_check").await, (0.0, [0, 0, 0]));

    assert_eq!(service.deduct(charge("by_deduct", "passport", 2)).await.free_remaining, 9998);
    assert_eq!(service.state("by_deduct").await, (0.0, [2, 0, 0]));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn initializing_twice_creates_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let initialize = || async {
        let request = InitializeUserRequest { user_id: "someone".into() };
        service.internal.clone().initialize_user(request).await.unwrap().into_inner()
    };
    assert!(initialize().await.created);
    service.deduct(charge("someone", "asset", 7)).await;
    let again = initialize().await;
    assert!(again.success && !again.created);
    assert_eq!(service.state("someone").await, (0.0, [0, 0, 7]));
}

#[rstest]
#[tokio::test]
async fn quotas_start_again_with_the_month_of_the_billing_zone(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    // One second before midnight in Shanghai.
    service.clock.stop_at("2026-10-31T15:59:59Z".parse().unwrap());
    service.deduct(charge("u", "asset", 1000)).await;
    assert_eq!(service.check("u", "asset", 1).await.reason, "insufficient balance");
    assert_eq!(service.account("u").await.quotas[0].reset_month, "2026-10");

    service.clock.stop_at("2026-10-31T16:00:00Z".parse().unwrap());
    assert_eq!(service.deduct(charge("u", "asset", 10)).await.free_remaining, 990);
    let quota = &service.account("u").await.quotas[0];
    assert_eq!((quota.reset_month.as_str(), quota.used_quota), ("2026-11", 10));
    service.assert_audit_is_clean().await;
}

/// A clock whose month turns after two reads.
struct TurningClock(AtomicU32);

impl Clock for TurningClock {
    fn now(&self) -> DateTime<Utc> {
        let second = if self.0.fetch_add(1, Ordering::SeqCst) < 2 { "15:59:59" } else { "16:00:00" };
        format!("2026-10-31T{second}Z").parse().unwrap()
    }
}

/// The service reads the clock when it looks the account up, and again when it opens the account.
#[rstest]
#[tokio::test]
async fn a_month_that_turns_while_an_account_is_opened_has_its_free_quota(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let app = App::start_with_clock(database.config(&[]), TurningClock(AtomicU32::new(0))).await.unwrap();
    let mut client = BillingInternalServiceClient::connect(format!("http://{}", app.grpc_addr)).await.unwrap();
    let request =
        CheckQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: 1, ..Default::default() };
    let reply = client.check_quota(request).await.unwrap().into_inner();
    assert_eq!((reply.reason.as_str(), reply.free_remaining), ("free", 1000));
}

fn adjustment(id: &str, amount: f64) -> AdjustBalanceRequest {
    AdjustBalanceRequest {
        user_id: "u".into(),
        amount,
        reason: "goodwill".into(),
        adjustment_id: id.into(),
        operator: "anna".into(),
        allow_negative: false,
    }
}

#[rstest]
#[tokio::test]
async fn an_adjustment_is_made_once_per_id(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let adjust = |request| {
        let mut client = service.internal.clone();
        async move { client.adjust_balance(request).await.map(|reply| reply.into_inner()) }
    };
    let first = adjust(adjustment("a", 12.345678)).await.unwrap();
    assert_eq!((first.success, first.balance, first.replayed), (true, 12.345678, false));
    assert_eq!(adjust(adjustment("b", -2.0)).await.unwrap().balance, 10.345678);

    let replayed = adjust(adjustment("a", 12.345678)).await.unwrap();
    assert_eq!((replayed.balance, replayed.replayed), (12.345678, true));

    let conflict = adjust(AdjustBalanceRequest { reason: "other".into(), ..adjustment("a", 1.0) }).await.unwrap_err();
    assert_eq!(code_of(&conflict), (Code::AlreadyExists, "10007".into()));
    assert!(conflict.message().contains("amount, reason"), "{}", conflict.message());

    let elsewhere = adjust(AdjustBalanceRequest { user_id: "v".into(), ..adjustment("a", 1.0) }).await.unwrap();
    assert_eq!((elsewhere.balance, elsewhere.replayed), (1.0, false));
    assert_eq!(service.account("u").await.balance, 10.345678);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_debit_never_takes_a_balance_below_zero(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 5.0).await;
    let refused = service.internal.clone().adjust_balance(adjustment("debit", -5.000001)).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::FailedPrecondition, "10001".into()));
    // A refusal is not stored: with enough balance, the same request succeeds.
    service.adjust("u", 0.000001).await;
    let passed = service.internal.clone().adjust_balance(adjustment("debit", -5.000001)).await.unwrap().into_inner();
    assert_eq!((passed.balance, passed.replayed), (0.0, false));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_credit_beyond_the_largest_balance_is_refused(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 999_999_999.0).await;
    let refused = service.internal.clone().adjust_balance(adjustment("more", 1.0)).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()));
    assert_eq!(service.account("u").await.balance, 999_999_999.0);
    service.assert_audit_is_clean().await;
}
