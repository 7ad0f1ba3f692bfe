//! The gauges of the differences in the last audit, and of old pending top-ups.

use billing_service::{
    app::{self, App, cron::Job},
    biz::{
        recharge::order::Created,
        settlement::order::{Order, OrderStatus},
        values::{
            ids::{OrderId, UserId},
            money::Money,
        },
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use rstest::rstest;

use crate::{
    cron::{Counted, migrated, runner, users},
    harness::{Backend, Database, MySql, Sqlite, TestClock, wait::until},
};

/// Starts a server, and returns its gauges: the differences of the last audit, its end, and the old
/// top-ups.
async fn shown(database: &Database, clock: &TestClock) -> (Option<u64>, Option<i64>, u64) {
    let server = App::start_with_clock(database.config(&[]), clock.clone()).await.unwrap();
    let url = format!("http://{}/metrics", server.grpc_addr);
    let mut text = String::new();
    // The top-ups are counted last.
    until("ops_stats are read", async || {
        text = reqwest::get(&url).await.unwrap().text().await.unwrap();
        text.contains("\nbilling_recharge_pending_old ")
    })
    .await;
    server.stop().await;
    let find = |name| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    (
        find("billing_ledger_differences").map(|count| count.parse().unwrap()),
        find("billing_ledger_audited_timestamp_seconds").map(|at| at.parse().unwrap()),
        find("billing_recharge_pending_old").unwrap().parse().unwrap(),
    )
}

/// Runs the audit of the period at `instant`, like cron. Returns the last line of its report, or `None` if
/// it is interrupted.
async fn audit(database: &Database, instant: &str, watched: Counted) -> Option<String> {
    let clock = TestClock::real();
    clock.set(instant);
    let runner = runner(database.config(&[]), &clock, watched.stop.clone()).await;
    let report = runner.run_due(Job::Audit, &watched).await.ok()?.expect("the period was not run before");
    report.lines.last().cloned()
}

/// Runs the whole audit at `instant`, by hand or by its schedule. Returns the lines of its report, `None` if it is not due,
/// or an error if it is interrupted.
async fn audit_all(
    database: &Database,
    instant: &str,
    watched: Counted,
    is_by_hand: bool,
) -> Result<Option<Vec<String>>, String> {
    let clock = TestClock::real();
    clock.set(instant);
    let runner = runner(database.config(&[]), &clock, watched.stop.clone()).await;
    let ran = match is_by_hand {
        true => runner.run_now(Job::AuditAll, false, &watched).await,
        false => runner.run_due(Job::AuditAll, &watched).await,
    };
    ran.map(|report| report.map(|report| report.lines)).map_err(|error| error.to_string())
}

fn audited_all(users: u32, differences: u32) -> Result<Option<Vec<String>>, String> {
    let things = if differences == 1 { "difference" } else { "differences" };
    Ok(Some(vec![format!("audit-all: {users} users, {differences} {things}")]))
}

fn interrupted() -> Result<Option<Vec<String>>, String> {
    Err("the run was interrupted".into())
}

async fn differences(database: &Database) -> Option<u64> {
    shown(database, &TestClock::real()).await.0
}

async fn set_balances(database: &Database, balance: u32, users: &str) {
    database.execute(&format!("UPDATE user_balance SET balance = {balance} WHERE user_id IN ({users})")).await;
}

/// Adds an API key with a quota whose use has no transactions.
async fn wrong_key(database: &Database) {
    let at = if database.backend == MySql { "'2026-11-01'" } else { "1793491200000000" };
    let quota = format!(
        "INSERT INTO api_key_quota (api_key_id, quota_type, period, quota_limit, used, usage_date, created_at, updated_at) \
         VALUES ('k', 'requests', 'total', 9, 5, '2026-11-02', {at}, {at})"
    );
    database.execute(&quota).await;
}

#[rstest]
#[tokio::test]
async fn only_a_finished_scheduled_audit_changes_the_gauges(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    users(&database, 300).await;
    assert_eq!(differences(&database).await, None, "no audit has run yet");
    set_balances(&database, 1, "'user00000', 'user00299'").await;
    // Stops after the chunk with one of the two differences.
    let cut = audit(&database, "2026-11-20T04:00:00Z", Counted::cut_after(1)).await;
    assert_eq!((cut, differences(&database).await), (None, None));
    let ended = audit(&database, "2026-11-20T04:00:00Z", Counted::all()).await;
    assert_eq!(ended.unwrap(), "audit: 300 users, 2 differences", "the audit continued");
    assert_eq!(differences(&database).await, Some(2));

    set_balances(&database, 0, "'user00000', 'user00299'").await;
    let clock = TestClock::real();
    clock.set("2026-11-21T04:00:00Z");
    let by_hand = runner(database.config(&[]), &clock, Counted::all().stop).await;
    let report = by_hand.run_now(Job::Audit, false, &Counted::all()).await.unwrap().unwrap();
    assert_eq!(report.lines, ["audit: 300 users, 0 differences"]);
    let cut = audit(&database, "2026-11-21T04:00:00Z", Counted::cut_after(1)).await;
    assert_eq!((cut, differences(&database).await), (None, Some(2)));
    audit(&database, "2026-11-21T04:00:00Z", Counted::all()).await.unwrap();
    assert_eq!(differences(&database).await, Some(0));
}

#[rstest]
#[tokio::test]
async fn the_whole_audit_counts_by_schedule_and_by_hand_and_goes_on_in_the_next_period(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let database = migrated(Database::create(on).await).await;
    users(&database, 500).await;
    set_balances(&database, 1, "'user00000', 'user00499'").await;
    // The periods begin on Sundays at 05:00 in Shanghai.
    let cut = audit_all(&database, "2026-11-14T21:00:01Z", Counted::cut_after(1), false).await;
    assert_eq!((cut, differences(&database).await), (interrupted(), None));
    // The first 200 users are not audited again in the next week.
    set_balances(&database, 0, "'user00000'").await;
    let ended = audit_all(&database, "2026-11-23T04:00:00Z", Counted::all(), false).await;
    assert_eq!(ended, audited_all(500, 2));
    assert_eq!(differences(&database).await, Some(2));
    // The nightly audit finds one of them, and proves less.
    audit(&database, "2026-11-23T04:00:00Z", Counted::all()).await.unwrap();
    assert_eq!(differences(&database).await, Some(2), "the larger number");
    let anew = audit_all(&database, "2026-11-24T04:00:00Z", Counted::all(), true).await;
    assert_eq!(anew, audited_all(500, 1));
    assert_eq!(differences(&database).await, Some(1));
    set_balances(&database, 0, "'user00499'").await;
    audit(&database, "2026-11-25T04:00:00Z", Counted::all()).await.unwrap();
    assert_eq!(differences(&database).await, Some(1), "until a whole audit is clean");
    let clean = audit_all(&database, "2026-11-25T04:00:00Z", Counted::all(), true).await;
    assert_eq!(clean, audited_all(500, 0));
    assert_eq!(differences(&database).await, Some(0));
}

#[rstest]
#[tokio::test]
async fn differences_of_api_keys_are_in_each_checkpoint_and_in_the_result_once(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    users(&database, 300).await;
    wrong_key(&database).await;
    let clock = TestClock::real();
    clock.set("2026-11-14T21:00:01Z");
    let whole = async |watched: Counted| {
        let runner = runner(database.config(&[]), &clock, watched.stop.clone()).await;
        runner.run_due(Job::AuditAll, &watched).await.ok().map(|report| report.expect("no other process runs it"))
    };
    assert!(whole(Counted::cut_after(1)).await.is_none());
    let position = async || database.rows(&["position"], "FROM job_run").await[0][0].clone();
    assert!(position().await.starts_with("200 1 "), "{}", position().await);
    let ended = whole(Counted::all()).await.unwrap();
    assert_eq!((ended.lines, ended.is_good), (vec!["audit-all: 300 users, 1 difference".to_owned()], false));
    assert!(position().await.starts_with("300 1 "), "{}", position().await);
    assert_eq!(differences(&database).await, Some(1));
}

#[rstest]
#[tokio::test]
async fn the_differences_of_api_keys_count_without_any_user(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    wrong_key(&database).await;
    let runner = runner(database.config(&[]), &TestClock::real(), Counted::all().stop).await;
    runner.run_now(Job::AuditAll, false, &Counted::all()).await.unwrap().unwrap();
    assert_eq!(differences(&database).await, Some(1));
}

#[rstest]
#[tokio::test]
async fn a_whole_audit_goes_on_from_no_checkpoint_that_is_older_than_the_last_period(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let database = migrated(Database::create(on).await).await;
    users(&database, 500).await;
    set_balances(&database, 1, "'user00000', 'user00499'").await;
    // The first run waits for the night of a Sunday.
    assert_eq!(audit_all(&database, "2026-11-12T04:00:00Z", Counted::all(), false).await, Ok(None));
    assert_eq!(database.rows(&["COUNT(*)"], "FROM job_run").await, [["0"]]);
    assert_eq!(audit_all(&database, "2026-11-14T21:00:01Z", Counted::cut_after(1), false).await, interrupted());
    set_balances(&database, 0, "'user00000'").await;
    assert_eq!(
        audit_all(&database, "2026-11-30T04:00:00Z", Counted::all(), false).await,
        audited_all(500, 1),
        "two periods later"
    );
    // An audit by hand finished after the checkpoint.
    assert_eq!(audit_all(&database, "2026-12-06T04:00:00Z", Counted::cut_after(1), false).await, interrupted());
    assert_eq!(audit_all(&database, "2026-12-07T04:00:00Z", Counted::all(), true).await, audited_all(500, 1));
    set_balances(&database, 1, "'user00000'").await;
    assert_eq!(audit_all(&database, "2026-12-13T04:00:00Z", Counted::all(), false).await, audited_all(500, 2));
}

#[rstest]
#[tokio::test]
async fn the_gauges_show_the_audit_that_finished_last_and_its_end(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    let ends = ["2026-11-19T19:31:05Z", "2026-11-20T19:31:05Z"].map(|end| end.parse::<DateTime<Utc>>().unwrap());
    for (end, position) in ends.iter().zip(["'200 7 u'", "NULL"]) {
        let finished = match on {
            MySql => format!("'{}'", end.format("%F %T")),
            Sqlite => end.timestamp_micros().to_string(),
        };
        let values = format!("('audit', '{finished}', {position}, {finished}, {finished})").replace("''", "'");
        let columns = "(job, period, position, started_at, finished_at)";
        database.execute(&format!("INSERT INTO job_run {columns} VALUES {values}")).await;
    }
    // The later audit had no users.
    let clock = TestClock::real();
    assert_eq!(shown(&database, &clock).await, (Some(0), Some(ends[1].timestamp()), 0));
    database.execute("DELETE FROM job_run WHERE position IS NULL").await;
    assert_eq!(shown(&database, &clock).await, (Some(7), Some(ends[0].timestamp()), 0));
    database.execute("UPDATE job_run SET position = 'nonsense'").await;
    assert_eq!(shown(&database, &clock).await, (None, None, 0), "an unreadable run does not count as clean");
}

#[rstest]
#[tokio::test]
async fn a_top_up_is_old_if_it_is_pending_for_more_than_an_hour(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let store = app::connect(&database.config(&[])).await.unwrap();
    let now: DateTime<Utc> = "2026-11-21T12:00:00Z".parse().unwrap();
    let clock = TestClock::real();
    clock.stop_at(now);
    let hour = TimeDelta::hours(1);
    let statuses = [OrderStatus::Pending, OrderStatus::Success, OrderStatus::Failed, OrderStatus::Expired];
    for (number, status) in statuses.into_iter().enumerate() {
        for (age, made_at) in [("new", now), ("at", now - hour), ("old", now - hour - TimeDelta::microseconds(1))] {
            let order = Order {
                id: OrderId::from_stored(format!("recharge_u_{number}_{age}")),
                user: UserId::from_stored("u"),
                amount: Money::from_micros(5_000_000),
                method: None,
                status,
                payment: None,
                payment_url: None,
                refunded: Money::ZERO,
                refunding: Money::ZERO,
                credited_at: None,
                idempotency_key: None,
                created_at: made_at,
                updated_at: made_at,
            };
            assert_eq!(store.create_order(&order, None).await.unwrap(), Created::Stored);
        }
    }
    store.close().await;
    assert_eq!(shown(&database, &clock).await.2, 1);
    clock.stop_at(now + TimeDelta::seconds(1));
    assert_eq!(shown(&database, &clock).await.2, 2);
    database.execute("UPDATE recharge_order SET status = 'expired'").await;
    assert_eq!(shown(&database, &clock).await.2, 0);
}

#[rstest]
#[tokio::test]
async fn an_unapplied_payment_waits_for_an_operator_or_for_payment_service(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    let now: DateTime<Utc> = "2026-11-21T12:00:00Z".parse().unwrap();
    let clock = TestClock::real();
    clock.stop_at(now);
    let time = |age: TimeDelta| match on {
        MySql => format!("'{}'", (now - age).format("%F %T")),
        Sqlite => (now - age).timestamp_micros().to_string(),
    };
    let columns =
        "payment_order_id, order_id, amount, currency, cause, status, first_seen_at, last_seen_at, resolved_at";
    let statuses = ["open", "applied", "credited", "refunding", "refunded", "dismissed", "conflict"];
    for status in statuses {
        for (name, age) in [("new", TimeDelta::minutes(59)), ("old", TimeDelta::minutes(61))] {
            let (seen, resolved) = (time(TimeDelta::days(1)), time(age));
            let values =
                format!("'{status}-{name}', 'o', 7, 'CNY', 'unknown order', '{status}', {seen}, {seen}, {resolved}");
            database.execute(&format!("INSERT INTO unapplied_payment ({columns}) VALUES ({values})")).await;
        }
    }
    assert_eq!(shown(&database, &clock).await.2, 1, "a refund has been under way for more than an hour");
    let store = app::connect(&database.config(&[])).await.unwrap();
    assert_eq!(store.count_unapplied().await.unwrap(), 4, "open, and in conflict");
    app::close(&*store).await;
}

#[rstest]
#[tokio::test]
async fn a_refund_that_failed_is_shown_for_a_day(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    let now: DateTime<Utc> = "2026-11-21T12:00:00Z".parse().unwrap();
    let time = |age: TimeDelta| match on {
        MySql => format!("'{}'", (now - age).format("%F %T")),
        Sqlite => (now - age).timestamp_micros().to_string(),
    };
    let columns =
        "refund_id, order_id, user_id, kind, status, amount, request_id, balance_after, created_at, updated_at";
    for status in ["pending", "success", "failed"] {
        for (name, age) in [("new", TimeDelta::hours(23)), ("old", TimeDelta::hours(25))] {
            let (made, changed) = (time(TimeDelta::days(9)), time(age));
            let values = format!("'{status}-{name}', 'o', 'u', 'requested', '{status}', 7, '', 0, {made}, {changed}");
            database.execute(&format!("INSERT INTO recharge_refund ({columns}) VALUES ({values})")).await;
        }
    }
    let clock = TestClock::real();
    clock.stop_at(now);
    let server = App::start_with_clock(database.config(&[]), clock).await.unwrap();
    let url = format!("http://{}/metrics", server.grpc_addr);
    until("the refunds are counted", async || {
        let text = reqwest::get(&url).await.unwrap().text().await.unwrap();
        let shown = text.lines().find_map(|line| line.strip_prefix("billing_recharge_refunds_failed "));
        shown.inspect(|count| assert_eq!(*count, "1")).is_some()
    })
    .await;
    server.stop().await;
}
