//! The binaries, run like an operator runs them.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use futures_util::future::join_all;
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{
    Backend, Database, MySql, Sqlite, http_client,
    private_server::free_port,
    process::{CRON, SERVER, ServerProcess, run},
};

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn post(base: &str, path: &str, body: Value) -> Value {
    let request = http_client().post(format!("{base}{path}")).body(body.to_string());
    request.send().await.unwrap().json().await.unwrap()
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_stops_on_sigterm_and_keeps_its_charges(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(&[]);
    let server = ServerProcess::start(&conf);
    let charge = json!({"user_id": "u", "service_name": "asset", "count": 5, "trace_id": "t"});
    assert_eq!(post(&server.grpc, "/internal/v1/billing/deduct", charge.clone()).await["free_remaining"], 995);
    server.terminate();
    assert_eq!(server.wait(), Some(0));

    let server = ServerProcess::start(&conf);
    assert_eq!(post(&server.grpc, "/internal/v1/billing/deduct", charge).await["replayed"], true);
    drop(server);
    let audit = run(CRON, &["-conf", conf.to_str().unwrap(), "--once", "audit"], &[]);
    assert_eq!(audit.status.code(), Some(0), "{}", stderr(&audit));
    assert_eq!(String::from_utf8_lossy(&audit.stdout), "audit: 1 user, 0 differences\n");
}

#[rstest]
#[case("balance", "UPDATE user_balance SET balance = balance + 1 WHERE user_id = 'u'", "balance says")]
#[case(
    "quota",
    "UPDATE free_quota SET used_quota = used_quota - 1 WHERE service_name = 'asset'",
    "used quota of asset"
)]
#[case("record", "DELETE FROM billing_record WHERE type = 2", "amount of transactions")]
#[case("quota below zero", "UPDATE free_quota SET used_quota = -1 WHERE service_name = 'asset'", "says -1")]
#[case("use below zero", "UPDATE usage_daily SET free_count = -5", "says -5 free units")]
#[case("rollup", "UPDATE usage_daily SET paid_count = paid_count + 1", "rollup of asset")]
#[case("stranger", "UPDATE usage_daily SET user_id = 'nobody'", "user nobody")]
#[case("transaction", "DELETE FROM billing_transaction", "units of transactions")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_finds_changed_rows(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] what: &str,
    #[case] tampering: &str,
    #[case] found: &str,
) {
    let service = crate::harness::Service::start(on).await;
    service.adjust("u", 10.0).await;
    service.deduct(crate::harness::charge("u", "asset", 1010)).await;
    service.assert_audit_is_clean().await;
    service.database.execute(tampering).await;
    let conf = service.database.config_file(&[]);
    for whole in [&["--full"][..], &[]] {
        let audit = run(CRON, &[&["--conf", conf.to_str().unwrap(), "--once", "audit"], whole].concat(), &[]);
        let printed = String::from_utf8_lossy(&audit.stdout).into_owned();
        assert_eq!(audit.status.code(), Some(1), "{whole:?}: {printed}");
        // The nightly audit reads no rollup of a user without an account. It finds the lack in the rollup of the other.
        let is_named = what != "stranger" || !whole.is_empty();
        assert_eq!(printed.contains(found), is_named, "{whole:?}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_configuration_is_an_error_at_the_start_that_names_it() {
    let database = Database::create(Sqlite).await;
    for (key, value) in [
        ("server.http.port", "8107"),
        ("server.http.timeout", "fast"),
        ("billing.prices.asset", "-1"),
        ("billing.timezone", "Nowhere"),
        ("data.database.driver", "postgres"),
        ("log.level", "'a=b=c'"),
    ] {
        let conf = database.config_file(&[(key, value)]);
        let server = run(SERVER, &["-conf", conf.to_str().unwrap()], &[]);
        assert_eq!(server.status.code(), Some(1), "{key}");
        let last = key.rsplit('.').next().unwrap();
        assert!(stderr(&server).contains(last), "{key}: {}", stderr(&server));
    }
    let conf = database.config_file(&[]);
    let server = run(SERVER, &["-conf", conf.to_str().unwrap()], &[("BILLING__DATA__DATABASE__SORCE", "x")]);
    assert_eq!(server.status.code(), Some(1));
    assert!(stderr(&server).contains("sorce"), "{}", stderr(&server));
    let missing = run(SERVER, &["-conf", "nowhere.yaml"], &[]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("nowhere.yaml"), "{}", stderr(&missing));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_waits_for_its_database_and_then_names_it() {
    let database = Database::create(Sqlite).await;
    let source = format!("root:topsecret@tcp(127.0.0.1:{})/billing", free_port());
    let conf = database.config_file(&[
        ("data.database.driver", "mysql"),
        ("data.database.source", &source),
        ("data.database.connect_timeout", "5s"),
    ]);
    let server = run(SERVER, &["-conf", conf.to_str().unwrap()], &[]);
    let said = stderr(&server);
    assert_eq!(server.status.code(), Some(1));
    assert!(said.contains("retry in") && said.contains("data.database.source: gave up"), "{said}");
    assert!(!said.contains("topsecret"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let database = Database::create(Sqlite).await;
    let addr = taken.local_addr().unwrap().to_string();
    let conf = database.config_file(&[("server.grpc.addr", &format!("'{addr}'"))]);
    let server = run(SERVER, &["-conf", conf.to_str().unwrap()], &[]);
    assert_eq!(server.status.code(), Some(1));
    assert!(stderr(&server).contains("server.grpc.addr"), "{}", stderr(&server));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_migration_command_may_be_repeated(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::empty(on).await;
    let conf = database.config_file(&[]);
    for _ in 0..2 {
        let migrated = run(SERVER, &["-conf", conf.to_str().unwrap(), "--migrate-only"], &[]);
        assert_eq!(migrated.status.code(), Some(0), "{}", stderr(&migrated));
    }
    database.execute("SELECT user_id, balance FROM user_balance").await;
    database.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_charges_survive_a_kill(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(&[]);
    let charge = |id: String| json!({"user_id": "u", "service_name": "asset", "count": 1, "trace_id": id});
    let mut acknowledged = 0;
    for round in 0..5 {
        let server = ServerProcess::start(&conf);
        for call in 0..20 {
            let id = format!("{round}-{call}");
            let reply = post(&server.grpc, "/internal/v1/billing/deduct", charge(id)).await;
            assert_eq!(reply["replayed"], false, "{reply}");
            acknowledged += 1;
        }
        // SIGKILL right after the last reply.
        drop(server);
        let server = ServerProcess::start(&conf);
        let last = charge(format!("{round}-19"));
        let reply = post(&server.grpc, "/internal/v1/billing/deduct", last).await;
        assert_eq!(reply["replayed"], true, "{reply}");
    }
    let service = crate::harness::Service::start_on(database, &[]).await;
    assert_eq!(service.state("u").await.1[2], acknowledged);
    service.assert_audit_is_clean().await;
}

/// A limit on file sizes stands for a full disk, and is removed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_charges_only_while_it_is_full() {
    let database = Database::create(Sqlite).await;
    let conf = database.config_file(&[("billing.settlement.retry_timeout", "5s")]);
    let server = ServerProcess::start(&conf);
    let charge = |i: usize| json!({"user_id": "u", "service_name": "passport", "count": 1, "trace_id": i.to_string()});
    let path = "/internal/v1/billing/deduct";
    assert_eq!(post(&server.grpc, path, charge(0)).await["success"], true);
    server.limit_files("65536");
    let mut refused = Vec::new();
    // Concurrent charges, so that they wait for the disk together.
    for first in (1..200).step_by(3) {
        let some = first..first + 3;
        let replies = join_all(some.clone().map(|i| post(&server.grpc, path, charge(i)))).await;
        refused.extend(some.zip(replies).filter(|(_, reply)| reply["success"] != true).map(|(i, _)| i));
        if refused.len() >= 3 {
            break;
        }
    }
    assert!(refused.len() >= 3, "the limit was not reached");
    server.limit_files("unlimited");
    for i in refused.into_iter().chain([1000]) {
        let reply = post(&server.grpc, path, charge(i)).await;
        assert_eq!((&reply["success"], &reply["replayed"]), (&json!(true), &json!(false)));
    }
    database.assert_audit_is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cron_waits_for_its_schedules_before_the_first_server_starts() {
    let database = Database::empty(Sqlite).await;
    let conf = database.config_file(&[]);
    let audit = run(CRON, &["-conf", conf.to_str().unwrap(), "--once", "audit"], &[]);
    assert_eq!(audit.status.code(), Some(1), "an audit without a database fails");
    assert!(stderr(&audit).contains("does not exist"), "{}", stderr(&audit));

    let mut cron = Command::new(CRON).arg("-conf").arg(&conf).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(cron.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("waiting for the schedules")));
    assert!(Command::new("kill").arg(cron.id().to_string()).status().unwrap().success());
    assert_eq!(cron.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_waits_for_its_database_stops_on_sigterm() {
    let database = Database::create(Sqlite).await;
    let source = format!("root@tcp(127.0.0.1:{})/billing", free_port());
    let conf = database.config_file(&[
        ("data.database.driver", "mysql"),
        ("data.database.source", &source),
        ("data.database.connect_timeout", "1h"),
    ]);
    let mut server = Command::new(SERVER).arg("-conf").arg(&conf).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("retry in")));
    assert!(Command::new("kill").arg(server.id().to_string()).status().unwrap().success());
    assert_eq!(server.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_ends_neither_the_server_nor_cron() {
    let database = Database::create(Sqlite).await;
    let conf = database.config_file(&[("cron.metrics.addr", "'127.0.0.1:0'")]);
    let server = ServerProcess::start(&conf);
    let arguments = ["-conf", conf.to_str().unwrap()];
    let cron = ServerProcess::start_binary(CRON, &arguments, "serving metrics", "metrics_addr");
    for process in [&server, &cron] {
        process.signal("HUP");
        process.signal("HUP");
    }
    let charge = json!({"user_id": "u", "service_name": "asset", "count": 5, "trace_id": "t"});
    assert_eq!(post(&server.grpc, "/internal/v1/billing/deduct", charge).await["free_remaining"], 995);
    assert!(reqwest::get(format!("{}/metrics", cron.grpc)).await.unwrap().status().is_success());
    for process in [server, cron] {
        process.terminate();
        assert_eq!(process.wait(), Some(0), "a clean stop");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unwritable_file_is_an_error_at_once_with_its_reason() {
    let database = Database::create(Sqlite).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    for (path, reason) in [("file/billing.db", "File exists"), ("", "Is a directory")] {
        let source = folder.path().join(path).display().to_string();
        // If the server waited for this database, the test would not end.
        let changes = [("data.database.source", source.as_str()), ("data.database.connect_timeout", "1h")];
        let server = run(SERVER, &["-conf", database.config_file(&changes).to_str().unwrap()], &[]);
        let said = stderr(&server);
        assert_eq!(server.status.code(), Some(1));
        assert!(said.contains(source.trim_end_matches("/billing.db")) && said.contains(reason), "{said}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_a_newer_release_is_an_error_that_says_so(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(&[("data.database.connect_timeout", "1h")]);
    let conf = conf.to_str().unwrap();
    assert_eq!(run(SERVER, &["-conf", conf, "--migrate-only"], &[]).status.code(), Some(0));
    let newest = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                  VALUES (999, 'of tomorrow', TRUE, 'x', 1)";
    database.execute(newest).await;
    for (binary, arguments) in [
        (SERVER, vec!["-conf", conf]),
        (SERVER, vec!["-conf", conf, "--migrate-only", "--dry-run"]),
        (CRON, vec!["-conf", conf, "--list"]),
        (CRON, vec!["-conf", conf, "--once", "audit"]),
    ] {
        let output = run(binary, &arguments, &[]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("newer release") && said.contains("999"), "{arguments:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_of_jobs_shows_times_of_the_billing_zone() {
    let database = Database::create(Sqlite).await;
    let conf = database.config_file(&[("billing.timezone", "Asia/Kolkata")]);
    let conf = conf.to_str().unwrap();
    assert_eq!(run(SERVER, &["-conf", conf, "--migrate-only"], &[]).status.code(), Some(0));
    let listed = run(CRON, &["-conf", conf, "--list"], &[]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    let line = |job: &str| listed.lines().find(|line| line.starts_with(job)).unwrap().to_owned();
    assert!(line("reset-quotas").contains("-01T00:00:00+05:30:"), "{listed}");
    assert!(line("audit").contains("T03:30:00+05:30:"), "{listed}");
}

/// The line of a server whose console is on.
fn console_line(database: &Database) -> String {
    let settings = [("environment", "development"), ("log.format", "text"), ("console.enabled", "true")];
    let conf = database.config_file(&settings);
    let mut server =
        Command::new(SERVER).arg("-conf").arg(&conf).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.starts_with("console")).unwrap();
    assert!(Command::new("kill").arg(server.id().to_string()).status().unwrap().success());
    lines.for_each(drop);
    server.wait().unwrap();
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_a_developer_prints_six_lines_once_it_serves() {
    let database = Database::create(Sqlite).await;
    let conf = database.config_file(&[("environment", "development"), ("log.format", "text")]);
    let mut server =
        Command::new(SERVER).arg("-conf").arg(&conf).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let stdout = BufReader::new(server.stdout.take().unwrap());
    let lines: Vec<String> = stdout.lines().take(6).map(Result::unwrap).collect();
    let names: Vec<&str> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["serving", "docs", "console", "sandbox", "data", "stop"]);
    let url = |after: &str| format!("http://{}", lines[0].split(after).nth(1).unwrap().split(';').next().unwrap());
    let (http, grpc) = (url("REST on http://"), url("/metrics on http://"));
    assert!(reqwest::get(format!("{grpc}/metrics")).await.unwrap().status().is_success());
    // The page is named exactly if there is one.
    let has_page = reqwest::get(format!("{http}/docs")).await.unwrap().status().is_success();
    assert_eq!(lines[1].contains(&format!("{http}/docs")), has_page, "{}", lines[1]);
    assert!(lines[2].contains("console.enabled: true"), "{}", lines[2]);
    let with_console = console_line(&database);
    assert!(with_console.matches("/console for ").count() == 2, "{with_console}");
    assert!(lines[3].contains("top-ups are refused"), "{}", lines[3]);
    assert!(lines[4].contains(&database.source), "{}", lines[4]);
    assert!(lines[5].ends_with(&format!("kill {}", server.id())), "{}", lines[5]);
    assert!(Command::new("kill").arg(server.id().to_string()).status().unwrap().success());
    assert_eq!(server.wait().unwrap().code(), Some(0));

    for changes in
        [[("environment", "staging"), ("log.format", "text")], [("environment", "development"), ("log.format", "json")]]
    {
        let conf = database.config_file(&changes);
        let mut server =
            Command::new(SERVER).arg("-conf").arg(&conf).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(log.any(|line| line.contains("serving") && line.contains("http_addr")));
        assert!(Command::new("kill").arg(server.id().to_string()).status().unwrap().success());
        // Reads to the end, because the process would block on a full pipe.
        log.for_each(drop);
        assert_eq!(server.wait_with_output().unwrap().stdout, b"", "{changes:?}");
    }
}

#[test]
fn every_program_prints_its_version() {
    let sandbox = env!("CARGO_BIN_EXE_payment-sandbox");
    for (program, name) in [(SERVER, "server"), (CRON, "cron"), (sandbox, "payment-sandbox")] {
        let printed = run(program, &["--version"], &[]);
        assert_eq!(printed.status.code(), Some(0), "{}", stderr(&printed));
        assert_eq!(String::from_utf8_lossy(&printed.stdout), format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
    }
}
