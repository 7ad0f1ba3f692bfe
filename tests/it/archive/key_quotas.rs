//! A refund of an archived charge gives its API key the units back, or is refused as that of a wide one.

use billing_service::service::proto::{
    ApiKeyQuota, DeductQuotaRequest, GetApiKeyQuotaRequest, RefundChargeReply, RefundChargeRequest,
    SetApiKeyQuotaRequest,
};
use rstest::rstest;
use tonic::{Code, Status};

use super::{count, keep_months};
use crate::harness::{Backend, MySql, Service, Sqlite, charge, traced, wait::until};

/// An old charge of 1.25 with an API key that has a quota, archived or not.
async fn with_old_charge(on: Backend, is_archived: bool) -> Service {
    let service = Service::start_with(on, &[("billing.settlement.quarantine", "0.5s")]).await;
    service.clock.set("2026-01-05T04:00:00Z");
    service.adjust("u", 100.0).await;
    service.use_up_free_quota("u", "asset").await;
    let bind = SetApiKeyQuotaRequest {
        api_key_id: "key".into(),
        quota_type: "amount".into(),
        period: "total".into(),
        limit: Some(50.0),
    };
    service.internal.clone().set_api_key_quota(bind).await.unwrap();
    let old = DeductQuotaRequest { api_key_id: "key".into(), cost: 1.25, ..charge("u", "asset", 2) };
    service.deduct(traced("old", old)).await;
    service.clock.set("2026-11-21T04:00:00Z");
    if is_archived {
        keep_months(&service.database, &service.clock, 1).await;
        assert_eq!(count(&service.database, "billing_transaction WHERE status = 'ARCHIVED'").await, 2);
    }
    assert_eq!(used(&service).await, 1.25);
    service
}

async fn used(service: &Service) -> f64 {
    let request = GetApiKeyQuotaRequest { api_key_id: "key".into() };
    let reply = service.internal.clone().get_api_key_quota(request).await.unwrap().into_inner();
    let [ApiKeyQuota { used, .. }] = reply.quotas[..] else { panic!("{reply:?}") };
    used
}

async fn give_back(service: &Service) -> Result<RefundChargeReply, Status> {
    let refund = RefundChargeRequest {
        user_id: "u".into(),
        trace_id: "old".into(),
        refund_id: "whole".into(),
        count: None,
        reason: "for a test".into(),
    };
    service.internal.clone().refund_charge(refund).await.map(|reply| reply.into_inner())
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_waits_for_the_quota_of_its_key_that_another_session_holds(#[values(false, true)] is_archived: bool) {
    let service = with_old_charge(MySql, is_archived).await;
    let mut holder = service.database.mysql().await;
    let lock = "START TRANSACTION; SELECT 1 FROM api_key_quota WHERE api_key_id = 'key' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let waits = "FROM information_schema.processlist WHERE db = DATABASE() AND time_ms > 100 \
        AND info LIKE '%FROM api_key_quota%FOR UPDATE%'";
    let refunding = give_back(&service);
    let releasing = async {
        until("the refund waits, or has an end", async || {
            !service.database.rows(&["id"], waits).await.is_empty()
                || count(&service.database, "charge_refund").await > 0
        })
        .await;
        let refunds = count(&service.database, "charge_refund").await;
        sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
        refunds
    };
    let (given, refunds_before) = tokio::join!(refunding, releasing);
    assert_eq!(refunds_before, 0);
    assert_eq!(given.unwrap().amount, 1.25);
    assert_eq!(used(&service).await, 0.0);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_refund_is_refused_while_the_quota_of_its_key_is_unreadable(
    #[values(MySql, Sqlite)] on: Backend,
    #[values(false, true)] is_archived: bool,
) {
    let service = with_old_charge(on, is_archived).await;
    service.database.execute("UPDATE api_key_quota SET period = 'week'").await;
    assert_eq!(give_back(&service).await.unwrap_err().code(), Code::Internal);
    assert_eq!(count(&service.database, "charge_refund").await, 0);
    service.database.execute("UPDATE api_key_quota SET period = 'total'").await;
    until("the account is out of quarantine", async || give_back(&service).await.is_ok()).await;
    assert_eq!(used(&service).await, 0.0);
    service.assert_audit_is_clean().await;
}
