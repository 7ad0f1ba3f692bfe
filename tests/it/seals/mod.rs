//! Closed months are sealed: the nightly audit begins at the seals, and the whole audit finds each row that was changed
//! after its seal. Other jobs read no more than a month, or run once for all processes.

mod changes;
mod job;
mod nightly;
mod pieces;
mod reads;

use std::sync::Mutex;

use async_trait::async_trait;
use billing_service::{
    app,
    biz::{
        jobs::{
            archive::archive_records,
            audit::{AtOnce, AuditReport, Sources, audit, audit_unsealed},
            progress::Progress,
            seals::job::{SealedMonths, seal_months},
        },
        values::{
            calendar::{Calendar, Month},
            error::StoreError,
        },
    },
    service::proto::{CommitReservationRequest, RefundChargeRequest, ReserveQuotaRequest},
};
use rstest::rstest;

use crate::harness::{Backend, MySql, Service, Sqlite, charge, progress::Unwatched, traced};

/// The lines that a run reports at once.
#[derive(Default)]
struct Reported(Mutex<Vec<String>>);

#[async_trait]
impl Progress for Reported {
    fn position(&self) -> Option<String> {
        None
    }

    fn expect(&self, _: u64) {}

    async fn reached(&self, _: &str, _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn report(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

impl Service {
    pub async fn seal(&self) -> SealedMonths {
        self.seal_in(AtOnce::default()).await.0
    }

    /// As [`Self::seal`], with the lines of the run.
    async fn seal_in(&self, at_once: AtOnce) -> (SealedMonths, Vec<String>) {
        let config = self.database.config(&[]);
        let store = app::connect(&config).await.unwrap();
        let (calendar, reported) = (config.calendar(self.clock.clone()), Reported::default());
        let sources = Sources { at_once, ..Sources::new(&*store, &calendar) };
        let sealed = seal_months(sources, false, &reported).await.unwrap();
        store.close().await;
        (sealed, reported.0.into_inner().unwrap())
    }

    async fn nightly_audit(&self) -> AuditReport {
        self.nightly_audit_in(AtOnce::default()).await
    }

    async fn nightly_audit_in(&self, at_once: AtOnce) -> AuditReport {
        self.nightly_audit_with(at_once, &[]).await
    }

    async fn nightly_audit_with(&self, at_once: AtOnce, settings: &[(&str, &str)]) -> AuditReport {
        let config = self.database.config(settings);
        let (store, calendar) = (app::connect(&config).await.unwrap(), config.calendar(self.clock.clone()));
        let sources = Sources { at_once, ..Sources::new(&*store, &calendar) };
        let report = audit_unsealed(sources, &Unwatched).await.unwrap();
        store.close().await;
        report
    }

    async fn whole_audit_in(&self, at_once: AtOnce) -> AuditReport {
        let config = self.database.config(&[]);
        let (store, calendar) = (app::connect(&config).await.unwrap(), config.calendar(self.clock.clone()));
        let report = audit(Sources { at_once, ..Sources::new(&*store, &calendar) }, &Unwatched).await.unwrap();
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

    /// Seals at the end of November, and puts the times of the last changes back: a test database writes them by the
    /// clock of the machine.
    async fn seal_as_in_november(&self) -> SealedMonths {
        let sealed = self.seal().await;
        self.put_times_back().await;
        sealed
    }

    async fn put_times_back(&self) {
        let at = self.sql_time("2026-03-09T04:00:00Z");
        self.database.execute(&format!("UPDATE user_balance SET updated_at = {at}")).await;
    }

    /// The lines of the nightly audit.
    pub async fn found_at_night(&self) -> Vec<String> {
        self.nightly_audit().await.differences.iter().map(ToString::to_string).collect()
    }

    /// The lines of the whole audit.
    async fn found_in_all(&self) -> Vec<String> {
        self.database.audit().await.differences.iter().map(ToString::to_string).collect()
    }

    /// An amount of whole units in SQL, of which `hundredths` are given.
    fn sql_amount(&self, hundredths: i64) -> String {
        match self.database.backend {
            MySql => format!("{}.{:02}", hundredths / 100, hundredths % 100),
            Sqlite => (hundredths * 10_000).to_string(),
        }
    }

    /// The transaction of a charge of two paid units on 2026-11-20, and its record, in SQL: a batch that was committed
    /// without the write of the account.
    async fn charge_in_part(&self, user: &str, trace: &str, at: &str, has_record: bool) {
        let (time, amount) = (self.sql_time(at), self.sql_amount(10));
        let day = &at[..10];
        self.database
            .execute(&format!(
                "INSERT INTO billing_transaction (user_id, trace_id, status, service_name, count, free_count, \
                 paid_count, amount, record_id, balance_after, free_remaining_after, created_at) VALUES \
                 ('{user}', '{trace}', 'COMMITTED', 'asset', 2, 0, 2, {amount}, 'r-{trace}', 0, 0, {time})"
            ))
            .await;
        if has_record {
            self.record(user, trace, &time, day).await;
        }
    }

    /// A record of two paid units in SQL.
    async fn record(&self, user: &str, trace: &str, time: &str, day: &str) {
        let amount = self.sql_amount(10);
        self.database
            .execute(&format!(
                "INSERT INTO billing_record (billing_record_id, user_id, service_name, type, amount, count, created_at, \
                 usage_date, trace_id) VALUES ('r-{trace}-{day}', '{user}', 'asset', 2, {amount}, 2, {time}, '{day}', \
                 '{trace}')"
            ))
            .await;
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
            format!(
                "UPDATE user_balance SET balance = balance + {five} - {two}, version = version + 1 WHERE user_id = '{user}'"
            ),
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
    let opened = service.sql_time("2026-01-02T04:00:00Z");
    let columns = "user_id, reset_month, service_name, units, created_at";
    let opening = format!("INSERT INTO quota_opening ({columns}) VALUES ('bob', '2025-12', 'asset', 0, {opened})");
    service.database.execute(&opening).await;
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
    assert_eq!(service.seal().await, SealedMonths { accounts: 3, left: 0, lacking: 0, month: month("2026-10") });
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
    assert!(moved.moved.records > 20 && moved.moved.transactions > 10, "{moved:?}");
    service.assert_seals_hold().await;

    service.clock.set("2026-12-05T04:00:00Z");
    service.deduct(charge("bob", "asset", 8)).await;
    assert_eq!(service.seal().await, SealedMonths { accounts: 3, left: 0, lacking: 0, month: month("2026-11") });
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
    assert_eq!(service.seal().await, SealedMonths { accounts: 1, left: 0, lacking: 0, month: month("2026-09") });
    let rows = service.database.rows(&["user_id"], "FROM sealed_account").await;
    assert_eq!(rows, [["september"]]);
    service.clock.set("2026-11-04T16:00:01Z");
    assert_eq!(service.seal().await, SealedMonths { accounts: 1, left: 0, lacking: 0, month: month("2026-10") });
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
    let (sealed, lines) = service.seal_in(AtOnce::default()).await;
    assert_eq!(sealed, SealedMonths { accounts: 1, left: 2, lacking: 0, month: month("2026-10") });
    for line in ["user ann: used quota of asset in 2026-04 says", "user bob: transaction charge-5 says"] {
        assert!(lines.iter().any(|found| found.starts_with(line)), "{lines:#?}");
    }
    let nightly = service.nightly_audit().await;
    assert_eq!(nightly.suspects, 2);
    assert!(nightly.difference_count > 2, "{:#?}", nightly.differences);
    service
        .database
        .execute(
            "UPDATE billing_record SET count = count - 1 WHERE user_id = 'ann' AND type = 1 AND trace_id = 'charge-4'",
        )
        .await;
    // It was left before, which the run says once.
    assert_eq!(service.seal().await, SealedMonths { accounts: 1, left: 1, lacking: 1, month: month("2026-10") });
    assert_eq!(service.seal().await, SealedMonths { accounts: 0, left: 1, lacking: 0, month: month("2026-10") });
}
