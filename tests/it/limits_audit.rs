//! The audit of caps and of quotas of API keys against the transactions that they count.

use std::sync::atomic::{AtomicBool, Ordering};

use billing_service::{
    app,
    service::proto::{
        CommitReservationRequest, DeductQuotaRequest, RefundChargeRequest, ReleaseReservationRequest,
        ReserveQuotaRequest, SetApiKeyQuotaRequest, SetUserLimitsRequest, Usage,
    },
};
use chrono::TimeDelta;
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use crate::{
    archive::move_all_but,
    harness::{Backend, MySql, Service, Sqlite, charge, traced},
};

impl Service {
    async fn cap_user(&self, user: &str, daily_limit: Option<i32>, monthly_limit: Option<i32>) {
        let request = SetUserLimitsRequest { user_id: user.into(), daily_limit, monthly_limit };
        self.internal.clone().set_user_limits(request).await.unwrap();
        self.clock.advance(TimeDelta::minutes(5));
    }

    async fn set_quota(&self, key: &str, quota_type: &str, period: &str, limit: Option<f64>) {
        let request = SetApiKeyQuotaRequest {
            api_key_id: key.into(),
            quota_type: quota_type.into(),
            period: period.into(),
            limit,
        };
        self.internal.clone().set_api_key_quota(request).await.unwrap();
    }

    /// All three quotas of a key.
    async fn set_quotas(&self, key: &str, period: &str) {
        for quota_type in ["requests", "tokens", "amount"] {
            self.set_quota(key, quota_type, period, Some(1_000_000.0)).await;
        }
        self.clock.advance(TimeDelta::minutes(5));
    }

    async fn hold(&self, user: &str, key: &str, trace: &str, tokens: i32) {
        let request = ReserveQuotaRequest {
            user_id: user.into(),
            service_name: "asset".into(),
            count: 2,
            trace_id: trace.into(),
            api_key_id: key.into(),
            estimated_input_tokens: tokens,
            estimated_output_tokens: 1,
            ..Default::default()
        };
        self.internal.clone().reserve_quota(request).await.unwrap();
    }

    async fn commit_hold(&self, user: &str, trace: &str, count: Option<i32>) {
        self.commit_at(user, trace, count, 0.0).await;
    }

    async fn commit_at(&self, user: &str, trace: &str, count: Option<i32>, cost: f64) {
        let request = CommitReservationRequest {
            user_id: user.into(),
            trace_id: trace.into(),
            count,
            cost,
            ..Default::default()
        };
        self.internal.clone().commit_reservation(request).await.unwrap();
    }

    async fn release_hold(&self, user: &str, trace: &str) {
        let request = ReleaseReservationRequest { user_id: user.into(), trace_id: trace.into() };
        self.internal.clone().release_reservation(request).await.unwrap();
    }

    async fn give_back(&self, user: &str, trace: &str, refund: &str, count: Option<i32>) {
        let request = RefundChargeRequest {
            user_id: user.into(),
            trace_id: trace.into(),
            refund_id: refund.into(),
            reason: "test".into(),
            count,
        };
        self.internal.clone().refund_charge(request).await.unwrap();
    }

    async fn expire_holds(&self) {
        self.clock.advance(TimeDelta::minutes(11));
        let config = self.database.config(&[]);
        let store = app::connect(&config).await.unwrap();
        app::sweep(&config, store.clone(), self.clock.clone(), &CancellationToken::new()).await.unwrap();
        store.close().await;
    }

    async fn differences(&self) -> Vec<String> {
        self.database.audit().await.differences.iter().map(ToString::to_string).collect()
    }

    /// Changes the database for one audit. Returns its differences.
    async fn differences_after(&self, change: &str, undo: &str) -> Vec<String> {
        self.database.execute(change).await;
        let found = self.differences().await;
        self.database.execute(undo).await;
        found
    }
}

fn keyed(user: &str, key: &str, trace: &str, tokens: i32) -> DeductQuotaRequest {
    DeductQuotaRequest {
        api_key_id: key.into(),
        usage: Some(Usage { input_tokens: tokens, output_tokens: 1, ..Default::default() }),
        ..traced(trace, charge(user, "asset", 4))
    }
}

/// 9 calls of all kinds, of which 5 stay. The last one is a hold, which ends with the next calls.
async fn calls(service: &Service, user: &str, key: &str, prefix: &str) {
    let id = |name: &str| format!("{prefix}-{name}");
    service.deduct(keyed(user, key, &id("kept"), 99)).await;
    service.deduct(keyed(user, key, &id("kept"), 99)).await;
    service.deduct(keyed(user, key, &id("refunded"), 9)).await;
    service.give_back(user, &id("refunded"), &id("all"), None).await;
    service.deduct(keyed(user, key, &id("half"), 10)).await;
    service.give_back(user, &id("half"), &id("part"), Some(3)).await;
    for name in ["committed", "released", "late", "expired", "open"] {
        service.hold(user, key, &id(name), 20).await;
    }
    service.commit_hold(user, &id("committed"), Some(1)).await;
    service.release_hold(user, &id("released")).await;
    service.expire_holds().await;
    service.commit_hold(user, &id("late"), None).await;
    service.hold(user, key, &id("pending"), 7).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_count_of_a_cap_is_named_with_both_numbers(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-20T02:00:00Z");
    service.adjust("u", 100.0).await;
    service.cap_user("u", Some(1_000), None).await;
    calls(&service, "u", "k", "first").await;
    service.clock.set("2026-11-21T02:00:00Z");
    calls(&service, "other", "k", "other").await;
    calls(&service, "u", "k", "second").await;
    assert_eq!(service.differences().await, [""; 0]);

    let set = |column: &str, change: &str| {
        format!("UPDATE tenant_quota SET {column} = {column} {change} WHERE user_id = 'u'")
    };
    let found = service.differences_after(&set("daily_used", "+ 1"), &set("daily_used", "- 1")).await;
    assert_eq!(found, ["user u: calls counted for the caps on 2026-11-21 says 6, should be 5"]);
    let found = service.differences_after(&set("monthly_used", "- 2"), &set("monthly_used", "+ 2")).await;
    assert_eq!(found, ["user u: calls counted for the caps in 2026-11 says 7, should be 9"]);
    // A lost call is one of the records too.
    let found = service
        .differences_after(
            "UPDATE billing_transaction SET status = 'EXPIRED' WHERE trace_id = 'second-pending'",
            "UPDATE billing_transaction SET status = 'PENDING' WHERE trace_id = 'second-pending'",
        )
        .await;
    let expected = "user u: calls counted for the caps on 2026-11-21 says 5, should be 4".to_owned();
    assert!(found.contains(&expected), "{found:#?}");
    let day = |day: &str| format!("UPDATE tenant_quota SET usage_date = '{day}' WHERE user_id = 'u'");
    let found = service.differences_after(&day("2026-11-20"), &day("2026-11-21")).await;
    let expected = [
        "user u: calls counted for the caps on 2026-11-20 says 5, should be 4",
        "user u: last day counted for the caps says 2026-11-20, should be 2026-11-21 or later",
    ];
    assert_eq!(found, expected);
    assert_eq!(service.differences().await, [""; 0]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_use_of_an_api_key_is_named_with_both_numbers(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-10-20T02:00:00Z");
    for user in ["u", "v"] {
        service.use_up_free_quota(user, "asset").await;
        service.adjust(user, 100.0).await;
    }
    service.set_quotas("k/1", "month").await;
    service.set_quotas("unused", "day").await;
    calls(&service, "u", "k/1", "first").await;
    service.clock.set("2026-11-20T02:00:00Z");
    for user in ["u", "v"] {
        service.use_up_free_quota(user, "asset").await;
    }
    calls(&service, "u", "k/1", "second").await;
    service.clock.set("2026-11-21T02:00:00Z");
    calls(&service, "v", "k/1", "third").await;
    assert_eq!(service.differences().await, [""; 0]);

    let use_of = async |column: &str, quota_type: &str| {
        let row = format!("FROM api_key_quota WHERE api_key_id = 'k/1' AND quota_type = '{quota_type}'");
        service.database.rows(&[column], &row).await[0][0].parse::<i64>().unwrap()
    };
    for (quota_type, [day, month, total]) in [
        // 4 calls of each round, and the last hold.
        ("requests", [5, 9, 13]),
        // 100, a quarter of 11, twice 21, and the last hold of 8.
        ("tokens", [153, 298, 443]),
        // 4, 1, 1 and 2 units at 0.05, and the last hold of 2.
        ("amount", [500_000, 900_000, 1_300_000]),
    ] {
        let stored = [
            use_of("used_day", quota_type).await,
            use_of("used_month", quota_type).await,
            use_of("used_total", quota_type).await,
        ];
        assert_eq!(stored, [day, month, total], "{quota_type}");
        let shown = |count: i64| match quota_type {
            "amount" => format!("{}.{:06}", count / 1_000_000, count % 1_000_000).trim_end_matches('0').to_owned(),
            _ => count.to_string(),
        };
        let set = |column: &str, by: &str| {
            format!(
                "UPDATE api_key_quota SET {column} = {column} {by} WHERE api_key_id = 'k/1' AND quota_type = '{quota_type}'"
            )
        };
        for (column, says, period) in
            [("used_day", day, "on 2026-11-21"), ("used", month, "in 2026-11"), ("used_total", total, "in total")]
        {
            let found = service.differences_after(&set(column, "+ 3"), &set(column, "- 3")).await;
            let line =
                format!("API key k/1: used {quota_type} {period} says {}, should be {}", shown(says + 3), shown(says));
            assert_eq!(found, [line]);
        }
        // The service reads `used` in place of the column of the quota's own period.
        let found = service.differences_after(&set("used_month", "+ 3"), &set("used_month", "- 3")).await;
        assert_eq!(found, [""; 0]);
    }
    let set = |count: u32| {
        format!("UPDATE api_key_quota SET used_total = {count} WHERE api_key_id = 'unused' AND quota_type = 'tokens'")
    };
    let found = service.differences_after(&set(9), &set(0)).await;
    assert_eq!(found, ["API key unused: used tokens in total says 9, should be 0"]);
    assert_eq!(service.differences().await, [""; 0]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_that_are_set_late_changed_and_removed_are_clean(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-29T02:00:00Z");
    service.adjust("u", 100.0).await;
    let clean = async |step: &str| assert_eq!(service.differences().await, [""; 0], "{step}");
    // Without limits, and with ends of these holds after they are set.
    calls(&service, "u", "k", "before").await;
    service.clock.advance(TimeDelta::minutes(5));
    service.cap_user("u", Some(100), None).await;
    service.set_quotas("k", "day").await;
    service.release_hold("u", "before-pending").await;
    service.give_back("u", "before-kept", "late", None).await;
    calls(&service, "u", "k", "set").await;
    clean("set late").await;

    service.cap_user("u", Some(200), Some(1_000)).await;
    service.set_quotas("k", "total").await;
    calls(&service, "u", "k", "changed").await;
    clean("changed").await;

    service.clock.set("2026-11-30T02:00:00Z");
    service.give_back("u", "set-kept", "yesterday", None).await;
    service.release_hold("u", "set-pending").await;
    calls(&service, "u", "k", "next-day").await;
    clean("a day later").await;

    // Some minutes before the month of the billing zone ends.
    service.clock.set("2026-11-30T15:50:00Z");
    for number in 0..3 {
        service.hold("u", "k", &format!("turn-{number}"), 5).await;
    }
    service.clock.set("2026-11-30T16:00:00Z");
    service.commit_hold("u", "turn-0", None).await;
    clean("before the first call of the month").await;
    service.deduct(keyed("u", "k", "month", 3)).await;
    service.commit_hold("u", "turn-1", None).await;
    service.release_hold("u", "turn-2").await;
    service.give_back("u", "changed-kept", "last-month", None).await;
    clean("a month later").await;

    service.cap_user("u", None, None).await;
    service.set_quota("k", "requests", "total", None).await;
    calls(&service, "u", "k", "removed").await;
    clean("removed").await;

    service.clock.advance(TimeDelta::minutes(5));
    service.cap_user("u", None, Some(1_000)).await;
    service.set_quotas("k", "month").await;
    service.release_hold("u", "removed-pending").await;
    service.give_back("u", "removed-half", "rest", None).await;
    calls(&service, "u", "k", "again").await;
    clean("set again").await;
    service.database.execute("UPDATE tenant_quota SET daily_used = daily_used + 1").await;
    assert_eq!(service.differences().await.len(), 1);
}

/// A server of release 0.1.0 counts `used` alone, which is the use in the period of the quota.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_of_an_older_server_make_no_false_report(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-10-20T02:00:00Z");
    service.set_quotas("k", "total").await;
    calls(&service, "u", "k", "old").await;
    let migrated = if on == MySql { "created_at + INTERVAL 30 MINUTE" } else { "created_at + 1800000000" };
    let as_an_older_server = format!(
        "UPDATE api_key_quota SET used_day = 0, used_month = 0, used_total = 1, day_since = {migrated}, month_since = {migrated}"
    );
    service.database.execute(&as_an_older_server).await;
    assert_eq!(service.differences().await, [""; 0]);
    calls(&service, "u", "k", "new").await;
    assert_eq!(service.differences().await, [""; 0]);
    service.clock.set("2026-11-20T02:00:00Z");
    calls(&service, "u", "k", "later").await;
    assert_eq!(service.differences().await, [""; 0]);

    let set = |column: &str, by: &str| {
        format!("UPDATE api_key_quota SET {column} = {column} {by} WHERE quota_type = 'requests'")
    };
    for (column, period) in [("used", "in total"), ("used_month", "in 2026-11"), ("used_day", "on 2026-11-20")] {
        let found = service.differences_after(&set(column, "+ 1"), &set(column, "- 1")).await;
        let line = format!("API key k: used requests {period} says ");
        assert!(found.len() == 1 && found[0].starts_with(&line), "{found:#?}");
    }
}

/// The period of an older quota was changed on the day of the migration.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_use_is_known_in_no_period_does_not_end_the_audit(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-20T02:00:00Z");
    service.adjust("u", 100.0).await;
    service.set_quotas("k", "total").await;
    calls(&service, "u", "k", "t").await;
    let migrated = if on == MySql { "created_at + INTERVAL 30 MINUTE" } else { "created_at + 1800000000" };
    let known = format!("UPDATE api_key_quota SET month_since = {migrated}, total_since = {migrated}, used = 77");
    service.database.execute(&known).await;
    assert_eq!(service.differences().await, [""; 0]);
    service.database.execute("UPDATE user_balance SET balance = balance + 1 WHERE user_id = 'u'").await;
    let found = service.differences().await;
    assert!(found.len() == 1 && found[0].starts_with("user u: balance says "), "{found:#?}");
    // Another key beside it is compared.
    service.set_quota("other", "requests", "total", Some(9.0)).await;
    service.database.execute("UPDATE api_key_quota SET used = 3 WHERE api_key_id = 'other'").await;
    let found = service.differences().await;
    assert!(found.contains(&"API key other: used requests in total says 3, should be 0".to_owned()), "{found:#?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_count_of_tokens_is_named_beside_a_commit_by_its_cost(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-20T02:00:00Z");
    service.adjust("u", 100.0).await;
    service.set_quotas("k", "total").await;
    service.hold("u", "k", "t", 20).await;
    service.commit_at("u", "t", Some(2), 0.5).await;
    assert_eq!(service.differences().await, [""; 0]);
    service.database.execute("UPDATE api_key_quota SET used = used + 3 WHERE quota_type = 'tokens'").await;
    assert_eq!(service.differences().await, ["API key k: used tokens in total says 24, should be 21"]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_key_that_is_no_text_does_not_end_the_audit(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-20T02:00:00Z");
    for key in ["a", "z"] {
        service.set_quota(key, "requests", "total", Some(9.0)).await;
    }
    service.clock.advance(TimeDelta::minutes(5));
    service.deduct(keyed("u", "a", "t", 1)).await;
    service.deduct(keyed("u", "b", "no-text", 1)).await;
    let no_text = if on == MySql { "x'62ff'" } else { "CAST(x'62ff' AS TEXT)" };
    let change = format!("UPDATE billing_transaction SET api_key_id = {no_text} WHERE trace_id = 'no-text'");
    service.database.execute(&change).await;
    service.database.execute("UPDATE api_key_quota SET used = 3 WHERE api_key_id = 'a'").await;
    let found = service.differences().await;
    let line = "API key a: used requests in total says 3, should be 1".to_owned();
    assert!(found.contains(&line), "{found:#?}");
}

/// The time of a charge is that of its batch, and not that of its commit.
#[rstest]
#[tokio::test]
async fn calls_close_to_the_begin_of_a_count_may_count_or_not(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.stop_at("2026-11-29T02:00:00Z".parse().unwrap());
    service.deduct(keyed("u", "k", "before", 1)).await;
    let limits = SetUserLimitsRequest { user_id: "u".into(), daily_limit: Some(9), monthly_limit: None };
    service.internal.clone().set_user_limits(limits).await.unwrap();
    service.set_quota("k", "requests", "total", Some(9.0)).await;
    service.deduct(keyed("u", "k", "after", 1)).await;
    assert_eq!(service.differences().await, [""; 0]);
    for count in [0, 2] {
        service
            .database
            .execute(&format!("UPDATE tenant_quota SET daily_used = {count}, monthly_used = {count}"))
            .await;
        service.database.execute(&format!("UPDATE api_key_quota SET used = {count}, used_day = {count}, used_month = {count}, used_total = {count}")).await;
        assert_eq!(service.differences().await, [""; 0]);
    }
    service.database.execute("UPDATE tenant_quota SET daily_used = 3").await;
    service.database.execute("UPDATE api_key_quota SET used = 3").await;
    let expected = [
        "API key k: used requests in total says 3, should be 0 to 2",
        "user u: calls counted for the caps on 2026-11-29 says 3, should be 0 to 2",
    ];
    assert_eq!(service.differences().await, expected);
}

/// A server whose clock is behind counts to the day that another one has begun.
#[rstest]
#[tokio::test]
async fn a_call_before_midnight_may_count_to_the_next_day(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-29T02:00:00Z");
    service.cap_user("u", Some(9), None).await;
    service.set_quotas("k", "day").await;
    service.clock.stop_at("2026-11-29T16:00:01Z".parse().unwrap());
    service.deduct(keyed("u", "k", "ahead", 1)).await;
    service.clock.stop_at("2026-11-29T15:59:59Z".parse().unwrap());
    service.deduct(keyed("u", "k", "behind", 1)).await;
    assert_eq!(service.database.rows(&["daily_used"], "FROM tenant_quota").await, [["2"]]);
    assert_eq!(service.differences().await, [""; 0]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_during_an_audit_make_no_false_report(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-20T02:00:00Z");
    for user in ["a", "b", "c"] {
        service.cap_user(user, Some(1_000_000), None).await;
        service.set_quotas(&format!("key of {user}"), "total").await;
    }
    service.set_quotas("shared", "month").await;
    let is_over = AtomicBool::new(false);
    let work = async |user: &'static str| {
        // Ends with the audits.
        for number in 0.. {
            let trace = format!("{user}-{number}");
            let key = if number % 3 == 0 { "shared".to_owned() } else { format!("key of {user}") };
            match number % 4 {
                0 => service.hold(user, &key, &trace, 5).await,
                _ => drop(service.deduct(keyed(user, &key, &trace, 5)).await),
            }
            if number % 8 == 4 {
                service.release_hold(user, &trace).await;
            }
            if number % 4 == 1 {
                service.give_back(user, &trace, &trace, Some(2)).await;
            }
            if is_over.load(Ordering::Relaxed) {
                return number;
            }
        }
        0
    };
    let audits = async {
        for _ in 0..10 {
            assert_eq!(service.differences().await, [""; 0]);
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let (a, b, c, ()) = tokio::join!(work("a"), work("b"), work("c"), audits);
    assert!(a.min(b).min(c) > 0);
    assert_eq!(service.differences().await, [""; 0]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_of_a_transaction_that_is_not_committed_is_named(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    calls(&service, "u", "k", "t").await;
    let amount = if on == MySql { "0.5" } else { "500000" };
    for (trace, status) in [("t-pending", "PENDING"), ("t-released", "RELEASED"), ("t-expired", "EXPIRED")] {
        let set = |free: u32, paid: u32, amount: &str| {
            format!(
                "UPDATE billing_transaction SET free_count = {free}, paid_count = {paid}, amount = {amount} WHERE trace_id = '{trace}'"
            )
        };
        let found = service.differences_after(&set(1, 2, amount), &set(0, 0, "0")).await;
        let charge = "1 free and 2 paid units for 0.5, should be 0 free and 0 paid units for 0";
        let line = format!("user u: charge of {status} transaction {trace} says {charge}");
        assert!(found.len() == 1 && found[0].starts_with(&line), "{found:#?}");
    }
    // A hold that was given back, and is held again.
    let status =
        |status: &str| format!("UPDATE billing_transaction SET status = '{status}' WHERE trace_id = 't-released'");
    let found = service.differences_after(&status("PENDING"), &status("RELEASED")).await;
    assert!(found.iter().any(|line| line.contains("held quota of asset")), "{found:#?}");
    // A charge that is said to be released has records.
    let status = |status: &str| format!("UPDATE billing_transaction SET status = '{status}' WHERE trace_id = 't-kept'");
    let found = service.differences_after(&status("RELEASED"), &status("COMMITTED")).await;
    assert!(found.iter().any(|line| line.starts_with("user u: transaction t-kept says 0 free")), "{found:#?}");
    assert_eq!(service.differences().await, [""; 0]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archived_calls_count_for_caps_and_api_keys(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-01-20T02:00:00Z");
    for user in ["u", "old-only"] {
        service.adjust(user, 100.0).await;
        service.cap_user(user, Some(1_000), None).await;
    }
    service.set_quotas("k", "total").await;
    calls(&service, "u", "k", "old").await;
    // The search for the users of the key finds this one in the archive alone.
    service.deduct(keyed("old-only", "k", "alone", 99)).await;
    service.clock.set("2026-11-20T02:00:00Z");
    service.deduct(keyed("u", "k", "new", 99)).await;
    let wide = service.differences().await;
    assert_eq!(wide, [""; 0]);
    let moved = move_all_but(&service.database, &service.clock, 1).await;
    assert!(moved.transactions > 1, "{moved:?}");
    assert_eq!(service.differences().await, [""; 0]);

    for (quota_type, line) in [
        ("requests", "used requests in total says 10, should be 7"),
        ("tokens", "used tokens in total says 356, should be 353"),
    ] {
        let set = |by: &str| format!("UPDATE api_key_quota SET used = used {by} WHERE quota_type = '{quota_type}'");
        let found = service.differences_after(&set("+ 3"), &set("- 3")).await;
        assert_eq!(found, [format!("API key k: {line}")]);
    }
    // The last counted month of this user is archived.
    let set = |by: &str| format!("UPDATE tenant_quota SET monthly_used = monthly_used {by} WHERE user_id = 'old-only'");
    let found = service.differences_after(&set("+ 1"), &set("- 1")).await;
    assert_eq!(found, ["user old-only: calls counted for the caps in 2026-01 says 2, should be 1"]);
    assert_eq!(service.differences().await, [""; 0]);
}
