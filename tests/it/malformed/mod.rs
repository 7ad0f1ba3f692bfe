//! Malformed requests over each protocol, against the server as a process. No answer is an error of the server
//! except OVERLOADED, no code panics, and the memory does not grow.

mod content;
pub mod damage;
mod grpc;
mod http1;
mod http2;
mod raw_http2;
mod request;
mod server;
mod tally;

use std::sync::Arc;

use tokio::task::JoinSet;

use self::{server::Target, tally::Tally};
use crate::harness::caller::Dice;

/// Requests of each test, unless BILLING_MALFORMED names another number, such as 100000 before a release.
const REQUESTS: usize = 2_000;
/// Senders at once.
const SENDERS: usize = 8;
/// The part of the requests that is sent before the memory is measured: one in so many.
const WARM_UP: usize = 10;
/// Most memory that the rest of the requests may add, in KiB. Caches and arenas of the allocator still grow
/// after a short warm-up; the bodies of 100,000 requests would need a hundred times as much.
const MOST_GROWTH_KIB: u64 = 48 * 1024;

/// The number in an environment variable, or the usual one.
pub fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |number| number.parse().unwrap())
}

#[derive(Debug, Clone, Copy)]
enum Protocol {
    Http1,
    Http2,
    Grpc,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_over_http_1_are_no_errors_of_the_server() {
    load(Protocol::Http1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_over_http_2_are_no_errors_of_the_server() {
    load(Protocol::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_calls_over_grpc_are_no_errors_of_the_server() {
    load(Protocol::Grpc).await;
}

async fn load(protocol: Protocol) {
    let (requests, seed) = (setting("BILLING_MALFORMED", REQUESTS), setting("BILLING_MALFORMED_SEED", 1));
    let target = Arc::new(Target::start().await);
    let mut dice = Dice(seed as u64);
    let mut tally = Tally::default();
    tally.add(send(&target, protocol, &mut dice, requests / WARM_UP).await);
    let before = target.memory_kib();
    tally.add(send(&target, protocol, &mut dice, requests - requests / WARM_UP).await);
    let after = target.memory_kib();
    println!("{protocol:?}, seed {seed}: {tally}; memory {before} KiB after the warm-up, {after} KiB at the end");
    tally.assert_no_fault();
    tally.assert_reached(requests);
    assert!(after < before + MOST_GROWTH_KIB, "memory grew from {before} to {after} KiB");
    Arc::into_inner(target).unwrap().assert_unharmed().await;
}

/// Sends so many requests by all senders, and waits for every answer.
async fn send(target: &Arc<Target>, protocol: Protocol, dice: &mut Dice, requests: usize) -> Tally {
    let mut senders = JoinSet::new();
    for number in 0..SENDERS {
        let (target, dice) = (target.clone(), Dice(dice.below(usize::MAX) as u64));
        let requests = requests / SENDERS + usize::from(number < requests % SENDERS);
        senders.spawn(async move {
            match protocol {
                Protocol::Http1 => http1::send(&target, dice, requests).await,
                Protocol::Http2 => http2::send(&target, dice, requests).await,
                Protocol::Grpc => grpc::send(&target, dice, requests).await,
            }
        });
    }
    let mut tally = Tally::default();
    for part in senders.join_all().await {
        tally.add(part);
    }
    tally
}
