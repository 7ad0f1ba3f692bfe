//! Accounts that are frozen, closed and activated again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use billing_service::service::proto::{
    BatchDeductQuotaRequest, CommitReservationRequest, RechargeRequest, ReleaseReservationRequest, ReserveQuotaRequest,
    SetAccountStatusReply, SetAccountStatusRequest,
};
use redis::cmd;
use rstest::rstest;
use serde_json::json;
use tonic::{Code, Status};

use crate::{
    cache::processes::servers::{cached, pair, within_a_second},
    harness::{
        Backend, MySql, Service, Sqlite, caller::Client, charge, code_of, payments::Paying, traced, wait::until,
    },
};

/// Sets the status of an account.
pub async fn set_status(client: &Client, user: &str, status: &str) -> SetAccountStatusReply {
    let request = SetAccountStatusRequest { user_id: user.into(), status: status.into(), reason: "for a test".into() };
    client.clone().set_account_status(request).await.unwrap().into_inner()
}

fn reserve(user: &str, trace: &str, count: i32) -> ReserveQuotaRequest {
    ReserveQuotaRequest {
        user_id: user.into(),
        service_name: "asset".into(),
        count,
        trace_id: trace.into(),
        ..Default::default()
    }
}

fn assert_not_active(status: &Status, why: &str) {
    assert_eq!(code_of(status), (Code::FailedPrecondition, "10015".into()));
    assert_eq!(status.message(), why);
}

#[rstest]
#[case::frozen("FROZEN", "account frozen")]
#[case::closed("CLOSED", "account closed")]
#[tokio::test]
async fn an_account_that_is_not_active_takes_no_calls(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] status: &str,
    #[case] why: &str,
) {
    let service = Service::start(on).await;
    service.adjust("u", 5.0).await;
    assert_eq!(service.account("u").await.status, "ACTIVE");
    assert!(service.check("u", "asset", 1).await.allowed);
    let reply = set_status(&service.internal, "u", status).await;
    assert_eq!((reply.success, reply.status.as_str(), reply.changed), (true, status, true));
    assert_eq!(service.account("u").await.status, status);

    // The refusal comes at once, although the account was cached.
    let check = service.check("u", "asset", 1).await;
    assert_eq!((check.allowed, check.reason.as_str(), check.error_code.as_str()), (false, why, "10015"));
    assert_eq!((check.free_remaining, check.balance), (1000, 5.0));
    assert_not_active(&service.try_deduct(charge("u", "asset", 1)).await.unwrap_err(), why);
    let mut internal = service.internal.clone();
    assert_not_active(&internal.reserve_quota(reserve("u", "r", 1)).await.unwrap_err(), why);
    let request = BatchDeductQuotaRequest { items: vec![charge("u", "asset", 1), charge("other", "asset", 1)] };
    let results = internal.batch_deduct_quota(request).await.unwrap().into_inner().results;
    let error = results[0].error.as_ref().unwrap();
    assert_eq!((error.error_code.as_str(), error.reason.as_str()), ("10015", "ACCOUNT_NOT_ACTIVE"));
    assert!(results[1].reply.as_ref().unwrap().success);
    let body = json!({"user_id": "u", "service_name": "asset", "count": 1}).to_string();
    let (code, error) = service.post("/internal/v1/billing/deduct", body).await;
    assert_eq!((code, &error["reason"], &error["message"]), (403, &json!("ACCOUNT_NOT_ACTIVE"), &json!(why)));

    let again =
        service.post("/internal/v1/billing/users/u/status", json!({"status": "ACTIVE", "reason": "x"}).to_string());
    assert_eq!(again.await, (200, json!({"success": true, "status": "ACTIVE", "changed": true})));
    assert!(service.check("u", "asset", 1).await.allowed);
    assert_eq!(service.deduct(charge("u", "asset", 1)).await.free_remaining, 999);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn every_status_may_follow_every_other_and_the_same_status_changes_nothing(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let version = async || service.database.rows(&["version"], "FROM user_balance WHERE user_id = 'u'").await;
    let mut last = "ACTIVE";
    // The first change opens the account.
    for status in ["CLOSED", "CLOSED", "FROZEN", "CLOSED", "ACTIVE", "ACTIVE", "FROZEN", "ACTIVE", "CLOSED", "ACTIVE"] {
        let before = version().await;
        assert_eq!(set_status(&service.internal, "u", status).await.changed, status != last, "{last} to {status}");
        assert_eq!(version().await == before, status == last, "{last} to {status}");
        assert_eq!(service.account("u").await.status, status);
        last = status;
    }
}

#[rstest]
#[tokio::test]
async fn a_wrong_status_is_named(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let request = |user_id: &str, status: &str, reason: &str| SetAccountStatusRequest {
        user_id: user_id.into(),
        status: status.into(),
        reason: reason.into(),
    };
    for (wrong, field) in [
        (request("", "FROZEN", "r"), "user_id"),
        (request("u", "", "r"), "status"),
        (request("u", "frozen", "r"), "status"),
        (request("u", "GONE", "r"), "status"),
        (request("u", "FROZEN", ""), "reason"),
        (request("u", "FROZEN", " "), "reason"),
        (request("u", "FROZEN", &"é".repeat(256)), "reason"),
        (request("u", "FROZEN", "a\nb"), "reason"),
    ] {
        let refused = service.internal.clone().set_account_status(wrong).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()));
        assert!(refused.message().starts_with(field), "{field}: {}", refused.message());
    }
    assert!(service.database.rows(&["user_id"], "FROM user_balance").await.is_empty());
}

#[rstest]
#[tokio::test]
async fn calls_begun_before_a_freeze_are_settled(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.use_up_free_quota("u", "asset").await;
    service.adjust("u", 5.0).await;
    let charged = service.deduct(traced("t", charge("u", "asset", 2))).await;
    let mut internal = service.internal.clone();
    for trace in ["commit", "release"] {
        internal.reserve_quota(reserve("u", trace, 10)).await.unwrap();
    }
    set_status(&internal, "u", "FROZEN").await;

    let replayed = service.deduct(traced("t", charge("u", "asset", 2))).await;
    assert_eq!((replayed.replayed, replayed.record_id), (true, charged.record_id));
    let again = internal.reserve_quota(reserve("u", "commit", 10)).await.unwrap().into_inner();
    assert!(again.replayed);
    let commit = CommitReservationRequest {
        user_id: "u".into(),
        trace_id: "commit".into(),
        count: Some(8),
        ..Default::default()
    };
    let committed = internal.commit_reservation(commit.clone()).await.unwrap().into_inner();
    assert_eq!((committed.amount, committed.replayed), (0.4, false));
    assert!(internal.commit_reservation(commit).await.unwrap().into_inner().replayed);
    let release = ReleaseReservationRequest { user_id: "u".into(), trace_id: "release".into() };
    internal.release_reservation(release).await.unwrap();
    service.adjust("u", -1.0).await;
    let account = service.account("u").await;
    assert_eq!((account.balance, account.held, account.status.as_str()), (3.5, 0.0, "FROZEN"));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn open_top_ups_are_credited_and_new_ones_are_refused(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let keyed = |key: &str| RechargeRequest {
        user_id: "u".into(),
        amount: 5.0,
        payment_method: "alipay".into(),
        idempotency_key: key.into(),
        ..Default::default()
    };
    let recharge =
        async |request| paying.service.public.clone().recharge(request).await.map(|reply| reply.into_inner());
    let first = recharge(keyed("k")).await.unwrap();
    set_status(&paying.service.internal, "u", "CLOSED").await;
    assert_not_active(&paying.try_recharge("u", 5.0).await.unwrap_err(), "account closed");
    assert_not_active(&recharge(keyed("other")).await.unwrap_err(), "account closed");
    assert_eq!(recharge(keyed("k")).await.unwrap(), first);
    paying.press(&first.payment_url, "SUCCESS").await;
    paying.until_order_is(&first.order_id, "success").await;
    paying.assert_books("u", 5.0).await;
    assert_eq!(paying.orders("u").await.len(), 1);
}

/// A charge that is sent after the answer to a freeze is refused by every server.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_answer_to_a_freeze_no_server_charges(#[values(MySql, Sqlite)] on: Backend) {
    let (one, other) = pair(on).await;
    let (is_frozen, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers = (0..16).map(|number| {
        let mut client = if number % 2 == 0 { one.internal.clone() } else { other.internal.clone() };
        let (is_frozen, made) = (is_frozen.clone(), made.clone());
        tokio::spawn(async move {
            let mut refused = 0;
            // Several calls, so that each caller has sent one after the freeze.
            while refused < 20 {
                let was_frozen = is_frozen.load(Ordering::SeqCst);
                match client.deduct_quota(charge("u", "passport", 1)).await {
                    Ok(_) => {
                        assert!(!was_frozen, "charged after the freeze");
                        made.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(status) if was_frozen => {
                        assert_not_active(&status, "account frozen");
                        refused += 1;
                    }
                    // The freeze is committed, and its answer is in flight.
                    Err(status) => assert_not_active(&status, "account frozen"),
                }
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    until("charges are made", async || made.load(Ordering::SeqCst) > 100).await;
    set_status(&one.internal, "u", "FROZEN").await;
    is_frozen.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    let used = one.state("u").await.1[0];
    assert_eq!(u64::try_from(used).unwrap(), made.load(Ordering::SeqCst));
    one.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn the_checks_of_another_server_follow_the_status(#[values(MySql, Sqlite)] on: Backend) {
    let (one, other) = pair(on).await;
    one.adjust("u", 5.0).await;
    for (status, reason) in [("FROZEN", "account frozen"), ("CLOSED", "account closed"), ("ACTIVE", "free")] {
        // Both servers have cached the account.
        one.check("u", "asset", 1).await;
        other.check("u", "asset", 1).await;
        set_status(&one.internal, "u", status).await;
        assert_eq!(one.check("u", "asset", 1).await.reason, reason);
        within_a_second(status, async || other.check("u", "asset", 1).await.reason == reason).await;
    }
}

/// A server of an earlier release stores an account without its status, so the status is unknown.
#[tokio::test]
async fn a_cached_account_of_an_earlier_release_is_read_again() {
    let service = Service::start(MySql).await;
    service.adjust("u", 5.0).await;
    set_status(&service.internal, "u", "FROZEN").await;
    // A check that runs before the update of the freeze reads the database, and does not store the entry.
    until("the account is in redis", async || {
        service.check("u", "asset", 1).await;
        cached(&service.database, "u", "status").await.is_some()
    })
    .await;
    assert_eq!(cached(&service.database, "u", "status").await.as_deref(), Some("FROZEN"));

    let key = format!("{}{{u}}:account", service.database.cache_prefix().await);
    let mut redis = service.database.redis.as_ref().unwrap().connection().await;
    let dropped: u32 = cmd("HDEL").arg(&key).arg("status").query_async(&mut redis).await.unwrap();
    assert_eq!(dropped, 1);
    // The near cache keeps no refusals, so this check reads Redis.
    assert_eq!(service.check("u", "asset", 1).await.reason, "account frozen");
    // The entry was stored again, also for servers that do not read the status.
    assert_eq!(cached(&service.database, "u", "status").await.as_deref(), Some("FROZEN"));
    assert_eq!(cached(&service.database, "u", "balance").await.as_deref(), Some("5"));
}
