//! `/metrics` of servers and of cron, as Prometheus reads it.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use rstest::rstest;

use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, charge,
    process::{CRON, ServerProcess},
    wait::until,
};

/// Metrics whose names the contract fixes, and the messages of promtool about them.
const FIXED: [(&str, &str); 14] = [
    ("billing_balance_amount", NO_TOTAL),
    ("billing_deduct_failure", NO_TOTAL),
    ("billing_deduct_success", NO_TOTAL),
    ("billing_duration_ms", ABBREVIATED),
    ("billing_idempotent_conflict", NO_TOTAL),
    ("billing_idempotent_hit", NO_TOTAL),
    ("billing_recharge_amount", NO_TOTAL),
    ("billing_stream_committed", NO_TOTAL),
    ("billing_stream_failed", NO_TOTAL),
    ("billing_stream_pending_created", NO_TOTAL),
    ("billing_stream_token_accuracy_pct", ABBREVIATED),
    ("billing_usage_suspicious", NO_TOTAL),
    ("quota_check_duration_ms", ABBREVIATED),
    ("redis_lua_script_duration_ms", ABBREVIATED),
];
const NO_TOTAL: &str = "counter metrics should have \"_total\" suffix";
const ABBREVIATED: &str = "metric names should not contain abbreviated units";

/// The other messages of `promtool check metrics`.
fn lint(text: &str) -> String {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs; `make deps` installs it");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let is_fixed = |line: &str| FIXED.iter().any(|(name, why)| line == format!("{name} {why}"));
    said.lines().filter(|line| !is_fixed(line)).collect::<Vec<_>>().join("\n")
}

#[rstest]
#[tokio::test]
async fn promtool_accepts_the_metrics_of_a_server(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 1.0).await;
    service.check("u", "asset", 1).await;
    service.deduct(charge("u", "asset", 1_005)).await;
    let _ = service.try_deduct(charge("u", "asset", 1_000)).await;
    service.get("/api/v1/billing/account?user_id=u&x=1").await;
    let text = service.metrics().await;
    assert_eq!(lint(&text), "", "{text}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cron_shows_its_runs_on_its_metrics_port(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(&[("cron.metrics.addr", "'127.0.0.1:0'")]);
    let cron = ServerProcess::start_binary(CRON, &["-conf", conf.to_str().unwrap()], "serving metrics", "metrics_addr");
    let url = format!("{}/metrics", cron.grpc);
    let mut text = String::new();
    until("the first audit is counted", async || {
        text = reqwest::get(&url).await.unwrap().text().await.unwrap();
        text.contains("billing_job_runs_total{job=\"audit\",result=\"good\"} 1")
    })
    .await;
    for line in [
        "billing_job_runs_total{job=\"audit\",result=\"bad\"} 0",
        "billing_job_runs_total{job=\"audit\",result=\"unfinished\"} 0",
        "billing_job_runs_total{job=\"archive-records\",result=\"bad\"} 0",
    ] {
        let is_shown = text.lines().any(|shown| shown == line);
        assert_eq!(is_shown, !line.contains("archive"), "jobs that are scheduled: {line} in\n{text}");
    }
    assert!(text.contains("billing_job_last_finished_timestamp_seconds{job=\"audit\"}"), "{text}");
    assert_eq!(lint(&text), "", "{text}");
    cron.terminate();
    assert_eq!(cron.wait(), Some(0));
}
