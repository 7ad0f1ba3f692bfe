//! Old records and their transactions move to the archive, and reads of them do not change.

mod collations;
mod columns;
mod damage;
mod deaths;
mod key_quotas;
mod left;
mod transactions;

use std::time::Duration;

use billing_service::{
    app::{
        self,
        cron::{JobReport, Runner},
    },
    biz::{
        jobs::archive::{Moved, archive_records},
        values::calendar::{Calendar, Clock},
    },
    service::proto::{
        BatchDeductQuotaRequest, CommitReservationRequest, DeductQuotaRequest, GetUsageRequest, ListRecordsReply,
        ListRecordsRequest, ReserveQuotaRequest,
    },
};
use rstest::rstest;

use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, TestClock, caller::Dice, charge, process, progress::Unwatched,
};

/// A charge of 5 free and 5 paid units in each month of 2026 up to November.
async fn a_year(on: Backend) -> Service {
    let service = Service::start_with(on, &[("billing.free_quotas.asset", "5")]).await;
    for user in ["ann", "bob"] {
        service.adjust(user, 100.0).await;
        for month in 1..=11 {
            service.clock.set(&format!("2026-{month:02}-05T04:00:00Z"));
            service.deduct(charge(user, "asset", 10)).await;
        }
    }
    service.clock.set("2026-11-21T04:00:00Z");
    service
}

/// Moves all records except those of the last `months` months.
async fn keep_months(database: &Database, clock: &TestClock, months: u32) -> u64 {
    move_all_but(database, clock, months).await.records
}

/// As [`keep_months`], with the number of transactions.
pub async fn move_all_but(database: &Database, clock: &TestClock, months: u32) -> Moved {
    move_or_count(database, clock, months, false).await
}

/// As [`move_all_but`], or a dry run of it.
async fn move_or_count(database: &Database, clock: &TestClock, months: u32, is_dry_run: bool) -> Moved {
    let store = app::connect(&database.config(&[])).await.unwrap();
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, clock.clone());
    let moved = archive_records(&*store, &calendar, months.try_into().unwrap(), is_dry_run, &Unwatched).await.unwrap();
    store.close().await;
    moved.moved
}

async fn count(database: &Database, table: &str) -> usize {
    database.rows(&["COUNT(*)"], &format!("FROM {table}")).await[0][0].parse().unwrap()
}

/// All reads of a user's records in the front end.
async fn seen(service: &Service, user: &str) -> (Vec<ListRecordsReply>, String, String) {
    let all = ListRecordsRequest { user_id: user.into(), page_size: 100, ..Default::default() };
    let mut lists = Vec::new();
    for request in [
        all.clone(),
        ListRecordsRequest { r#type: 2, ..all.clone() },
        ListRecordsRequest { service_name: "asset".into(), page_size: 7, page: 2, ..all.clone() },
        ListRecordsRequest { from: "2026-06-01".into(), to: "2026-09-30".into(), ..all.clone() },
        ListRecordsRequest { to: "2026-03-31".into(), r#type: 1, ..all.clone() },
    ] {
        lists.push(service.records(request).await);
    }
    let mut token = String::new();
    // Ends with the last page.
    loop {
        let request = ListRecordsRequest { page_size: 3, page_token: token, ..all.clone() };
        let page = service.records(request).await;
        token = page.next_page_token.clone();
        lists.push(page);
        if token.is_empty() {
            break;
        }
    }
    let url = format!("http://{}/api/v1/billing/records.csv?user_id={user}", service.app.http_addr);
    let export = service.http.get(url).send().await.unwrap().text().await.unwrap();
    let request = GetUsageRequest { user_id: user.into(), from: "2026-01-01".into(), ..Default::default() };
    let usage = service.public.clone().get_usage(request).await.unwrap().into_inner();
    (lists, export, format!("{usage:?}"))
}

#[rstest]
#[tokio::test]
async fn reads_of_records_do_not_depend_on_the_archive(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    let before = [seen(&service, "ann").await, seen(&service, "bob").await];
    assert_eq!(before[0].0[0].records.len(), 22);
    // Keeps this month and the eight before it.
    assert_eq!(keep_months(&service.database, &service.clock, 8).await, 8);
    assert_eq!(
        (count(&service.database, "billing_record_archive").await, count(&service.database, "billing_record").await),
        (8, 36)
    );
    assert_eq!([seen(&service, "ann").await, seen(&service, "bob").await], before);
    service.assert_audit_is_clean().await;

    assert_eq!(keep_months(&service.database, &service.clock, 8).await, 0, "all old records were moved");
    assert_eq!(keep_months(&service.database, &service.clock, 1).await, 28);
    assert_eq!([seen(&service, "ann").await, seen(&service, "bob").await], before);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_month_moves_at_midnight_of_the_billing_zone(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    // The last minute of February and the first of March in Shanghai.
    for at in ["2026-02-28T15:59:00Z", "2026-02-28T16:00:00Z"] {
        service.clock.set(at);
        service.deduct(charge("u", "asset", 1)).await;
    }
    service.clock.set("2026-03-31T16:00:00Z");
    assert_eq!(keep_months(&service.database, &service.clock, 1).await, 1);
    let kept = service.database.rows(&["usage_date"], "FROM billing_record").await;
    assert!(kept[0][0].starts_with("2026-03-01"), "{kept:?}");
}

#[rstest]
#[tokio::test]
async fn charges_go_on_while_records_move(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-01-05T04:00:00Z");
    for user in 0..4 {
        service.adjust(&format!("u{user}"), 100.0).await;
        for batch in 0..3 {
            charge_all(&service, (0..500).map(|n| charge_of(user, format!("old-{batch}-{n}")))).await;
        }
    }
    // An old reservation is committed while its month moves.
    let late = ReserveQuotaRequest {
        user_id: "u0".into(),
        trace_id: "late".into(),
        service_name: "asset".into(),
        count: 1,
        ..Default::default()
    };
    assert!(service.internal.clone().reserve_quota(late).await.unwrap().into_inner().success);
    service.clock.set("2026-11-05T04:00:00Z");
    let before = service.records(ListRecordsRequest { user_id: "u0".into(), ..Default::default() }).await.total;
    let charging = async {
        for n in 0..100 {
            for user in 0..4 {
                assert!(service.deduct(charge_of(user, format!("new-{n}"))).await.success);
            }
            if n == 5 {
                let commit =
                    CommitReservationRequest { user_id: "u0".into(), trace_id: "late".into(), ..Default::default() };
                assert!(service.internal.clone().commit_reservation(commit).await.unwrap().into_inner().success);
            }
        }
    };
    let reading = async {
        // The number of records is right at any time of the move.
        for _ in 0..60 {
            let old = ListRecordsRequest { user_id: "u3".into(), to: "2026-01-31".into(), ..Default::default() };
            let mut found = 0;
            let mut request = ListRecordsRequest { page_size: 100, ..old.clone() };
            loop {
                let page = service.records(request.clone()).await;
                found += page.records.len();
                request.page_token = page.next_page_token;
                if request.page_token.is_empty() {
                    break;
                }
            }
            assert_eq!(found, 1_500);
        }
    };
    let moving = keep_months(&service.database, &service.clock, 3);
    let (moved, (), ()) = tokio::join!(moving, charging, reading);
    assert_eq!(moved, 6_000);
    let after = service.records(ListRecordsRequest { user_id: "u0".into(), ..Default::default() }).await.total;
    assert_eq!(after, before + 101);
    service.assert_audit_is_clean().await;
    // The late commit counts to this month, because its own has closed.
    let late = service.database.rows(&["late_of"], "FROM billing_record WHERE trace_id = 'late'").await;
    assert_eq!(late, [["2026-01"]]);
    assert_eq!(keep_months(&service.database, &service.clock, 3).await, 0);
}

async fn charge_all(service: &Service, charges: impl Iterator<Item = DeductQuotaRequest>) {
    let request = BatchDeductQuotaRequest { items: charges.collect() };
    let reply = service.internal.clone().batch_deduct_quota(request).await.unwrap().into_inner();
    assert!(reply.results.iter().all(|result| result.error.is_none()));
}

fn charge_of(user: usize, trace_id: String) -> DeductQuotaRequest {
    DeductQuotaRequest { trace_id, ..charge(&format!("u{user}"), "passport", 1) }
}

#[rstest]
#[tokio::test]
async fn the_job_obeys_the_configured_months(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    let run = async |months: &str, is_dry_run: bool| {
        let report = run_job(&service, months, is_dry_run).await;
        (report.lines[0].clone(), count(&service.database, "billing_record_archive").await)
    };
    let none = "archive-records: billing.record_months is not configured; all records stay";
    assert_eq!(run("0", false).await, (none.into(), 0));
    assert_eq!(
        run("6", true).await,
        ("archive-records: 16 records and 8 transactions from before 2026-05 would be moved".into(), 0)
    );
    assert_eq!(
        run("6", false).await,
        ("archive-records: 16 records and 8 transactions from before 2026-05 moved".into(), 16)
    );
}

async fn run_job(service: &Service, months: &str, is_dry_run: bool) -> JobReport {
    let config = service.database.config(&[("billing.record_months", months)]);
    let store = app::connect(&config).await.unwrap();
    let clock = std::sync::Arc::new(service.clock.clone()) as std::sync::Arc<dyn Clock>;
    let runner = Runner::new(config.into(), store, clock, Default::default());
    let (job, shown) = (app::cron::Job::ArchiveRecords, Silent);
    match is_dry_run {
        true => runner.dry_run(job, &shown).await.unwrap(),
        false => runner.run_now(job, false, &shown).await.unwrap().unwrap(),
    }
}

/// A display that shows nothing.
struct Silent;

impl app::cron::Display for Silent {
    fn begins(&self, _: app::cron::Beginning) {}
    fn expect(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn report(&self, _: &str) {}
}

#[rstest]
#[tokio::test]
async fn a_killed_run_loses_and_doubles_no_record(#[values(MySql, Sqlite)] on: Backend) {
    let mut dice = Dice(0);
    process::until_killed(5, async || move_and_kill(on, &mut dice).await).await;
}

/// Longest wait between a finished move and the kill in milliseconds. The next move takes about as long.
const LONGEST_WAIT: usize = 100;

/// Starts runs that are killed after a further move, until a run finishes. Returns the number of
/// kills.
async fn move_and_kill(on: Backend, dice: &mut Dice) -> usize {
    let service = Service::start(on).await;
    service.clock.set("2020-01-05T04:00:00Z");
    for user in 0..3 {
        for batch in 0..8 {
            charge_all(&service, (0..500).map(|n| charge_of(user, format!("{batch}-{n}")))).await;
        }
    }
    let conf = service.database.config_file(&[("billing.record_months", "12")]);
    let mut kills = 0;
    // Ends, because each run moves at least 250 records before its kill.
    loop {
        let there = count(&service.database, "billing_record_archive").await;
        // With `nice`, the test process runs first, so that it kills in time.
        let mut cron = std::process::Command::new("nice")
            .args(["-n", "10", process::CRON, "--once", "archive-records", "-conf"])
            .arg(&conf)
            .spawn()
            .unwrap();
        crate::harness::wait::until("records move, or the run is over", async || {
            cron.try_wait().unwrap().is_some() || count(&service.database, "billing_record_archive").await > there
        })
        .await;
        if cron.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        kills += 1;
        // The kill comes during the next move, or before it.
        tokio::time::sleep(Duration::from_millis(dice.below(LONGEST_WAIT) as u64)).await;
        cron.kill().unwrap();
        cron.wait().unwrap();
        service.database.execute("DELETE FROM job_lease").await;
        let (moved, left) = (
            count(&service.database, "billing_record_archive").await,
            count(&service.database, "billing_record").await,
        );
        assert_eq!(moved + left, 12_000, "after {kills} kills");
        assert_eq!(moved % 250, 0, "a transaction moves all of its records or none");
        let narrow = count(&service.database, "billing_transaction WHERE status = 'ARCHIVED'").await;
        assert_eq!((narrow, count(&service.database, "billing_transaction_archive").await), (moved, moved));
    }
    println!("{kills} kills");
    assert_eq!(count(&service.database, "billing_record_archive").await, 12_000);
    service.assert_audit_is_clean().await;
    kills
}

#[tokio::test]
async fn a_record_written_during_the_copy_is_not_deleted() {
    let service = Service::start(MySql).await;
    service.clock.set("2026-01-05T04:00:00Z");
    for trace in ["a", "b"] {
        service.deduct(charge_of(0, trace.into())).await;
    }
    service.clock.set("2026-11-05T04:00:00Z");
    // Blocks the copy until the late record is written.
    let mut other = service.database.mysql().await;
    let hold = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION; INSERT INTO billing_record_archive \
        (billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id) SELECT * FROM \
        (SELECT billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id \
         FROM billing_record) first_of_all ORDER BY created_at LIMIT 1";
    sqlx::raw_sql(hold).execute(&mut other).await.unwrap();
    let moving = keep_months(&service.database, &service.clock, 1);
    let writing = async {
        let waits = "FROM information_schema.processlist WHERE db = DATABASE() AND time_ms > 100 \
            AND info LIKE 'INSERT INTO billing_record_archive%'";
        crate::harness::wait::until("the copy waits", async || !service.database.rows(&["id"], waits).await.is_empty())
            .await;
        let late = "INSERT INTO billing_record \
            (billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id) \
            SELECT 'late', user_id, service_name, type, amount, count, MIN(created_at), MIN(usage_date), 'late' \
            FROM billing_record";
        service.database.execute(late).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    };
    let (moved, ()) = tokio::join!(moving, writing);
    assert_eq!((moved, count(&service.database, "billing_record_archive").await), (3, 3));
}
