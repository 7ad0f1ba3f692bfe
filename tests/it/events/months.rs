//! Deaths at the statements of the job that announces closed months. Then the job runs again.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use rstest::rstest;
use serde_json::json;

use super::{
    all, client_of, data,
    gate::{Death, Gate, SlowGate},
    types,
};
use crate::harness::{
    Database, MySql, Sqlite,
    mariadb::OwnServer,
    process::{CRON, ServerProcess},
    wait::until,
};

/// The statements of the job, in no order.
const STATEMENTS: [&str; 3] = ["BEFORE UPDATE ON event_feed", "BEFORE INSERT ON event", "AFTER INSERT ON event"];
/// The months that one run announces.
const MONTHS: i32 = 2;

fn start(conf: &Path) -> Child {
    let arguments = ["-conf", conf.to_str().unwrap(), "--once", "close-months"];
    Command::new(CRON).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Runs the job. Returns whether it succeeded.
async fn runs(database: &Database, conf: &Path) -> bool {
    // A killed process has the lease for a minute.
    let long_ago = match database.backend {
        MySql => "'2020-01-01'",
        Sqlite => "0",
    };
    database.execute(&format!("UPDATE job_lease SET ends_at = {long_ago} WHERE job = 'close-months'")).await;
    let mut cron = start(conf);
    tokio::task::spawn_blocking(move || cron.wait().unwrap().success()).await.unwrap()
}

async fn last_closed(database: &Database) -> String {
    database.rows(&["closed_month"], "FROM event_feed").await[0][0].clone()
}

/// The months since `months` before `last`, without the first one.
fn following(last: &str, months: i32) -> Vec<String> {
    let (year, month) = last.split_once('-').unwrap();
    let number = year.parse::<i32>().unwrap() * 12 + month.parse::<i32>().unwrap() - 1;
    (number - months..=number).map(|number| format!("{}-{:02}", number / 12, number % 12 + 1)).collect()
}

/// A database whose last closed month is remembered, and the file of its configuration.
async fn remembering(database: &Database) -> (std::path::PathBuf, ServerProcess, Vec<String>) {
    let conf = database.config_file(&[("server.grpc.timeout", "5s")]);
    let server = ServerProcess::start_beside(&conf).await;
    assert!(runs(database, &conf).await);
    let months = following(&last_closed(database).await, MONTHS);
    (conf, server, months)
}

/// Takes the feed back to before it knew of the months.
async fn forget(database: &Database, months: &[String]) {
    database.execute("DELETE FROM event").await;
    database.execute(&format!("UPDATE event_feed SET closed_month = '{}'", months[0])).await;
}

/// Runs the job until it succeeds, and once more. Each month left one event.
async fn assert_once(database: &Database, conf: &Path, server: &ServerProcess, months: &[String], death: &str) {
    until("the job has run", async || runs(database, conf).await).await;
    assert!(runs(database, conf).await);
    assert_eq!(last_closed(database).await, months[months.len() - 1]);
    let events = all(&client_of(server).await).await;
    assert_eq!(types(&events), ["month.closed"; MONTHS as usize], "after a death at {death}");
    let told: Vec<_> = events.iter().map(|event| data(event)["month"].clone()).collect();
    let expected: Vec<_> = months[1..].iter().map(|month| json!(month)).collect();
    assert_eq!(told, expected, "after a death at {death}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_a_statement_of_a_closing_month_leaves_its_event_once_in_mariadb(
    #[values(Death::Database, Death::Server, Death::ServerBeforeCommit)] death: Death,
) {
    let mut mariadb = OwnServer::start().await;
    let database = Database::on(mariadb.create_database().await);
    let (conf, server, months) = remembering(&database).await;
    for statement in STATEMENTS {
        forget(&database, &months).await;
        let gate = Gate::close(&database, statement, "cron").await;
        let mut cron = start(&conf);
        gate.die_by(death, &mut mariadb, &database, || cron.kill().unwrap()).await;
        cron.wait().unwrap();
        assert_once(&database, &conf, &server, &months, statement).await;
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_of_cron_at_a_statement_of_a_closing_month_leaves_its_event_once_in_a_file() {
    let database = Database::create(Sqlite).await;
    let (conf, server, months) = remembering(&database).await;
    SlowGate::prepare(&database).await;
    for statement in STATEMENTS {
        forget(&database, &months).await;
        let gate = SlowGate::close(&database, statement).await;
        let mut cron = start(&conf);
        gate.die_by(|| cron.kill().unwrap()).await;
        cron.wait().unwrap();
        assert_once(&database, &conf, &server, &months, statement).await;
    }
}
