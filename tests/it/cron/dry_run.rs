//! `--dry-run`: prints the changes that a job would make, and changes no row.

use billing_service::{app::cron::Job, service::proto::ReserveQuotaRequest};
use rstest::rstest;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Counted, cron, migrated, run, runner, stderr, stdout, sum, users};
use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, TestClock, charge,
    payments::{Paying, settings},
};

/// All tables that a job could change.
async fn tables(database: &Database) -> Vec<Vec<Vec<String>>> {
    let mut all = Vec::new();
    for (table, columns) in [
        ("free_quota", "user_id, service_name, reset_month, total_quota, used_quota, held_quota, updated_at"),
        ("user_balance", "user_id, balance, held, version, updated_at"),
        ("recharge_order", "order_id, status, updated_at"),
        ("billing_transaction", "user_id, trace_id, status"),
        (listed_holds(database), "user_id, trace_id, expires_at"),
        ("billing_record", "billing_record_id"),
        ("billing_record_archive", "billing_record_id"),
        ("billing_transaction_archive", "user_id, trace_id"),
        ("transactions_archived", "done_at"),
        ("usage_daily", "user_id, usage_date, service_name, free_count"),
        // A server counts low accounts when it starts.
        ("job_run WHERE job <> 'count-low'", "job, period, started_at"),
        ("job_lease WHERE job <> 'count-low'", "job, owner, ends_at"),
    ] {
        let columns: Vec<&str> = columns.split(", ").collect();
        let mut rows = database.rows(&columns, &format!("FROM {table}")).await;
        rows.sort();
        all.push(rows);
    }
    all
}

fn listed_holds(database: &Database) -> &'static str {
    match database.backend {
        MySql => "reservation_expiry",
        Sqlite => "billing_transaction",
    }
}

#[rstest]
#[tokio::test]
async fn a_dry_run_of_a_reset_counts_the_rows_to_write(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-20T04:00:00Z");
    service.deduct(charge("spender", "asset", 7)).await;
    users(&service.database, 1_200).await;
    let clock = service.clock.clone();
    let of = async |asset: &str| {
        let config = service.database.config(&[("billing.free_quotas.asset", asset)]);
        runner(config, &clock, CancellationToken::new()).await
    };
    let (before, shown) = (tables(&service.database).await, Counted::all());
    let report = of("1000").await.dry_run(Job::ResetQuotas, &shown).await.unwrap();
    assert!(report.is_good);
    assert_eq!(
        report.lines,
        [
            "reset-quotas: 2026-11 asset: 1200 rows would be written, 0 totals changed",
            "reset-quotas: 2026-11 passport: 1200 rows would be written, 0 totals changed",
            "reset-quotas: 2026-11 payment: 1200 rows would be written, 0 totals changed",
            "reset-quotas: 2026-12 asset: 1201 rows would be written, 0 totals changed",
            "reset-quotas: 2026-12 passport: 1201 rows would be written, 0 totals changed",
            "reset-quotas: 2026-12 payment: 1201 rows would be written, 0 totals changed",
            "reset-quotas: 1201 users, 7203 rows would be written, 0 totals changed",
        ]
    );
    assert_eq!((shown.expected(), shown.done()), (1_201, 1_201));
    assert_eq!(tables(&service.database).await, before);

    // The run makes exactly these changes. With other quotas, it only changes the next month.
    of("1000").await.run_due(Job::ResetQuotas, &Counted::all()).await.unwrap();
    let before = tables(&service.database).await;
    let report = of("500").await.dry_run(Job::ResetQuotas, &Counted::all()).await.unwrap();
    assert_eq!(report.lines[3], "reset-quotas: 2026-12 asset: 0 rows would be written, 1201 totals changed");
    assert_eq!(report.lines[6], "reset-quotas: 1201 users, 0 rows would be written, 1201 totals changed");
    assert_eq!(tables(&service.database).await, before);
}

#[rstest]
#[tokio::test]
async fn a_dry_run_of_a_sweep_lists_the_holds_to_free(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("billing.reservation_ttl", "1ms")]).await;
    for number in 0..25 {
        let (user_id, service_name) = ("u".to_owned(), "asset".to_owned());
        let trace_id = format!("r{number:02}");
        let hold = ReserveQuotaRequest { user_id, service_name, trace_id, count: 1, ..Default::default() };
        service.internal.clone().reserve_quota(hold).await.unwrap();
    }
    let conf = service.database.config_file(&[]);
    let before = tables(&service.database).await;
    let dry = run(cron(&conf, &["--once", "expire-reservations", "--dry-run"])).await;
    assert_eq!(dry.status.code(), Some(0), "{}", stderr(&dry));
    assert_eq!(sum(&dry), "expire-reservations: 25 reservations would be ended");
    assert_eq!(stdout(&dry).lines().count(), 21, "{}", stdout(&dry));
    assert!(stdout(&dry).starts_with("expire-reservations: user u, trace_id r00, expired at 2"), "{}", stdout(&dry));
    assert_eq!(tables(&service.database).await, before);
    let wet = run(cron(&conf, &["--once", "expire-reservations"])).await;
    assert_eq!(sum(&wet), "expire-reservations: 25 holds freed, 0 streams charged, 0 failed");
}

#[rstest]
#[tokio::test]
async fn a_dry_run_of_a_reconciliation_looks_orders_up_and_settles_none(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    paying.switch(json!({"lose": true}));
    let [paid, failed, waiting] =
        [paying.recharge("u", 5.0).await, paying.recharge("u", 6.0).await, paying.recharge("u", 7.0).await];
    paying.press(&paid.payment_url, "SUCCESS").await;
    paying.press(&failed.payment_url, "FAILED").await;
    let database = &paying.service.database;
    let reconcile = async |expire_after: &str, more: &[&str]| {
        let after = [("payment_service.reconcile_after", "1ms"), ("payment_service.expire_after", expire_after)];
        let conf = database.config_file(&settings(&paying.sandbox, &after));
        run(cron(&conf, &[&["--once", "reconcile-recharges"], more].concat())).await
    };
    let before = tables(database).await;
    let dry = reconcile("1h", &["--dry-run"]).await;
    assert_eq!(
        stdout(&dry).lines().collect::<Vec<_>>(),
        [
            format!("reconcile-recharges: {}: 5 would be credited", paid.order_id),
            format!("reconcile-recharges: {}: pending would become failed", failed.order_id),
            format!("reconcile-recharges: {}: would stay pending", waiting.order_id),
            "reconcile-recharges: 1 would be credited, 1 failed, 0 expired, 1 left, 0 errors".to_owned(),
        ]
    );
    let dry = reconcile("2ms", &["--dry-run"]).await;
    let expires = format!("{}: pending would become expired\n", waiting.order_id);
    assert!(stdout(&dry).contains(&expires), "{}", stdout(&dry));
    assert_eq!(tables(database).await, before);
    let wet = reconcile("2ms", &[]).await;
    assert_eq!(sum(&wet), "reconcile-recharges: 1 credited, 1 failed, 1 expired, 0 left, 0 errors");
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn an_audit_is_its_own_dry_run(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    users(&database, 300).await;
    let one = if on == MySql { "1" } else { "1000000" };
    database.execute(&format!("UPDATE user_balance SET balance = {one} WHERE user_id = 'user00007'")).await;
    let conf = database.config_file(&[]);
    let before = tables(&database).await;
    let dry = run(cron(&conf, &["--once", "audit", "--dry-run"])).await;
    assert_eq!(
        (stdout(&dry).as_str(), dry.status.code()),
        (
            "audit: user user00007: balance says 1, should be 0\naudit: 1 user was audited whole\naudit: 300 users, 1 difference\n",
            Some(1)
        )
    );
    assert_eq!(tables(&database).await, before);
}

#[rstest]
#[tokio::test]
async fn a_dry_run_counts_the_records_to_move_and_the_users_to_rebuild(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for at in ["2026-01-05T04:00:00Z", "2026-02-05T04:00:00Z", "2026-11-20T04:00:00Z"] {
        service.clock.set(at);
        service.deduct(charge("u", "asset", 7)).await;
    }
    service.database.execute("UPDATE usage_daily SET free_count = 8 WHERE usage_date = '2026-02-05'").await;
    let config = service.database.config(&[("billing.record_months", "9")]);
    let runner = runner(config, &service.clock, CancellationToken::new()).await;
    let before = tables(&service.database).await;
    let line = async |job: Job| runner.dry_run(job, &Counted::all()).await.unwrap().lines.pop().unwrap();
    assert_eq!(
        line(Job::ArchiveRecords).await,
        "archive-records: 1 record and 1 transaction from before 2026-02 would be moved"
    );
    assert_eq!(line(Job::RebuildRollup).await, "rebuild-rollup: 1 user, 1 differing, would be rebuilt");
    assert_eq!(tables(&service.database).await, before);
    let done = runner.run_now(Job::RebuildRollup, false, &Counted::all()).await.unwrap().unwrap();
    assert_eq!(done.lines.last().unwrap(), "rebuild-rollup: 1 user, 1 differing, rebuilt");
    assert_eq!(line(Job::RebuildRollup).await, "rebuild-rollup: 1 user, 0 differing, nothing to rebuild");
    let done = runner.run_due(Job::ArchiveRecords, &Counted::all()).await.unwrap().unwrap();
    assert_eq!(done.lines, ["archive-records: 1 record and 1 transaction from before 2026-02 moved"]);
    assert_eq!(runner.run_due(Job::ArchiveRecords, &Counted::all()).await.unwrap(), None);
    service.assert_audit_is_clean().await;
}

#[tokio::test]
async fn a_dry_run_needs_one_job_and_does_not_resume() {
    let database = migrated(Database::create(Sqlite).await).await;
    let conf = database.config_file(&[]);
    for arguments in [&["--dry-run"][..], &["--resume"], &["--once", "audit", "--dry-run", "--resume"]] {
        let refused = run(cron(&conf, arguments)).await;
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&refused).contains("--once") && refused.stdout.is_empty(), "{refused:?}");
    }
}

#[rstest]
#[tokio::test]
async fn a_dry_run_needs_no_lease(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let runner = runner(database.config(&[]), &TestClock::real(), CancellationToken::new()).await;
    let never = if on == MySql { "'9999-01-01'" } else { "9223372036854775807" };
    for job in [Job::Audit, Job::ResetQuotas, Job::ExpireReservations] {
        let lease = format!("INSERT INTO job_lease (job, owner, ends_at) VALUES ('{job}', 'other', {never})");
        database.execute(&lease).await;
        assert!(runner.dry_run(job, &Counted::all()).await.unwrap().is_good);
    }
}
