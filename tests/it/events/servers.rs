//! Events of several servers on one database, and of accounts whose state a server knows: these are written in the one
//! packet of the charge.

use billing_service::app::App;
use futures_util::future::join_all;
use rstest::rstest;

use super::{all, data, events_of, set_alerts, types};
use crate::{
    cache::processes::servers::pair,
    harness::{
        Backend, Database, MySql, Service, Sqlite, caller::Client, charge, load::credit, mariadb::OwnServer, traced,
    },
};

/// The client's statements that a server of its own counts. The statements inside of a compound one do not count.
async fn statements(service: &Service) -> u64 {
    let questions = "FROM information_schema.global_status WHERE variable_name = 'QUESTIONS'";
    service.database.rows(&["variable_value"], questions).await[0][0].parse().unwrap()
}

#[tokio::test]
async fn a_charge_on_a_known_account_writes_its_events_in_its_one_packet() {
    const CALLS: u64 = 40;
    let mariadb = OwnServer::start().await;
    let service = Service::start_on(Database::on(mariadb.create_database().await), &[]).await;
    let thresholds: Vec<f64> = (1..=10).map(f64::from).collect();
    set_alerts(&service.internal, "u", &thresholds, &[]).await;
    service.use_up_free_quota("u", "payment").await;
    service.adjust("u", 10.0).await;
    service.deduct(charge("u", "payment", 1)).await;
    let before = statements(&service).await;
    for _ in 0..CALLS {
        service.deduct(charge("u", "payment", 2)).await;
    }
    let made = statements(&service).await - before;
    // The account is read under locks at times, and the counts of operators are read beside the calls.
    assert!(made < 2 * CALLS, "{made} statements for {CALLS} calls");
    let low = events_of(&service.internal, "u").await;
    let thresholds: Vec<_> = low.iter().map(|event| data(event)["threshold"].clone()).collect();
    // 10 less 8.1 is 1.9.
    assert_eq!(thresholds, ["10", "9", "8", "7", "6", "5", "4", "3", "2"]);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn thresholds_and_credits_of_another_server_count_at_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let other = App::start(service.database.config(&[])).await.unwrap();
    let mut client = Client::connect(format!("http://{}", other.grpc_addr)).await.unwrap();
    service.use_up_free_quota("u", "payment").await;
    service.adjust("u", 20.0).await;
    let skip = events_of(&service.internal, "u").await.len();
    for number in 0..3 {
        service.deduct(traced(&number.to_string(), charge("u", "payment", 1))).await;
    }
    // The first server knows the account, without thresholds.
    set_alerts(&client, "u", &[19.0], &[]).await;
    service.deduct(traced("low", charge("u", "payment", 10))).await;
    let refused = async |trace: &str| {
        service.try_deduct(traced(trace, charge("u", "payment", 1_000))).await.unwrap_err();
    };
    refused("a").await;
    client.adjust_balance(credit("u", 10.0)).await.unwrap();
    service.deduct(traced("between", charge("u", "payment", 1))).await;
    refused("b").await;
    refused("c").await;
    let events = events_of(&service.internal, "u").await;
    assert_eq!(types(&events[skip..]), ["balance.low", "balance.exhausted", "balance.exhausted"]);
    service.assert_audit_is_clean().await;
    other.stop().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_threshold_fires_once_for_callers_of_two_servers_and_their_retries(#[values(MySql, Sqlite)] on: Backend) {
    let (one, other) = pair(on).await;
    one.use_up_free_quota("u", "asset").await;
    one.adjust("u", 2.0).await;
    set_alerts(&one.internal, "u", &[1.0], &[]).await;
    let calls = (0..80).map(|number| {
        let server = if number % 2 == 0 { &one } else { &other };
        // Each trace id comes twice, once to each server.
        server.try_deduct(traced(&format!("t{}", number / 2), charge("u", "asset", 1)))
    });
    for outcome in join_all(calls).await {
        outcome.unwrap();
    }
    assert_eq!(one.account("u").await.balance, 0.0);
    one.try_deduct(charge("u", "asset", 1)).await.unwrap_err();
    let events = all(&one.internal).await;
    let money: Vec<_> = types(&events).into_iter().filter(|kind| kind.starts_with("balance")).collect();
    assert_eq!(money, ["balance.low", "balance.exhausted"]);
}
