//! `kill -9` of cron at every chunk: finished work stays, and the next run continues.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rstest::rstest;
use tokio_util::sync::CancellationToken;

use super::{cron, end_lease, migrated, output_of, runs, stdout, users};
use crate::harness::{Backend, Database, MySql, Service, Sqlite, caller::Dice, charge, process::until_killed};

/// Time limit for a process to reach its next checkpoint or to end.
const DEADLINE: Duration = Duration::from_secs(30);
/// Most starts of the job.
const MAX_STARTS: usize = 100;

/// The progress of a job that is killed.
#[derive(Clone, Copy)]
enum Watch {
    /// Its checkpoint.
    Checkpoint,
    /// Some number of rows in a table.
    Rows(&'static str, u64),
}

/// Starts `--once JOB --resume` repeatedly, and kills each process after its next progress, until a
/// process finishes. Returns the output of each process and the number of kills.
async fn run_killed(
    database: &Database,
    conf: &Path,
    (job, stored): (&str, &str),
    more: &[&str],
    watch: Watch,
) -> (Vec<String>, usize) {
    let (mut printed, mut kills, mut position) = (Vec::new(), 0, String::new());
    for _ in 0..MAX_STARTS {
        // With `nice`, the test process runs first, so that it kills in time.
        let mut nice = Command::new("nice");
        let cron = cron(conf, &[&["--once", job, "--resume"], more].concat());
        nice.args(["-n", "10"]).arg(cron.get_program()).args(cron.get_args());
        let mut running = nice.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        if !next_progress(database, &mut running, stored, watch, &mut position).await {
            let ended = output_of(running).await;
            printed.push(stdout(&ended));
            return (printed, kills);
        }
        running.kill().unwrap();
        printed.push(stdout(&output_of(running).await));
        kills += 1;
        end_lease(database, stored).await;
        // The process may have gone on before the kill.
        position = kept_position(database, stored, watch).await.unwrap_or(position);
    }
    panic!("the job does not finish: {printed:?}");
}

/// Waits for the next progress. False if the process ended before.
async fn next_progress(
    database: &Database,
    running: &mut Child,
    job: &str,
    watch: Watch,
    position: &mut String,
) -> bool {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(kept) = kept_position(database, job, watch).await
            && kept != *position
        {
            *position = kept;
            return true;
        }
        if running.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "no checkpoint after {position:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn kept_position(database: &Database, job: &str, watch: Watch) -> Option<String> {
    if let Watch::Rows(table, some) = watch {
        let rows = database.rows(&["COUNT(*)"], &format!("FROM {table}")).await[0][0].parse::<u64>().unwrap() / some;
        return (rows > 0).then(|| rows.to_string());
    }
    runs(database, job).await.into_iter().map(|run| run[1].clone()).find(|position| !position.is_empty())
}

/// Charges random users until `stop`. Returns the number of charged units.
async fn charge_until(service: Arc<Service>, stop: CancellationToken, user_count: usize) -> u64 {
    let (mut dice, mut units) = (Dice(1), 0);
    while !stop.is_cancelled() {
        let count = 1 + dice.below(3) as i32;
        let reply = service.deduct(charge(&format!("user{:05}", dice.below(user_count)), "asset", count)).await;
        assert_eq!(reply.free_count, count);
        units += count as u64;
    }
    units
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_that_is_killed_at_every_chunk_opens_every_row_once(#[values(MySql, Sqlite)] on: Backend) {
    until_killed(4, || reset_and_kill(on)).await;
}

/// A run has 12 chunks.
async fn reset_and_kill(on: Backend) -> usize {
    const USERS: usize = 12_000;
    let service = Arc::new(Service::start(on).await);
    users(&service.database, USERS).await;
    let stop = CancellationToken::new();
    let charging = tokio::spawn(charge_until(service.clone(), stop.clone(), USERS));
    let conf = service.database.config_file(&[]);
    let (printed, kills) =
        run_killed(&service.database, &conf, ("reset-quotas", "reset-quotas"), &[], Watch::Checkpoint).await;
    stop.cancel();
    let units = charging.await.unwrap();
    println!("{kills} kills, {units} units charged");
    assert_eq!(printed.last().unwrap(), &format!("reset-quotas: {USERS} users open, 0 failed\n"));

    let rows = service
        .database
        .rows(
            &["reset_month", "service_name", "COUNT(*)", "MIN(total_quota)", "MAX(total_quota)", "SUM(used_quota)"],
            "FROM free_quota GROUP BY reset_month, service_name ORDER BY reset_month, service_name",
        )
        .await;
    assert_eq!(rows.len(), 6, "this month and the next: {rows:?}");
    for (row, (name, total)) in
        rows.iter().zip([("asset", "1000"), ("passport", "10000"), ("payment", "1000")].into_iter().cycle())
    {
        assert_eq!(row[1..5], [name, &USERS.to_string(), total, total], "{row:?}");
    }
    assert!(units > 0);
    assert_eq!(rows[0][5], units.to_string());
    service.assert_audit_is_clean().await;
    kills
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_that_is_killed_at_every_chunk_loses_no_difference(#[values(MySql, Sqlite)] on: Backend) {
    until_killed(3, || audit_and_kill(on)).await;
}

/// A run has 12 chunks.
async fn audit_and_kill(on: Backend) -> usize {
    let database = migrated(Database::create(on).await).await;
    users(&database, 2_400).await;
    let one = if on == MySql { "1" } else { "1000000" };
    // Two wrong balances in each chunk of 200 users, and the last user.
    let wrong = "user_id LIKE 'user_____' AND (user_id LIKE '%77' OR user_id = 'user02399')";
    database.execute(&format!("UPDATE user_balance SET balance = {one} WHERE {wrong}")).await;
    let conf = database.config_file(&[]);
    let (printed, kills) = run_killed(&database, &conf, ("audit", "audit-all"), &["--full"], Watch::Checkpoint).await;
    println!("{kills} kills");
    assert!(printed.last().unwrap().ends_with("audit-all: 2400 users, 25 differences\n"), "{printed:?}");
    let all = printed.concat();
    let reported: BTreeSet<&str> = all.lines().filter(|line| line.contains("balance says 1, should be 0")).collect();
    assert_eq!(reported.len(), 25, "{reported:?}");
    kills
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn months_that_are_sealed_under_kills_have_whole_seals(#[values(MySql, Sqlite)] on: Backend) {
    until_killed(2, || seal_and_kill(on)).await;
}

/// A transaction has 200 seals, and a checkpoint follows 5,000.
const SOME_SEALS: Watch = Watch::Rows("sealed_month", 1_400);

async fn seal_and_kill(on: Backend) -> usize {
    const USERS: usize = 20_000;
    let database = migrated(Database::create(on).await).await;
    users(&database, USERS).await;
    let (one, at) = match on {
        MySql => ("1", "'2026-01-05'"),
        Sqlite => ("1000000", "1767600000000000"),
    };
    database
        .execute(&format!(
            "INSERT INTO balance_adjustment (user_id, adjustment_id, amount, reason, operator, request_id, \
             balance_after, created_at) SELECT user_id, 'first', {one}, 'r', 'o', '', {one}, {at} FROM user_balance"
        ))
        .await;
    // And a charge, so that the balance is zero.
    for sql in [
        format!(
            "INSERT INTO billing_transaction (user_id, trace_id, status, service_name, count, free_count, paid_count, \
             amount, record_id, balance_after, free_remaining_after, created_at) \
             SELECT user_id, 't', 'COMMITTED', 'asset', 1, 0, 1, {one}, 'r', 0, 0, {at} FROM user_balance"
        ),
        format!(
            "INSERT INTO billing_record (billing_record_id, user_id, service_name, type, amount, count, created_at, \
             usage_date, trace_id) SELECT 'r', user_id, 'asset', 2, {one}, 1, {at}, '2026-01-05', 't' FROM user_balance"
        ),
        format!(
            "INSERT INTO usage_daily (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, \
             paid_records) SELECT user_id, '2026-01-05', 'asset', 0, 1, {one}, 0, 1 FROM user_balance"
        ),
    ] {
        database.execute(&sql).await;
    }
    let conf = database.config_file(&[]);
    let (printed, kills) = run_killed(&database, &conf, ("seal-months", "seal-months"), &[], SOME_SEALS).await;
    println!("{kills} kills");
    assert!(printed.last().unwrap().contains(" 0 with differences left"), "{printed:?}");
    let seals = database.rows(&["COUNT(*)"], "FROM sealed_month").await;
    assert_eq!(seals, [[USERS.to_string()]]);
    let same = "FROM sealed_month m JOIN sealed_account a ON a.user_id = m.user_id AND a.seal = m.seal";
    assert_eq!(database.rows(&["COUNT(*)"], same).await, [[USERS.to_string()]]);
    assert_eq!(database.audit().await.difference_count, 0);
    kills
}
