//! Scheduled jobs: each period runs once, even after an interruption. Months are opened ahead.

mod dry_run;
mod events;
mod kills;
mod live;
mod reset;
mod resume;
mod runs;
mod screen;
mod settlements;
mod year;
mod zones;

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use billing_service::{
    app::{
        self,
        cron::{Beginning, Display, Runner},
    },
    biz::values::calendar::Clock,
    config::Config,
};
use tokio_util::sync::CancellationToken;

use crate::harness::{Database, MySql, Sqlite, TestClock, process::CRON};

/// Counts items, keeps the reported lines, and can stop the run after a number of items.
pub struct Counted {
    begun: Mutex<Option<Beginning>>,
    expected: AtomicU64,
    done: AtomicU64,
    reported: Mutex<Vec<String>>,
    stop_after: u64,
    pub stop: CancellationToken,
}

impl Counted {
    pub fn all() -> Self {
        Self {
            begun: Mutex::default(),
            expected: AtomicU64::new(0),
            done: AtomicU64::new(0),
            reported: Mutex::default(),
            stop_after: u64::MAX,
            stop: CancellationToken::new(),
        }
    }

    /// Stops the run after `items` items.
    pub fn cut_after(items: u64) -> Self {
        Self { stop_after: items, ..Self::all() }
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    fn expected(&self) -> u64 {
        self.expected.load(Ordering::Relaxed)
    }

    pub fn reported(&self) -> Vec<String> {
        self.reported.lock().unwrap().clone()
    }
}

impl Display for Counted {
    fn begins(&self, from: Beginning) {
        *self.begun.lock().unwrap() = Some(from);
    }

    fn expect(&self, items: u64) {
        self.expected.store(items, Ordering::Relaxed);
    }

    fn advance(&self, items: u64) {
        if self.done.fetch_add(items, Ordering::Relaxed) + items >= self.stop_after {
            self.stop.cancel();
        }
    }

    fn report(&self, line: &str) {
        self.reported.lock().unwrap().push(line.to_owned());
    }
}

pub async fn runner(config: Config, clock: &TestClock, stop: CancellationToken) -> Runner {
    let store = app::connect(&config).await.unwrap();
    Runner::new(Arc::new(config), store, Arc::new(clock.clone()) as Arc<dyn Clock>, stop)
}

/// A database with empty tables.
pub async fn migrated(database: Database) -> Database {
    app::close(&*app::connect(&database.config(&[])).await.unwrap()).await;
    database
}

/// Rows of a month: user, service, total and used.
async fn quotas(database: &Database, month: &str) -> Vec<Vec<String>> {
    let from = format!("FROM free_quota WHERE reset_month = '{month}' ORDER BY user_id, service_name");
    database.rows(&["user_id", "service_name", "total_quota", "used_quota"], &from).await
}

/// The stored runs of a job.
async fn runs(database: &Database, job: &str) -> Vec<Vec<String>> {
    let columns = ["period", "COALESCE(position, '')", "finished_at IS NOT NULL"];
    database.rows(&columns, &format!("FROM job_run WHERE job = '{job}' ORDER BY period")).await
}

/// Ends the lease of a killed process, so that the test need not wait for its end.
pub async fn end_lease(database: &Database, job: &str) {
    let gone = match database.backend {
        MySql => "UTC_TIMESTAMP() - INTERVAL 1 SECOND",
        Sqlite => "(unixepoch() - 1) * 1000000",
    };
    database.execute(&format!("UPDATE job_lease SET ends_at = {gone} WHERE job = '{job}'")).await;
}

/// Adds users without quota rows.
pub async fn users(database: &Database, count: usize) {
    let names: Vec<String> = (0..count).map(|number| format!("user{number:05}")).collect();
    add_users(database, &names).await;
}

/// Adds rows in SQL. The service would also write quota rows.
async fn add_users(database: &Database, names: &[String]) {
    for chunk in names.chunks(2_000) {
        let now = match database.backend {
            MySql => "UTC_TIMESTAMP()",
            Sqlite => "0",
        };
        let rows = chunk.iter().map(|name| format!("('id{name}', '{name}', 0, 0, {now}, {now})"));
        let rows: Vec<String> = rows.collect();
        database
            .execute(&format!(
                "INSERT INTO user_balance (user_balance_id, user_id, balance, version, created_at, updated_at) VALUES {}",
                rows.join(",")
            ))
            .await;
    }
}

/// `cron -conf CONF ...`. It ends with the test.
fn cron(conf: &Path, arguments: &[&str]) -> Command {
    let mut cron = Command::new(CRON);
    cron.arg("-conf").arg(conf).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    cron
}

/// Runs cron to its end, without blocking the other tasks of the test.
async fn run(mut cron: Command) -> Output {
    tokio::task::spawn_blocking(move || cron.output().unwrap()).await.unwrap()
}

/// Waits for the end of a process.
async fn output_of(cron: Child) -> Output {
    tokio::task::spawn_blocking(|| cron.wait_with_output().unwrap()).await.unwrap()
}

/// Sends SIGTERM.
fn terminate(cron: &Child) {
    assert!(Command::new("kill").arg(cron.id().to_string()).status().unwrap().success());
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The last line of a report.
fn sum(output: &Output) -> String {
    stdout(output).lines().last().unwrap_or_default().to_owned()
}
