//! Closed months are sealed: the nightly audit begins at the seals, and the whole audit finds each row that was changed
//! after its seal. Other jobs read no more than a month, or run once for all processes.

use std::time::Duration;

use billing_service::{
    app,
    biz::{
        jobs::{
            archive::archive_records,
            audit::{AuditReport, audit_unsealed},
            low_balance::{Percent, Thresholds},
            reset::reset_quotas,
            runs::{Begun, Run, under_lease},
            seals::job::{SealedMonths, seal_months},
        },
        values::{
            calendar::{Calendar, Month},
            money::Money,
        },
    },
    service::proto::{CommitReservationRequest, RefundChargeRequest, ReserveQuotaRequest},
};
use rstest::rstest;

use crate::{
    cron::end_lease,
    harness::{Backend, MySql, Service, Sqlite, charge, progress::Unwatched, traced},
};

impl Service {
    pub async fn seal(&self) -> SealedMonths {
        let config = self.database.config(&[]);
        let store = app::connect(&config).await.unwrap();
        let calendar = config.calendar(self.clock.clone());
        let sealed = seal_months(&*store, &calendar, false, &Unwatched).await.unwrap();
        store.close().await;
        sealed
    }

    async fn nightly_audit(&self) -> AuditReport {
        let config = self.database.config(&[]);
        let store = app::connect(&config).await.unwrap();
        let report = audit_unsealed(&*store, &config.calendar(self.clock.clone()), &Unwatched).await.unwrap();
        store.close().await;
        report
    }

    /// Both audits find nothing, and the nightly one audits no account whole.
    pub async fn assert_seals_hold(&self) {
        let nightly = self.nightly_audit().await;
        assert!(nightly.differences.is_empty(), "{:#?}", nightly.differences);
        assert_eq!(nightly.suspects, 0, "an account was audited whole");
        self.assert_audit_is_clean().await;
    }

    async fn refund_charge(&self, user: &str, trace: &str, id: &str, count: i32) {
        let request = RefundChargeRequest {
            user_id: user.into(),
            trace_id: trace.into(),
            refund_id: id.into(),
            count: Some(count),
            reason: "not delivered".into(),
            ..Default::default()
        };
        assert!(self.internal.clone().refund_charge(request).await.unwrap().into_inner().success);
    }

    async fn reserve_units(&self, user: &str, trace: &str) {
        let request = ReserveQuotaRequest {
            user_id: user.into(),
            trace_id: trace.into(),
            service_name: "asset".into(),
            count: 3,
            ..Default::default()
        };
        assert!(self.internal.clone().reserve_quota(request).await.unwrap().into_inner().success);
    }

    async fn commit_units(&self, user: &str, trace: &str) {
        let request = CommitReservationRequest { user_id: user.into(), trace_id: trace.into(), ..Default::default() };
        assert!(self.internal.clone().commit_reservation(request).await.unwrap().into_inner().success);
    }

    /// An instant in SQL.
    fn sql_time(&self, at: &str) -> String {
        let at: chrono::DateTime<chrono::Utc> = at.parse().unwrap();
        match self.database.backend {
            MySql => format!("'{}'", at.naive_utc()),
            Sqlite => at.timestamp_micros().to_string(),
        }
    }

    /// A credited top-up, with a refund of a part, in SQL.
    async fn top_up(&self, user: &str, at: &str) {
        let unit = if self.database.backend == MySql { 1 } else { 1_000_000 };
        let (at, five, two) = (self.sql_time(at), 5 * unit, 2 * unit);
        let columns = "order_id, user_id, amount, payment_order_id, payment_method, status, created_at, updated_at, \
             credited_at, refunded_amount";
        for sql in [
            format!(
                "INSERT INTO recharge_order ({columns}) VALUES \
                 ('order-{user}', '{user}', {five}, 'payment-{user}', 'stripe', 'success', {at}, {at}, {at}, {two})"
            ),
            format!(
                "INSERT INTO recharge_refund (refund_id, order_id, user_id, kind, status, amount, request_id, \
                 balance_after, created_at, updated_at, settled_at) VALUES ('back-{user}', 'order-{user}', '{user}', \
                 'requested', 'success', {two}, '00000000-0000-0000-0000-000000000000', 0, {at}, {at}, {at})"
            ),
            format!("UPDATE user_balance SET balance = balance + {five} - {two} WHERE user_id = '{user}'"),
        ] {
            self.database.execute(&sql).await;
        }
    }
}

/// Two users with rows of every kind from January to October, and some of November.
async fn a_year(on: Backend) -> Service {
    let service = Service::start_with(on, &[("billing.free_quotas.asset", "5")]).await;
    for user in ["ann", "bob"] {
        service.clock.set("2026-01-03T04:00:00Z");
        service.adjust(user, 100.0).await;
        for month in 1..=11 {
            service.clock.set(&format!("2026-{month:02}-05T04:00:00Z"));
            service.deduct(traced(&format!("charge-{month}"), charge(user, "asset", 10))).await;
            if month % 3 == 0 {
                service.refund_charge(user, &format!("charge-{month}"), &format!("refund-{month}"), 7).await;
            }
        }
        service.top_up(user, "2026-02-07T04:00:00Z").await;
    }
    // Without an account change after March.
    service.clock.set("2026-03-09T04:00:00Z");
    service.deduct(charge("old", "asset", 2)).await;
    service.clock.set("2026-10-09T04:00:00Z");
    service.reserve_units("ann", "late").await;
    service.clock.set("2026-11-21T04:00:00Z");
    service
}

fn month(text: &str) -> Month {
    text.parse().unwrap()
}

#[rstest]
#[tokio::test]
async fn sealed_history_stays_clean_while_accounts_go_on(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    service.assert_audit_is_clean().await;
    let before = service.nightly_audit().await;
    assert_eq!((before.users, before.difference_count, before.suspects), (3, 0, 0), "{:#?}", before.differences);
    assert_eq!(service.seal().await, SealedMonths { accounts: 3, left: 0, month: month("2026-10") });
    service.assert_seals_hold().await;
    assert_eq!(service.seal().await.accounts, 0, "all is sealed");

    // A refund changes an old charge, and a late commit an old reservation. Old records move.
    service.refund_charge("ann", "charge-2", "late-refund", 2).await;
    service.refund_charge("ann", "charge-3", "late-refund-2", 2).await;
    service.commit_units("ann", "late").await;
    service.deduct(charge("new", "asset", 4)).await;
    service.assert_seals_hold().await;
    let store = app::connect(&service.database.config(&[])).await.unwrap();
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, service.clock.clone());
    let moved = archive_records(&*store, &calendar, 3.try_into().unwrap(), false, &Unwatched).await.unwrap();
    store.close().await;
    assert!(moved.records > 20, "{moved:?}");
    service.assert_seals_hold().await;

    service.clock.set("2026-12-05T04:00:00Z");
    service.deduct(charge("bob", "asset", 8)).await;
    assert_eq!(service.seal().await, SealedMonths { accounts: 3, left: 0, month: month("2026-11") });
    service.assert_seals_hold().await;
    let seals = service.database.rows(&["user_id", "month"], "FROM sealed_month ORDER BY user_id, month").await;
    let seals: Vec<String> = seals.iter().map(|row| row.join(" ")).collect();
    let expected = ["ann 2026-10", "ann 2026-11", "bob 2026-10", "bob 2026-11", "new 2026-11", "old 2026-10"];
    assert_eq!(seals, expected);
}

#[rstest]
#[tokio::test]
async fn an_open_month_is_not_sealed(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for (at, user) in [("2026-09-30T15:59:59Z", "september"), ("2026-09-30T16:00:00Z", "october")] {
        service.clock.set(at);
        service.deduct(charge(user, "asset", 1)).await;
    }
    // October ends on the 31st at 16:00, closes three days later, and is sealed a day after that.
    service.clock.set("2026-11-04T15:59:50Z");
    assert_eq!(service.seal().await, SealedMonths { accounts: 1, left: 0, month: month("2026-09") });
    let rows = service.database.rows(&["user_id"], "FROM sealed_account").await;
    assert_eq!(rows, [["september"]]);
    service.clock.set("2026-11-04T16:00:01Z");
    assert_eq!(service.seal().await, SealedMonths { accounts: 1, left: 0, month: month("2026-10") });
    service.assert_seals_hold().await;
}

#[rstest]
#[tokio::test]
async fn an_account_with_a_difference_is_not_sealed(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    for change in [
        "UPDATE billing_record SET count = count + 1 WHERE user_id = 'ann' AND type = 1 AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET paid_count = paid_count + 1 WHERE user_id = 'bob' AND trace_id = 'charge-5'",
    ] {
        service.database.execute(change).await;
    }
    assert_eq!(service.seal().await, SealedMonths { accounts: 1, left: 2, month: month("2026-10") });
    let nightly = service.nightly_audit().await;
    assert_eq!(nightly.suspects, 2);
    assert!(nightly.difference_count > 2, "{:#?}", nightly.differences);
    service
        .database
        .execute(
            "UPDATE billing_record SET count = count - 1 WHERE user_id = 'ann' AND type = 1 AND trace_id = 'charge-4'",
        )
        .await;
    assert_eq!(service.seal().await, SealedMonths { accounts: 1, left: 1, month: month("2026-10") });
}

/// Changes of sealed rows with their reversals, and the line of the whole audit that names each.
const CHANGES: [(&str, &str, &str); 16] = [
    (
        "UPDATE sealed_account SET balance = balance + 1 WHERE user_id = 'old'",
        "UPDATE sealed_account SET balance = balance - 1 WHERE user_id = 'old'",
        "user old: last seal, of 2026-10: closing balance says",
    ),
    (
        "UPDATE billing_record SET service_name = 'paxxport' WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_record SET service_name = 'asset' WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: seal of 2026-10: records says",
    ),
    (
        "UPDATE billing_record SET late_of = '2026-01' WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_record SET late_of = NULL WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: seal of 2026-10: records says",
    ),
    (
        "UPDATE billing_transaction SET model = 'gpt' WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET model = NULL WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: seal of 2026-10: transactions says",
    ),
    (
        "UPDATE billing_transaction SET charged_by = 1 WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET charged_by = NULL WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: seal of 2026-10: transactions says",
    ),
    (
        "UPDATE billing_transaction SET free_count = free_count - 1, paid_count = paid_count + 1 \
         WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET free_count = free_count + 1, paid_count = paid_count - 1 \
         WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: transaction charge-4 says 4 free and 6 paid units for 0.25, should be 5 free and 5 paid units for 0.25",
    ),
    (
        "UPDATE billing_transaction SET trace_id = 'hidden' WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET trace_id = 'charge-4' WHERE user_id = 'ann' AND trace_id = 'hidden'",
        "user ann: transaction hidden says",
    ),
    (
        "UPDATE charge_refund SET reason = 'gift' WHERE user_id = 'bob' AND refund_id = 'refund-3'",
        "UPDATE charge_refund SET reason = 'not delivered' WHERE user_id = 'bob' AND refund_id = 'refund-3'",
        "user bob: seal of 2026-10: refunds says",
    ),
    (
        "UPDATE balance_adjustment SET operator = CONCAT(operator, 'x') WHERE user_id = 'bob'",
        "UPDATE balance_adjustment SET operator = REPLACE(operator, 'x', '') WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: adjustments says",
    ),
    (
        "UPDATE recharge_order SET payment_order_id = 'other' WHERE user_id = 'bob'",
        "UPDATE recharge_order SET payment_order_id = 'payment-bob' WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: top-ups says",
    ),
    (
        "UPDATE recharge_refund SET kind = 'reported' WHERE user_id = 'bob'",
        "UPDATE recharge_refund SET kind = 'requested' WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: top-up refunds says",
    ),
    (
        "UPDATE sealed_month SET content = REPLACE(content, 'records:', 'records:1') WHERE user_id = 'bob'",
        "UPDATE sealed_month SET content = REPLACE(content, 'records:1', 'records:') WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: records says",
    ),
    (
        "UPDATE sealed_month SET balance = balance + 1 WHERE user_id = 'bob'",
        "UPDATE sealed_month SET balance = balance - 1 WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: closing balance says",
    ),
    (
        "UPDATE sealed_month SET seal = CONCAT('!', SUBSTR(seal, 2)) WHERE user_id = 'old'",
        "",
        "user old: seal of 2026-10: hash says",
    ),
    (
        "UPDATE sealed_account SET charged = charged + 1 WHERE user_id = 'bob'",
        "UPDATE sealed_account SET charged = charged - 1 WHERE user_id = 'bob'",
        "user bob: last seal, of 2026-10: charged amount says",
    ),
    (
        "DELETE FROM sealed_account WHERE user_id = 'ann'",
        "",
        "user ann: last seal, of 2026-10: account says none, should be one",
    ),
];

#[rstest]
#[tokio::test]
async fn the_whole_audit_names_each_sealed_row_that_was_changed(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    assert_eq!(service.seal().await.accounts, 3);
    let mut known = Vec::new();
    for (change, undo, line) in CHANGES {
        service.database.execute(change).await;
        let found = service.database.audit().await;
        let lines: Vec<String> = found.differences.iter().map(ToString::to_string).collect();
        assert!(lines.iter().any(|found| found.starts_with(line)), "{change}: {lines:#?}");
        if undo.is_empty() {
            known = lines;
            continue;
        }
        service.database.execute(undo).await;
        let left: Vec<String> = service.database.audit().await.differences.iter().map(ToString::to_string).collect();
        assert_eq!(left, known, "after {undo}");
    }
    // A record that is gone, with everything that follows from it.
    let gone = "user_id = 'bob' AND trace_id = 'charge-7'";
    service.database.execute(&format!("DELETE FROM billing_record WHERE {gone}")).await;
    let lines: Vec<String> = service.database.audit().await.differences.iter().map(ToString::to_string).collect();
    assert!(lines.iter().any(|line| line.starts_with("user bob: seal of 2026-10: records says 26 with")), "{lines:#?}");
}

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

/// The rows that statements of this database have read from a table since the server counts them.
async fn rows_read(service: &Service, table: &str) -> u64 {
    let from = format!(
        "FROM (SELECT 1 AS one) o LEFT JOIN information_schema.table_statistics \
         ON table_schema = DATABASE() AND table_name = '{table}'"
    );
    service.database.rows(&["COALESCE(SUM(rows_read), 0)"], &from).await[0][0].parse().unwrap()
}

#[tokio::test]
async fn jobs_of_mysql_read_one_month_however_many_there_are() {
    const USERS: u64 = 300;
    let service = Service::start(MySql).await;
    for sql in [
        "INSERT INTO user_balance (user_id, created_at, updated_at) \
         SELECT CONCAT('u', seq), '2020-01-01', '2020-01-01' FROM seq_1_to_300",
        "INSERT INTO free_quota (user_id, service_name, total_quota, used_quota, reset_month, created_at, updated_at) \
         SELECT CONCAT('u', u.seq), s.name, 10, 0, DATE_FORMAT('2020-01-01' + INTERVAL m.seq MONTH, '%Y-%m'), \
         '2020-01-01', '2020-01-01' FROM seq_1_to_300 u, seq_1_to_60 m, \
         (SELECT 'asset' AS name UNION SELECT 'payment' UNION SELECT 'passport') s",
        // Reservations that expire later.
        "INSERT INTO reservation_expiry (expires_at, user_id, trace_id) \
         SELECT '2030-01-01' + INTERVAL seq SECOND, CONCAT('u', seq), 'held' FROM seq_1_to_20000",
        "ANALYZE TABLE user_balance, free_quota, reservation_expiry",
        "SET GLOBAL userstat = 1",
    ] {
        service.database.execute(sql).await;
    }
    let store = app::connect(&service.database.config(&[])).await.unwrap();
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, service.clock.clone());
    service.clock.set("2024-11-21T04:00:00Z");
    let month = calendar.now().month;
    let before = rows_read(&service, "free_quota").await;
    let thresholds = Thresholds { balance: Money::ZERO, quota: Percent::from_hundredths(2_000) };
    store.count_low(thresholds, month, Duration::from_secs(60)).await.unwrap();
    let counted = rows_read(&service, "free_quota").await - before;
    assert!(counted >= 3 * USERS, "the statistics are on: {counted}");
    assert!(counted <= 4 * USERS, "{counted} rows of {} read", 60 * 3 * USERS);

    let catalog = service.database.config(&[]).catalog();
    let before = rows_read(&service, "free_quota").await;
    let reset = reset_quotas(&*store, &catalog, &calendar, &Unwatched).await.unwrap();
    assert_eq!((reset.users, reset.failed), (USERS, 0));
    let read = rows_read(&service, "free_quota").await - before;
    assert!(read <= 20 * USERS, "{read} rows of {} read", 60 * 3 * USERS);

    let before = rows_read(&service, "reservation_expiry").await;
    assert_eq!(store.due(calendar.now().utc, None, 500).await.unwrap(), []);
    let read = rows_read(&service, "reservation_expiry").await - before;
    assert!(read <= 10, "{read} rows of 20000 read");
    store.close().await;
}

#[rstest]
#[tokio::test]
async fn one_process_has_a_lease_and_another_when_it_is_gone(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let config = service.database.config(&[]);
    let (one, other) = (app::connect(&config).await.unwrap(), app::connect(&config).await.unwrap());
    let run = |owner: &str, minute: u32| Run {
        job: "sweep-of-a-test",
        period: format!("2026-11-21T04:{minute:02}:00Z servers"),
        is_by_hand: false,
        owner: owner.into(),
    };
    let done = async { Ok::<_, ()>(1) };
    let nested = async {
        // While the first process works, the second one does not, in this minute or the next.
        for minute in [1, 2] {
            let refused = under_lease(&*other, &run("other", minute), async { Ok::<_, ()>(2) }).await;
            assert_eq!(refused, Ok(None));
        }
        Ok::<_, ()>(1)
    };
    assert_eq!(under_lease(&*one, &run("one", 1), nested).await, Ok(Some(Ok(1))));
    assert_eq!(under_lease(&*other, &run("other", 1), done).await, Ok(None), "this minute is done");
    // The first process dies in the next minute.
    assert!(matches!(one.begin_run(&run("one", 2)).await, Ok(Begun::Ours { .. })));
    assert_eq!(under_lease(&*other, &run("other", 2), async { Ok::<_, ()>(2) }).await, Ok(None));
    end_lease(&service.database, "sweep-of-a-test").await;
    assert_eq!(under_lease(&*other, &run("other", 2), async { Ok::<_, ()>(2) }).await, Ok(Some(Ok(2))));
    // A failure leaves the minute to the others.
    assert_eq!(under_lease(&*other, &run("other", 3), async { Err::<(), _>("down") }).await, Ok(Some(Err("down"))));
    assert_eq!(under_lease(&*one, &run("one", 3), async { Ok::<_, ()>(3) }).await, Ok(Some(Ok(3))));
    one.close().await;
    other.close().await;
}
