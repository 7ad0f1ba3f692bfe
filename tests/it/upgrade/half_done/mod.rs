//! Processes that are killed between the statements of a migration. MariaDB commits each change of a table by itself,
//! so the statements before the kill run once more. SQLite rolls the migration back.

mod kills;
mod proxy;

use billing_service::{config::Config, sandbox::Switches};
use rstest::rstest;
use serde_json::{Value, json};

use self::kills::{Versions, copy, killed_on_mysql, killed_on_sqlite, upgraded};
use super::{
    OLD_ROWS, OLD_TABLES, legacy,
    release::{LAST_READ, NEWEST, SETTINGS, assert_all_kept, assert_same, contents, filled, fixture},
};
use crate::{
    archive::move_all_but,
    harness::{
        Backend, Database, MySql, Service, Sqlite, TestClock,
        payments::{sandbox, settings},
    },
    schema::definitions,
};

const BEFORE_RELEASE: Versions = (1, NEWEST);
const SINCE_RELEASE: Versions = (NEWEST + 1, i64::MAX);
/// The seals and the archive of transactions.
const SEALS: Versions = (34, i64::MAX);
/// Takes a schema back to migration 33, with the records of two months in the archive.
const WITHOUT_SEALS: &str = "
DROP VIEW IF EXISTS settled_transaction;
DROP TABLE billing_transaction_archive;
DROP TABLE transactions_archived;
DROP TABLE sealed_month;
DROP TABLE sealed_account;
DROP TABLE all_sealed;
DROP TABLE low_count;
DELETE FROM _sqlx_migrations WHERE version > 33;
INSERT INTO billing_record_archive
    (billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id, late_of)
    SELECT billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id, late_of
    FROM billing_record WHERE usage_date < '2026-10-01';
DELETE FROM billing_record WHERE usage_date < '2026-10-01';
";
const MONTHS: [&str; 4] = ["2026-08", "2026-09", "2026-10", "2026-11"];
/// Just after the last calls, so that the reservation is still pending.
const LAST_CALLS: &str = "2026-11-20T03:00:30Z";
/// All months are closed.
const LATER: &str = "2026-12-05T04:00:00Z";

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_of_release_0_1_0_killed_behind_any_statement_has_the_usual_result(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let (old, sandbox) = (filled(on).await, sandbox(Switches::default()).await);
    let straight = copy(&old).await;
    upgraded(&straight).await;
    straight.assert_audit_is_clean().await;
    let (expected, replays) = (contents(&straight).await, fixture(on).1["replays"].clone());
    let check = async |database: Database| {
        assert_same(&contents(&database).await, &expected);
        database.assert_audit_is_clean().await;
        let config = database.config(&settings(&sandbox, &SETTINGS));
        let service = service_at(database, config, LAST_READ).await;
        assert_all_kept(&replays, &service.repeated(&replays).await);
        service.app.stop().await;
    };
    match on {
        MySql => killed_on_mysql(&old, SINCE_RELEASE, check).await,
        Sqlite => check(killed_on_sqlite(&old, SINCE_RELEASE).await).await,
    }
}

/// The tables of the legacy service become those of release 0.1.0 by the migrations before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversion_killed_behind_any_statement_has_the_usual_result() {
    let old = legacy::database("UTC").await;
    old.execute(OLD_TABLES).await;
    old.execute(OLD_ROWS).await;
    let straight = copy(&old).await;
    upgraded(&straight).await;
    straight.assert_audit_is_clean().await;
    let expected = (definitions(&straight).await, legacy::contents(&straight).await);
    let check = async |database: Database| {
        assert_eq!((definitions(&database).await, legacy::contents(&database).await), expected);
        database.assert_audit_is_clean().await;
    };
    killed_on_mysql(&old, BEFORE_RELEASE, check).await;
}

async fn service_at(database: Database, config: Config, instant: &str) -> Service {
    let clock = TestClock::real();
    clock.set(instant);
    Service::start_with_clock(database, config, clock).await
}

/// A call of the internal port.
fn call(rpc: &str, body: Value) -> Value {
    json!({"path": format!("/internal/v1/billing/{rpc}"), "body": body})
}

/// The calls of a month: free and paid units, a batch, reservations, and a refund of the month before.
fn calls(month: &str, before: Option<&str>) -> Vec<Value> {
    let id = |name: &str| format!("{name}-{month}");
    let charge = |name: &str, user: &str, count: u32| json!({"user_id": user, "service_name": "asset", "count": count, "trace_id": id(name)});
    let of = |name: &str| json!({"user_id": "ann", "trace_id": id(name)});
    let credit =
        json!({"user_id": "ann", "amount": 100, "reason": "a credit", "adjustment_id": id("credit"), "operator": "op"});
    let mut calls = vec![
        call("adjust", credit),
        call("deduct", charge("mixed", "ann", 1010)),
        call("deduct", charge("paid", "ann", 3)),
        call("deduct", charge("free", "bob", 7)),
        call("deduct/batch", json!({"items": [charge("batch", "ann", 2), charge("batch", "bob", 2)]})),
        call("reserve", charge("committed", "ann", 4)),
        call("commit", of("committed")),
        call("reserve", charge("released", "ann", 5)),
        call("release", of("released")),
    ];
    calls.extend(before.map(|before| {
        let refund = json!({"user_id": "ann", "trace_id": format!("mixed-{before}"), "refund_id": id("refund"), "count": 2, "reason": "not delivered"});
        call("refund", refund)
    }));
    calls
}

/// The accounts, and transactions of the first month.
fn reads() -> Value {
    let accounts = ["ann", "bob"].map(|user| format!("/api/v1/billing/account?user_id={user}"));
    let records = ["ann", "bob"].map(|user| format!("/api/v1/billing/records?user_id={user}&page_size=100"));
    let public = accounts.iter().chain(&records).map(|path| json!({"path": path, "public": true}));
    let old = ["mixed", "paid", "batch", "committed", "released"].map(
        |name| json!({"path": format!("/internal/v1/billing/transactions/ann/{name}-{}", MONTHS[0]), "public": false}),
    );
    public.chain(old).collect()
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_to_seals_killed_behind_any_statement_has_the_usual_result(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let mut made = Vec::new();
    for (at, month) in MONTHS.iter().enumerate() {
        service.clock.set(&format!("{month}-20T03:00:00Z"));
        let calls = calls(month, at.checked_sub(1).map(|before| MONTHS[before]));
        for (call, (status, reply)) in calls.iter().zip(service.repeated(&calls.clone().into()).await) {
            assert_eq!(status, 200, "{call}: {reply}");
        }
        made.extend(calls);
    }
    let pending = json!({"user_id": "ann", "service_name": "asset", "count": 6, "trace_id": "pending"});
    made.push(call("reserve", pending));
    let made = Value::Array(made);
    service.clock.set(LAST_CALLS);
    // Makes the last call, and repeats the others.
    service.repeated(&made).await;
    let replies = (service.repeated(&made).await, service.read_again(&reads()).await);
    assert!(replies.1.iter().all(|(status, _)| *status == 200), "{:#?}", replies.1);
    service.assert_audit_is_clean().await;
    let old = copy(&service.database).await;
    service.app.stop().await;
    old.execute(WITHOUT_SEALS).await;
    old.execute(match on {
        MySql => "ALTER TABLE free_quota DROP KEY idx_month",
        Sqlite => "DROP INDEX idx_free_quota_month",
    })
    .await;

    let straight = copy(&old).await;
    upgraded(&straight).await;
    let expected = contents(&straight).await;
    let check = async |database: Database| {
        assert_same(&contents(&database).await, &expected);
        database.assert_audit_is_clean().await;
        let config = database.config(&[]);
        let service = service_at(database, config, LAST_CALLS).await;
        assert_eq!((service.repeated(&made).await, service.read_again(&reads()).await), replies);
        service.history_goes_on().await;
    };
    check(straight).await;
    match on {
        MySql => killed_on_mysql(&old, SEALS, check).await,
        Sqlite => check(killed_on_sqlite(&old, SEALS).await).await,
    }
}

impl Service {
    /// The pending reservation is committed, months are sealed, and old transactions move to the archive.
    async fn history_goes_on(self) {
        let commit = json!([call("commit", json!({"user_id": "ann", "trace_id": "pending"}))]);
        assert_eq!(self.repeated(&commit).await[0].0, 200);
        self.clock.set(LATER);
        let sealed = self.seal().await;
        assert_eq!((sealed.accounts, sealed.left, sealed.lacking), (2, 0, 0));
        let moved = move_all_but(&self.database, &self.clock, 1).await;
        assert!(moved.records > 0 && moved.transactions > 0, "{moved:?}");
        self.assert_seals_hold().await;
        self.app.stop().await;
    }
}
