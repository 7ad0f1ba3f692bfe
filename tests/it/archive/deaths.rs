//! Deaths at every statement of a move. A record and its transaction move together, or not at all.

use std::{
    path::Path,
    process::{Child, Command},
};

use rstest::rstest;

use super::{charge_all, charge_of, count};
use crate::{
    events::gate::{Death, Gate, SlowGate},
    harness::{Database, Service, Sqlite, mariadb::OwnServer, process},
};

const STATEMENTS: [&str; 4] = [
    "BEFORE INSERT ON billing_record_archive",
    "BEFORE DELETE ON billing_record",
    "BEFORE INSERT ON billing_transaction_archive",
    "BEFORE UPDATE ON billing_transaction",
];
/// Charges of each user. Each has one record.
const CHARGES: usize = 30;

/// A server on a database with old charges of two users.
async fn with_old_charges(database: Database) -> Service {
    let service = Service::start_on(database, &[]).await;
    service.clock.set("2020-01-05T04:00:00Z");
    for user in 0..2 {
        charge_all(&service, (0..CHARGES).map(|n| charge_of(user, n.to_string()))).await;
    }
    service
}

fn start(conf: &Path) -> Child {
    Command::new(process::CRON).args(["--once", "archive-records", "-conf"]).arg(conf).spawn().unwrap()
}

/// Rows of both tables of records, narrow transactions, and their content.
async fn rows(database: &Database) -> [usize; 4] {
    [
        count(database, "billing_record").await,
        count(database, "billing_record_archive").await,
        count(database, "billing_transaction WHERE status = 'ARCHIVED'").await,
        count(database, "billing_transaction_archive").await,
    ]
}

const NOTHING_MOVED: [usize; 4] = [2 * CHARGES, 0, 0, 0];
const ALL_MOVED: [usize; 4] = [0, 2 * CHARGES, 2 * CHARGES, 2 * CHARGES];

async fn assert_the_next_run_moves_all(database: &Database, conf: &Path) {
    database.execute("DELETE FROM job_lease").await;
    assert!(start(conf).wait().unwrap().success());
    assert_eq!(rows(database).await, ALL_MOVED);
    database.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_any_statement_of_a_move_leaves_each_transaction_whole_in_mariadb(
    #[values(Death::Database, Death::Server, Death::ServerBeforeCommit)] death: Death,
) {
    let mut mariadb = OwnServer::start().await;
    for statement in STATEMENTS {
        let service = with_old_charges(Database::on(mariadb.create_database().await)).await;
        let database = &service.database;
        let conf = database.config_file(&[("billing.record_months", "12")]);
        let gate = Gate::close(database, statement, "archive").await;
        let mut cron = start(&conf);
        gate.die_by(death, &mut mariadb, database, || cron.kill().unwrap()).await;
        let ended = cron.wait().unwrap();
        match death {
            // The job goes on with the same chunk.
            Death::Database => assert!(ended.success(), "{statement}"),
            // Its transaction was never committed.
            Death::Server | Death::ServerBeforeCommit => assert_eq!(rows(database).await, NOTHING_MOVED, "{statement}"),
        }
        assert_the_next_run_moves_all(database, &conf).await;
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_any_statement_of_a_move_leaves_each_transaction_whole_in_a_file() {
    for statement in STATEMENTS {
        let service = with_old_charges(Database::create(Sqlite).await).await;
        let database = &service.database;
        let conf = database.config_file(&[("billing.record_months", "12")]);
        SlowGate::prepare(database).await;
        let gate = SlowGate::close(database, statement).await;
        let mut cron = start(&conf);
        gate.die_by(|| cron.kill().unwrap()).await;
        cron.wait().unwrap();
        assert_eq!(rows(database).await, NOTHING_MOVED, "{statement}");
        assert_the_next_run_moves_all(database, &conf).await;
    }
}
