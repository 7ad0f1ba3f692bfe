//! Nodes that are killed or frozen under load.

use futures_util::future::join_all;

use super::{
    Rounds, TIMEOUT, assert_kept, crowd, disturbed,
    pairs::{
        Pair::{AccountOfCharge, ChargeOfCredit, CommitOfReserve, TransactionOfCharge},
        two_servers,
    },
    seed, serve,
};
use crate::harness::{caller::Dice, charge, galera::NODES, load::Load, traced};

/// Fewest acknowledged charges and steps of reservations between two faults.
const BETWEEN_FAULTS: usize = 600;
/// Calls that wait at a frozen node.
const WAITING: usize = 40;

/// One node is killed and restarted. Another one is frozen until the cluster continues without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_charge_survives_kills_and_freezes_of_nodes() {
    let mut cluster = disturbed().await;
    let cluster = cluster.as_mut().unwrap();
    let databases = cluster.create_database().await;
    let servers = serve(cluster, &databases).await;
    let urls: Vec<&str> = servers.iter().map(|server| server.grpc.as_str()).collect();
    let mut load = Load::start_with(&urls, crowd()).await;
    let (mut dice, rounds) = (Dice(seed()), Rounds::begin());
    loop {
        load.acknowledges(BETWEEN_FAULTS).await;
        let killed = dice.below(NODES);
        cluster.kill(killed);
        cluster.sees((killed + 1) % NODES, NODES - 1).await;
        load.acknowledges(BETWEEN_FAULTS).await;
        cluster.start_again(killed).await;
        load.acknowledges(BETWEEN_FAULTS).await;

        let frozen = (killed + 1 + dice.below(NODES - 1)) % NODES;
        cluster.freeze(frozen);
        cluster.sees((frozen + 1) % NODES, NODES - 1).await;
        load.acknowledges(BETWEEN_FAULTS).await;
        cluster.thaw(frozen);
        cluster.sees(frozen, NODES).await;
        cluster.rejoined(frozen).await;
        load.acknowledges(BETWEEN_FAULTS).await;
        if rounds.are_done() {
            break;
        }
    }
    assert!(load.unanswered() > 0, "no call was without an answer");
    assert_kept(&*load.finish().await, cluster, &databases).await;
}

/// When the node wakes, it lacks the changes of the other nodes, and does not know yet that it has left
/// the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node_that_wakes_gives_no_wrong_answer() {
    let mut cluster = disturbed().await;
    let cluster = cluster.as_mut().unwrap();
    let servers = two_servers(cluster, &[TIMEOUT]).await;
    let pairs = [CommitOfReserve, TransactionOfCharge, ChargeOfCredit, AccountOfCharge];
    let pairs: Vec<_> = (0..WAITING).map(|number| (pairs[number % pairs.len()], format!("u{number}"))).collect();
    cluster.freeze(0);
    cluster.sees(1, NODES - 1).await;
    for (pair, user) in &pairs {
        pair.first(&servers[1], user).await;
    }
    let answers = join_all(pairs.iter().map(|(pair, user)| pair.second(&servers[0], user)));
    // The last call waits without an answer, like those before it.
    let thaw = async {
        assert!(servers[0].try_deduct(traced("t", charge("last", "asset", 1))).await.is_err());
        cluster.thaw(0);
    };
    let (answers, ()) = tokio::join!(answers, thaw);
    let wrong: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{} of {WAITING} are wrong: {wrong:#?}", wrong.len());
    cluster.rejoined(0).await;
    cluster.sees(0, NODES).await;
    cluster.catch_up().await;
    for server in &servers {
        server.assert_audit_is_clean().await;
    }
}
