//! The dashboards of deploy/grafana: every panel asks for metrics that a server or cron has.
//! `make check-dashboards` asks a Prometheus for each panel, under load.

use std::{collections::BTreeSet, fs, sync::Arc};

use billing_service::{
    app::{App, cron::Job},
    metrics::Metrics,
};
use serde_json::Value;

use super::root;
use crate::{
    alerts::metrics_in,
    cron::{Counted, runner},
    harness::{MySql, Service, charge, wait::until},
};

const BOARDS: [&str; 5] = ["business", "cache", "events", "jobs", "service"];

fn boards() -> Vec<(String, Value)> {
    let entries = fs::read_dir(root().join("deploy/grafana/dashboards")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let name = |path: &std::path::Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let boards = paths.iter().map(|path| {
        let board = serde_json::from_str(&fs::read_to_string(path).unwrap());
        (name(path), board.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    });
    boards.collect()
}

/// The panels of a board that show something.
fn panels(board: &Value) -> impl Iterator<Item = &Value> {
    board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

fn expressions(board: &Value) -> Vec<String> {
    let targets = panels(board).flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_boards_have_names_ids_and_panels_of_their_own() {
    let boards = boards();
    assert_eq!(boards.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), BOARDS);
    for (name, board) in &boards {
        assert_eq!(board["uid"], format!("billing-{name}"));
        let ids: Vec<i64> =
            board["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{name}");
        let titles: Vec<&str> = panels(board).map(|panel| panel["title"].as_str().unwrap()).collect();
        assert_eq!(titles.iter().collect::<BTreeSet<_>>().len(), titles.len(), "{name}: {titles:?}");
        assert!(titles.len() >= 9, "{name}: {titles:?}");
        for panel in panels(board) {
            let place = &panel["gridPos"];
            let [x, width] = ["x", "w"].map(|key| place[key].as_i64().unwrap());
            assert!(x + width <= 24 && !panel["targets"].as_array().unwrap().is_empty(), "{name}: {panel}");
        }
    }
}

/// The metrics of expressions, without the endings of histograms.
fn asked() -> BTreeSet<String> {
    let expressions = boards().iter().flat_map(|(_, board)| expressions(board)).collect::<Vec<_>>();
    let names = expressions.iter().flat_map(|expr| metrics_in(&expr.replace("$__rate_interval", "5m")));
    let names = names.filter(|name| {
        name.starts_with("billing_") || name.contains("_ms") || name.contains("process_") || name.starts_with("quota_")
    });
    names.map(|name| base(&name).to_owned()).collect()
}

fn base(name: &str) -> &str {
    ["_bucket", "_count", "_sum"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

/// Metrics that a server shows only after an event that this test does not cause.
/// `make check-dashboards` causes them.
const LATER: [&str; 7] = [
    "billing_access_refused_total",
    "billing_connections_ended_total",
    "billing_held_refusals_total",
    "billing_recharge_amount",
    "billing_recharge_order_total",
    "billing_recharge_total",
    "billing_unknown_fields_total",
];

#[tokio::test]
async fn every_metric_of_the_boards_is_shown_by_a_server_or_by_cron() {
    let service = Service::start(MySql).await;
    service.adjust("u", 1.0).await;
    service.deduct(charge("u", "asset", 1_005)).await;
    let _ = service.try_deduct(charge("u", "asset", 1_000)).await;
    service.check("u", "asset", 1).await;
    let of_cron = Arc::new(Metrics::new().unwrap());
    let config = service.database.config(&[]);
    let cron = runner(config, &service.clock, Counted::all().stop).await.counting(Some(of_cron.clone()));
    for job in [Job::Audit, Job::ReconcileCache] {
        assert!(cron.run_due(job, &Counted::all()).await.unwrap().unwrap().is_good);
    }
    let server = App::start_with_clock(service.database.config(&[]), service.clock.clone()).await.unwrap();
    let url = format!("http://{}/metrics", server.grpc_addr);
    let mut text = String::new();
    until("accounts are counted and ops_stats read", async || {
        text = reqwest::get(&url).await.unwrap().text().await.unwrap();
        let gauges = ["low_counted_", "unapplied_payments ", "webhook_backlog ", "events_kept "];
        gauges.iter().all(|gauge| text.contains(&format!("\nbilling_{gauge}")))
    })
    .await;
    server.stop().await;
    text += &service.metrics().await;
    text += &String::from_utf8(of_cron.render().unwrap()).unwrap();
    let shown: BTreeSet<&str> = text.lines().filter_map(|line| line.split(['{', ' ']).next()).map(base).collect();
    let missing: Vec<String> =
        asked().into_iter().filter(|name| !shown.contains(&**name) && !LATER.contains(&&**name)).collect();
    assert!(missing.is_empty(), "{missing:?} are not in\n{text}");
    let documented = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    for name in LATER {
        assert!(documented.contains(&format!("| `{name}` |")), "{name} is no metric");
    }
    assert!(asked().len() > 50, "{:?}", asked());
}
