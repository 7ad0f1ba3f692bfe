//! Nodes that are killed or frozen under load.

use tokio::{sync::watch, task::JoinSet};

use billing_service::service::proto::{CommitReservationRequest, ReserveQuotaRequest};

use super::{Rounds, assert_kept, crowd, seed, serve};
use crate::harness::{
    caller::{Dice, connections},
    galera::{Galera, NODES},
    load::Load,
};

/// Charges, and steps of reservations, that are acknowledged between one fault and the next, at the
/// least.
const BETWEEN_FAULTS: usize = 600;
/// Commits that wait at a frozen node.
const WAITING: usize = 40;

/// A node is killed and comes back; another one is frozen until the cluster goes on without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_charge_survives_kills_and_freezes_of_nodes() {
    let mut cluster = Galera::start().await;
    let databases = cluster.create_database().await;
    let servers = serve(&cluster, &databases).await;
    let urls: Vec<&str> = servers.iter().map(|server| server.grpc.as_str()).collect();
    let mut load = Load::start_with(&urls, crowd()).await;
    let (mut dice, rounds) = (Dice(seed()), Rounds::begin());
    for round in 0.. {
        load.acknowledges(BETWEEN_FAULTS).await;
        let killed = dice.below(NODES);
        cluster.kill(killed);
        cluster.sees((killed + 1) % NODES, NODES - 1).await;
        load.acknowledges(BETWEEN_FAULTS).await;
        cluster.start_again(killed).await;
        load.acknowledges(BETWEEN_FAULTS).await;

        let frozen = (killed + 1 + dice.below(NODES - 1)) % NODES;
        let other = (frozen + 1) % NODES;
        cluster.freeze(frozen);
        cluster.sees(other, NODES - 1).await;
        load.acknowledges(BETWEEN_FAULTS).await;
        let waiting = commits_at(&load, round, urls[other], urls[frozen]).await;
        cluster.thaw(frozen);
        waiting.join_all().await;
        cluster.sees(frozen, NODES).await;
        cluster.rejoined(frozen).await;
        load.acknowledges(BETWEEN_FAULTS).await;
        if rounds.are_done() {
            break;
        }
    }
    assert!(load.unanswered() > 0, "no caller noticed");
    assert_kept(&*load.finish().await, &cluster, &databases).await;
}

/// Reserves by a server that lives, and sends the commits to the server of the frozen node, which
/// knows none of the reservations when it wakes.
async fn commits_at(load: &Load, round: usize, lives: &str, frozen: &str) -> JoinSet<()> {
    let servers = watch::Sender::new(connections(&[lives]));
    let caller = load.caller.at(servers.subscribe());
    let user_id = |number: usize| format!("waiting-{round}-{number}");
    for number in 0..WAITING {
        let (user_id, trace_id) = (user_id(number), "hold-at-a-frozen-node".to_owned());
        let reserve =
            ReserveQuotaRequest { user_id, trace_id, service_name: "asset".into(), count: 3, ..Default::default() };
        caller.clone().reserve(reserve).await;
    }
    servers.send_replace(connections(&[frozen]));
    let servers = std::sync::Arc::new(servers);
    let mut commits = JoinSet::new();
    for number in 0..WAITING {
        let (mut caller, servers) = (caller.clone(), servers.clone());
        let (user_id, trace_id) = (user_id(number), "hold-at-a-frozen-node".to_owned());
        commits.spawn(async move {
            caller.commit(CommitReservationRequest { user_id, trace_id, ..Default::default() }).await;
            drop(servers);
        });
    }
    while load.caller.in_flight() < WAITING {
        tokio::task::yield_now().await;
    }
    commits
}
