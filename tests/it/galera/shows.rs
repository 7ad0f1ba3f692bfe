//! Display reads on a lagging node.

use billing_service::service::proto::GetTransactionRequest;

use super::shared;
use crate::harness::{Database, Service, charge, load::credit, traced, wait::soon};

const SHOWS: [&str; 7] = ["account", "records", "statement", "stats/month", "usage", "recharges", "records.csv"];

/// Whether the complete answer arrives.
fn answers(service: &Service, show: &str) -> impl Future<Output = bool> + use<> {
    let url = format!("http://{}/api/v1/billing/{show}?user_id=u", service.app.http_addr);
    async move {
        let reply = reqwest::get(url).await.unwrap();
        reply.status() == 200 && reply.text().await.is_ok()
    }
}

/// A table lock on the second node blocks the replicated writes of the first node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_node_may_show_its_state_but_never_decides_on_it() {
    let cluster = shared().await;
    let [first, second, _] = cluster.create_database().await;
    let first = Service::start_on(first, &[]).await;
    cluster.catch_up().await;
    let waits = Service::start_on(Database::on(second.source.clone()), &[]).await;
    let shows = Service::start_on(second, &[("data.database.show_reads", "node")]).await;
    first.deduct(traced("t", charge("u", "asset", 1))).await;
    cluster.catch_up().await;

    let mut lock = shows.database.mysql().await;
    // No read of the test uses this table.
    sqlx::raw_sql("LOCK TABLES balance_adjustment READ").execute(&mut lock).await.unwrap();
    first.internal.clone().adjust_balance(credit("u", 10.0)).await.unwrap();
    let mut client = shows.internal.clone();
    let request = GetTransactionRequest { user_id: "u".into(), trace_id: "t".into() };
    let transaction = tokio::spawn(async move { client.get_transaction(request).await });
    let waiting = SHOWS.map(|show| tokio::spawn(answers(&waits, show)));
    for show in SHOWS {
        assert!(soon(answers(&shows, show)).await, "{show}");
    }
    assert_eq!(shows.account("u").await.balance, 0.0, "the node has not applied the credit");
    assert!(!transaction.is_finished() && waiting.iter().all(|reply| !reply.is_finished()));

    sqlx::raw_sql("UNLOCK TABLES").execute(&mut lock).await.unwrap();
    assert_eq!(soon(transaction).await.unwrap().unwrap().into_inner().free_count, 1);
    for reply in waiting {
        assert!(soon(reply).await.unwrap());
    }
    assert_eq!(waits.account("u").await.balance, 10.0);
}
