//! The nightly audit begins at the seals, and finds each difference since then.

use billing_service::{
    app::{self, cron::Job},
    biz::{account::users::UserSpan, jobs::audit::AtOnce, values::ids::UserId},
};
use rstest::rstest;

use super::a_year;
use crate::{
    cron::{Counted, runner},
    harness::{Backend, MySql, Service, Sqlite, charge, traced},
};

#[rstest]
#[tokio::test]
async fn the_nightly_audit_finds_each_difference_of_unsealed_days(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    assert_eq!(service.seal().await.accounts, 3);
    let unit = if on == MySql { "1" } else { "1000000" };
    let of_november = "user_id = 'ann' AND trace_id = 'charge-11'";
    let changes = [
        (format!("UPDATE billing_record SET amount = amount + {unit} WHERE type = 2 AND {of_november}"), "user ann: balance says"),
        (format!("UPDATE billing_record SET amount = amount - {unit} WHERE type = 2 AND {of_november}"), ""),
        (format!("UPDATE billing_record SET count = count + 1 WHERE type = 1 AND {of_november}"), "user ann: used quota of asset in 2026-11 says"),
        (format!("UPDATE billing_record SET count = count - 1 WHERE type = 1 AND {of_november}"), ""),
        (format!("UPDATE billing_transaction SET amount = amount + {unit} WHERE {of_november}"), "user ann: transaction charge-11 says"),
        (format!("UPDATE billing_transaction SET amount = amount - {unit} WHERE {of_november}"), ""),
        (format!("UPDATE billing_transaction SET status = 'RELEASED' WHERE {of_november}"), "user ann: transaction charge-11 says"),
        (format!("UPDATE billing_transaction SET status = 'COMMITTED' WHERE {of_november}"), ""),
        ("UPDATE usage_daily SET paid_records = paid_records + 1 WHERE user_id = 'ann' AND usage_date = '2026-11-05'".into(), "user ann: rollup of asset on 2026-11-05 says"),
        ("UPDATE usage_daily SET paid_records = paid_records - 1 WHERE user_id = 'ann' AND usage_date = '2026-11-05'".into(), ""),
        // An account without a change since its seal.
        (format!("UPDATE user_balance SET balance = balance + {unit} WHERE user_id = 'old'"), "user old: balance says"),
        (format!("UPDATE user_balance SET balance = balance - {unit} WHERE user_id = 'old'"), ""),
        (format!("UPDATE user_balance SET held = held + {unit} WHERE user_id = 'old'"), "user old: held balance says"),
        (format!("UPDATE user_balance SET held = held - {unit} WHERE user_id = 'old'"), ""),
        // A seal with wrong figures.
        (format!("UPDATE sealed_account SET charged = charged + {unit} WHERE user_id = 'ann'"), "user ann: last seal, of 2026-10: charged amount says"),
        (format!("UPDATE sealed_account SET charged = charged - {unit} WHERE user_id = 'ann'"), ""),
    ];
    for (change, line) in changes {
        service.database.execute(&change).await;
        let found = service.nightly_audit().await;
        let lines: Vec<String> = found.differences.iter().map(ToString::to_string).collect();
        match line {
            "" => assert_eq!(lines, Vec::<String>::new(), "{change}"),
            line => assert!(lines.iter().any(|found| found.starts_with(line)), "{change}: {lines:#?}"),
        }
    }
}

#[rstest]
#[tokio::test]
async fn the_nightly_audit_names_each_row_of_a_changed_account_that_cannot_be_read(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let service = a_year(on).await;
    assert_eq!(service.seal().await.accounts, 3);
    let rows = [
        ("UPDATE user_balance SET status = 7", "balance with version", "UPDATE user_balance SET status = 0"),
        ("UPDATE user_balance SET alerts = 'none'", "alerts", "UPDATE user_balance SET alerts = NULL"),
        (
            "UPDATE free_quota SET total_quota = -total_quota",
            "quota of asset in",
            "UPDATE free_quota SET total_quota = -total_quota",
        ),
        (
            "UPDATE recharge_order SET payment_method = 'Stripe'",
            "order",
            "UPDATE recharge_order SET payment_method = 'stripe'",
        ),
        (
            "INSERT INTO tenant_quota (user_id, usage_date, daily_used, created_at, updated_at) \
             SELECT user_id, '2026-11-20', -1, created_at, updated_at FROM user_balance",
            "caps with daily_limit",
            "DELETE FROM tenant_quota",
        ),
    ];
    for (change, row, undo) in rows {
        service.database.execute(&format!("{change} WHERE user_id = 'ann'")).await;
        let lines = service.found_at_night().await;
        let is_named = |line: &String| line.starts_with("user ann: stored row") && line.contains(row);
        assert!(lines.iter().any(is_named), "{change}: {lines:#?}");
        service.database.execute(&format!("{undo} WHERE user_id = 'ann'")).await;
        assert_eq!(service.found_at_night().await, Vec::<String>::new(), "{undo}");
    }
}

/// The lines of the nightly audit that is due at `at`, after a charge of that morning.
async fn found_on(service: &Service, at: &str) -> Vec<String> {
    service.clock.set(at);
    service.deduct(traced(&format!("charge at {at}"), charge("ann", "asset", 10))).await;
    let watched = Counted::all();
    let runner = runner(service.database.config(&[]), &service.clock, watched.stop.clone()).await;
    runner.run_due(Job::Audit, &watched).await.unwrap().expect("the period was not run before");
    watched.reported()
}

#[rstest]
#[tokio::test]
async fn a_night_reads_the_records_of_the_last_days_and_all_unsealed_ones_after_a_difference(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let service = a_year(on).await;
    assert_eq!(service.seal().await.accounts, 3);
    let none = Vec::<String>::new();
    let (one, set) = (service.sql_amount(100), "UPDATE billing_transaction SET amount = amount");
    let names = |found: &[String], line: &str| {
        assert!(
            found.iter().any(|found| found.starts_with(&format!("audit: user ann: {line} says"))),
            "{line}: {found:#?}"
        );
    };
    assert_eq!(found_on(&service, "2026-11-21T04:00:00Z").await, none);
    // Of the 5th, which that audit has compared.
    let old = "user_id = 'ann' AND trace_id = 'charge-11'";
    service.database.execute(&format!("{set} + {one} WHERE {old}")).await;
    assert_eq!(found_on(&service, "2026-11-22T04:00:00Z").await, none);
    let all = service.found_in_all().await;
    assert!(all.iter().any(|line| line.starts_with("user ann: transaction charge-11 says")), "{all:#?}");

    // The sums of older days are compared each night. An account that differs is audited whole.
    let rollup = "UPDATE usage_daily SET amount = amount";
    let day = "user_id = 'ann' AND usage_date = '2026-11-05'";
    service.database.execute(&format!("{rollup} + {one} WHERE {day}")).await;
    let found = found_on(&service, "2026-11-23T04:00:00Z").await;
    names(&found, "rollup of asset on 2026-11-05");
    names(&found, "transaction charge-11");
    // One difference is mended, and the other one is still named.
    service.database.execute(&format!("{rollup} - {one} WHERE {day}")).await;
    names(&found_on(&service, "2026-11-24T04:00:00Z").await, "transaction charge-11");
    service.database.execute(&format!("{set} - {one} WHERE {old}")).await;
    assert_eq!(found_on(&service, "2026-11-25T04:00:00Z").await, none);

    // A new difference is named each night until it is mended, however old its records get.
    let new = "user_id = 'ann' AND trace_id = 'charge at 2026-11-25T04:00:00Z'";
    service.database.execute(&format!("{set} + {one} WHERE {new}")).await;
    for night in 26..=29 {
        let found = found_on(&service, &format!("2026-11-{night}T04:00:00Z")).await;
        names(&found, "transaction charge at 2026-11-25T04:00:00Z");
    }
    service.database.execute(&format!("{set} - {one} WHERE {new}")).await;
    assert_eq!(found_on(&service, "2026-11-30T04:00:00Z").await, none);
    service.assert_seals_hold().await;
}

/// The accounts that the nightly audit reads.
async fn read_at_night(service: &Service) -> Vec<String> {
    let store = app::connect(&service.database.config(&[])).await.unwrap();
    let all = UserSpan { after: None, last: UserId::from_stored("zzz") };
    let changed = store.changed_accounts(&all).await.unwrap();
    store.close().await;
    changed.iter().map(|account| account.user.to_string()).collect()
}

#[rstest]
#[tokio::test]
async fn accounts_without_a_change_since_their_seals_are_not_read(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    assert_eq!(read_at_night(&service).await, ["ann", "bob", "old"], "without seals");
    assert_eq!(service.seal_as_in_november().await.accounts, 3);
    // ann has a hold, and bob a record of November.
    assert_eq!(read_at_night(&service).await, ["ann", "bob"]);
    let one = service.sql_amount(100);
    let november = service.sql_time("2026-10-31T15:30:00Z");
    let march = service.sql_time("2026-03-09T04:00:00Z");
    for (change, undo) in [
        ("version = version + 1".to_owned(), "version = version - 1".to_owned()),
        (format!("balance = balance + {one}"), format!("balance = balance - {one}")),
        (format!("held = {one}"), "held = 0".into()),
        // An hour covers the difference of two clocks.
        (format!("updated_at = {november}"), format!("updated_at = {march}")),
    ] {
        service.database.execute(&format!("UPDATE user_balance SET {change} WHERE user_id = 'old'")).await;
        if !change.starts_with("updated_at") {
            service.put_times_back().await;
        }
        assert_eq!(read_at_night(&service).await, ["ann", "bob", "old"], "{change}");
        service.database.execute(&format!("UPDATE user_balance SET {undo} WHERE user_id = 'old'")).await;
        service.put_times_back().await;
        assert_eq!(read_at_night(&service).await, ["ann", "bob"], "{undo}");
    }
    service.assert_seals_hold().await;
}

#[rstest]
#[tokio::test]
async fn a_charge_without_the_write_of_its_quiet_account_is_found(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    assert_eq!(service.seal_as_in_november().await.accounts, 3);
    assert_eq!(service.found_at_night().await, Vec::<String>::new());
    service.charge_in_part("old", "in-part", "2026-11-20T04:00:00Z", true).await;
    assert_eq!(read_at_night(&service).await, ["ann", "bob", "old"]);
    let found = service.found_at_night().await;
    assert!(found.iter().any(|line| line.starts_with("user old: balance says")), "{found:#?}");
    // It is not sealed either.
    service.clock.set("2026-12-05T04:00:00Z");
    assert_eq!(service.seal().await.left, 1);
}

#[rstest]
#[tokio::test]
async fn money_that_moved_without_the_write_of_its_quiet_account_is_found(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    assert_eq!(service.seal_as_in_november().await.accounts, 3);
    let (one, now) = (service.sql_amount(100), service.sql_time("2026-11-20T04:00:00Z"));
    let (created, old) = (service.sql_time("2026-03-10T04:00:00Z"), "FROM recharge_order WHERE order_id = 'o'");
    for (kind, rows, undo) in [
        (
            "an adjustment",
            vec![format!(
                "INSERT INTO balance_adjustment (user_id, adjustment_id, amount, reason, operator, request_id, \
                 balance_after, created_at) VALUES ('old', 'x', {one}, 'r', 'o', '', {one}, {now})"
            )],
            vec!["DELETE FROM balance_adjustment WHERE user_id = 'old'".to_owned()],
        ),
        (
            "a top-up that was pending for long",
            vec![format!(
                "INSERT INTO recharge_order (order_id, user_id, amount, payment_method, status, created_at, updated_at, \
                 credited_at) VALUES ('o', 'old', {one}, 'stripe', 'success', {created}, {now}, {now})"
            )],
            vec![format!("DELETE {old}")],
        ),
        (
            "the refund of an old top-up",
            vec![
                format!(
                    "INSERT INTO recharge_order (order_id, user_id, amount, payment_method, status, created_at, \
                     updated_at, credited_at) VALUES ('o', 'old', {one}, 'stripe', 'success', {created}, {created}, {created})"
                ),
                format!(
                    "INSERT INTO recharge_refund (refund_id, order_id, user_id, kind, status, amount, request_id, \
                     balance_after, created_at, updated_at, settled_at) VALUES ('f', 'o', 'old', 'requested', 'success', \
                     {one}, '', 0, {created}, {now}, {now})"
                ),
            ],
            vec!["DELETE FROM recharge_refund WHERE refund_id = 'f'".to_owned(), format!("DELETE {old}")],
        ),
    ] {
        for sql in rows {
            service.database.execute(&sql).await;
        }
        assert_eq!(read_at_night(&service).await, ["ann", "bob", "old"], "{kind}");
        assert!(!service.found_at_night().await.is_empty(), "{kind}");
        for sql in undo {
            service.database.execute(&sql).await;
        }
        assert_eq!(read_at_night(&service).await, ["ann", "bob"], "without {kind}");
    }
    assert_eq!(service.found_at_night().await, Vec::<String>::new());
}

#[rstest]
#[tokio::test]
async fn a_lost_account_is_found(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    service.clock.set("2026-10-09T04:00:00Z");
    service.deduct(charge("zed", "asset", 2)).await;
    service.clock.set("2026-11-21T04:00:00Z");
    assert_eq!(service.seal_as_in_november().await.accounts, 4);
    // One that has no seal, but a quota of this month.
    service.deduct(charge("new", "asset", 4)).await;
    assert_eq!(service.found_at_night().await, Vec::<String>::new());
    // zed is behind all accounts that are left.
    for user in ["bob", "new", "zed"] {
        service.database.execute(&format!("DELETE FROM user_balance WHERE user_id = '{user}'")).await;
        let found = service.found_at_night().await;
        let line = format!("user {user}: balance says no account, should be");
        assert!(found.iter().any(|found| found.starts_with(&line)), "{found:#?}");
    }
}

#[rstest]
#[tokio::test]
async fn a_stream_that_goes_on_after_its_month_was_sealed_is_clean(
    #[values(MySql, Sqlite)] on: Backend,
    #[values(1, 2)] charged_by: i32,
) {
    let service = a_year(on).await;
    let of_stream = "user_id = 'bob' AND trace_id = 'charge-10'";
    // By the report of a stream, and by that and a commit.
    service
        .database
        .execute(&format!("UPDATE billing_transaction SET charged_by = {charged_by} WHERE {of_stream}"))
        .await;
    assert_eq!(service.seal_as_in_november().await.accounts, 3);
    service.assert_seals_hold().await;
    // The rest of the stream: a record of now, and an addition to its transaction.
    let (amount, now) = (service.sql_amount(10), service.sql_time("2026-11-20T04:00:00Z"));
    service.record("bob", "charge-10", &now, "2026-11-20").await;
    for sql in [
        format!(
            "UPDATE billing_transaction SET paid_count = paid_count + 2, amount = amount + {amount} WHERE {of_stream}"
        ),
        format!("UPDATE user_balance SET balance = balance - {amount}, version = version + 1 WHERE user_id = 'bob'"),
        format!(
            "INSERT INTO usage_daily (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, \
             paid_records) VALUES ('bob', '2026-11-20', 'asset', 0, 2, {amount}, 0, 1)"
        ),
        "UPDATE billing_record SET late_of = '2026-10' WHERE user_id = 'bob' AND usage_date = '2026-11-20'".into(),
    ] {
        service.database.execute(&sql).await;
    }
    service.assert_seals_hold().await;
    service.clock.set("2026-12-05T04:00:00Z");
    let sealed = service.seal().await;
    assert_eq!((sealed.accounts, sealed.left), (2, 0));
    service.assert_seals_hold().await;
    // More records than the transaction has are a difference.
    service.record("bob", "charge-10", &service.sql_time("2026-12-05T03:00:00Z"), "2026-12-05").await;
    assert!(!service.found_at_night().await.is_empty());
}

#[rstest]
#[tokio::test]
async fn an_audit_with_one_connection_audits_differing_accounts_whole_between_its_spans(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let service = a_year(on).await;
    let one = service.sql_amount(100);
    // A span of each account: every one but the last is audited whole while others wait to be read.
    for user in ["ann", "bob", "old"] {
        service
            .database
            .execute(&format!("UPDATE user_balance SET balance = balance + {one} WHERE user_id = '{user}'"))
            .await;
    }
    let at_once = AtOnce { users: 1, ..AtOnce::default() };
    let settings = [("data.database.max_connections", "1"), ("data.database.acquire_timeout", "2s")];
    let report = service.nightly_audit_with(at_once, &settings).await;
    let found: Vec<_> = report.differences.iter().map(|found| (found.owner.to_string(), found.book.as_str())).collect();
    let expected = ["user ann", "user bob", "user old"].map(|owner| (owner.to_owned(), "balance"));
    assert_eq!((found, report.suspects), (expected.into(), 3));
}
