//! Backups of a busy database, as docs/backup.md makes them: each is restored, audited and used.

use std::{
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, charge as charge_of, http_client,
    mariadb::{self, OwnServer},
    private_server::needs_installed,
    process::ServerProcess,
    wait::until,
};

/// Charges that are acknowledged before the backup begins, and again before it may end.
const CHARGES: u64 = 50;
/// Users of these charges. Each has 1,000 free units.
const USERS: u64 = 7;
/// A new id keeps the restored database away from entries in Redis that are newer than the backup.
const NEW_ID: &str = "UPDATE database_identity SET id = '3b4d2c5e-1111-4000-8000-000000000000'";

async fn post(server: &ServerProcess, path: &str, body: Value) -> Value {
    let request = http_client().post(format!("{}/internal/v1/billing/{path}", server.grpc)).body(body.to_string());
    request.send().await.unwrap().json().await.unwrap()
}

async fn charge(server: &ServerProcess, number: u64) -> Value {
    let user = format!("u-{}", number % USERS);
    let charge = json!({"user_id": user, "service_name": "asset", "count": 1, "trace_id": format!("t-{number}")});
    post(server, "deduct", charge).await
}

/// Makes a backup while charges go on, before, during and after it. Returns the number of charges that were
/// acknowledged before it began, and in all.
async fn back_up_under_load(server: &ServerProcess, backup: impl FnOnce() + Send + 'static) -> (u64, u64) {
    let (made, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    for user in 0..USERS {
        let credit = json!({"user_id": format!("u-{user}"), "amount": 1, "reason": "test", "adjustment_id": "a"});
        assert_eq!(post(server, "adjust", credit).await["success"], true);
    }
    let charging = async {
        while !ended.load(Ordering::Relaxed) {
            let number = made.load(Ordering::Relaxed);
            let reply = charge(server, number).await;
            assert_eq!((&reply["success"], &reply["replayed"]), (&json!(true), &json!(false)), "{reply}");
            made.fetch_add(1, Ordering::Relaxed);
        }
    };
    let backing_up = async {
        until("there are charges", async || made.load(Ordering::Relaxed) >= CHARGES).await;
        let before = made.load(Ordering::Relaxed);
        tokio::task::spawn_blocking(backup).await.unwrap();
        let after = made.load(Ordering::Relaxed);
        until("charges go on", async || made.load(Ordering::Relaxed) >= after + CHARGES).await;
        ended.store(true, Ordering::Relaxed);
        before
    };
    let ((), before) = tokio::join!(charging, backing_up);
    (before, made.load(Ordering::Relaxed))
}

/// A restored database has clean books and all charges from before the backup, lacks the last ones, and serves.
async fn assert_is_usable(restored: &Database, (before, all): (u64, u64)) {
    restored.execute(NEW_ID).await;
    restored.assert_audit_is_clean().await;
    let conf = restored.config_file(&[]);
    let server = ServerProcess::start_beside(&conf).await;
    for number in 0..before {
        assert_eq!(charge(&server, number).await["replayed"], true, "charge {number} of {before}");
    }
    assert_eq!(charge(&server, all - 1).await["replayed"], false, "a charge after the backup");
    drop(server);
    restored.assert_audit_is_clean().await;
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; `make deps` installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The port and the name of the database in a source.
fn place(source: &str) -> (String, String) {
    let (_, rest) = source.split_once("tcp(127.0.0.1:").unwrap();
    let (port, rest) = rest.split_once(")/").unwrap();
    (port.to_owned(), rest.split('?').next().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_of_a_busy_mysql_database_is_restored_with_clean_books() {
    needs_installed("mariadb-dump");
    let database = Database::on(mariadb::create_database().await);
    let conf = database.config_file(&[]);
    let server = ServerProcess::start_beside(&conf).await;
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("billing.sql");
    let ((port, name), file) = (place(&database.source), dump.clone());
    let made =
        back_up_under_load(&server, move || {
            let target = format!("--result-file={}", file.display());
            succeeds(
                Command::new("mariadb-dump")
                    .args(["--no-defaults", "-h127.0.0.1", "-uroot", &format!("-P{port}")])
                    .args(["--single-transaction", "--hex-blob", &target, &name]),
            );
        })
        .await;
    let restored = Database::on(mariadb::create_database().await);
    let (port, name) = place(&restored.source);
    succeeds(
        Command::new("mariadb")
            .args(["--no-defaults", "-h127.0.0.1", "-uroot", &format!("-P{port}"), &name])
            .stdin(std::fs::File::open(dump).unwrap()),
    );
    assert_is_usable(&restored, made).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_files_of_a_busy_mariadb_is_restored_with_clean_books() {
    needs_installed("mariabackup");
    if mariadb::is_tidb() {
        return;
    }
    let own = OwnServer::start().await;
    let database = Database::on(own.create_database().await);
    let conf = database.config_file(&[]);
    let server = ServerProcess::start_beside(&conf).await;
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    let (port, data, target) = (own.port(), own.data(), format!("--target-dir={}", backup.display()));
    let made = back_up_under_load(&server, move || {
        let data = format!("--datadir={}", data.display());
        let port = format!("--port={port}");
        let server = ["--host=127.0.0.1", &port, "--user=root"];
        succeeds(Command::new("mariabackup").args(["--no-defaults", "--backup", &target, &data]).args(server));
        succeeds(Command::new("mariabackup").args(["--no-defaults", "--prepare", &target]));
    })
    .await;
    let other = OwnServer::restore(backup).await;
    let (_, name) = place(&database.source);
    let restored = Database::on(format!("root@tcp(127.0.0.1:{})/{name}?charset=utf8mb4", other.port()));
    assert_is_usable(&restored, made).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_busy_sqlite_file_is_restored_with_clean_books() {
    needs_installed("sqlite3");
    let database = Database::create(Sqlite).await;
    let conf = database.config_file(&[]);
    let server = ServerProcess::start_beside(&conf).await;
    let restored = Database::empty(Sqlite).await;
    let (from, to) = (database.source.clone(), restored.source.clone());
    let made = back_up_under_load(&server, move || {
        assert!(!Path::new(&to).exists());
        succeeds(Command::new("sqlite3").args([&from, ".timeout 10000", &format!("VACUUM INTO '{to}'")]));
    })
    .await;
    assert_is_usable(&restored, made).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adjustment_keeps_a_difference_that_the_documented_statements_end(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 10.0).await;
    service.deduct(charge_of("u", "asset", 1_010)).await;
    service
        .database
        .execute("UPDATE user_balance SET balance = balance + 1, version = version + 1 WHERE user_id = 'u'")
        .await;
    assert_eq!(service.database.audit().await.differences.len(), 1);
    service.adjust("u", -1.0).await;
    assert_eq!(service.database.audit().await.differences.len(), 1);
    // The history lacks the movement: its row.
    let now = match on {
        MySql => "UTC_TIMESTAMP(6)",
        Sqlite => "1796000000000000",
    };
    let insert = format!(
        "INSERT INTO balance_adjustment (user_id, adjustment_id, amount, reason, operator, request_id, balance_after, created_at)
        VALUES ('u', 'correction-1', 1, 'by SQL', 'ann', '3b4d2c5e-0000-4000-8000-000000000000', 9, {now})"
    );
    service.database.execute(&insert).await;
    service.assert_audit_is_clean().await;
    // The history is right: its figure.
    service
        .database
        .execute("UPDATE user_balance SET balance = balance - 2, version = version + 1 WHERE user_id = 'u'")
        .await;
    assert_eq!(service.database.audit().await.differences.len(), 1);
    let correct = "UPDATE user_balance SET balance = balance + 2, version = version + 1 WHERE user_id = 'u'";
    service.database.execute(correct).await;
    service.assert_audit_is_clean().await;
}
