//! The number of database reads.

use futures_util::future::join_all;
use rstest::rstest;

use super::servers::{call, check, keyed_call, make_inactive, reads, second};
use crate::harness::{Backend, MySql, Service, Sqlite, wait::until};

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_first_checks_of_an_account_share_a_few_reads(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for user in ["u", "last"] {
        service.use_up_free_quota(user, "asset").await;
    }
    // Otherwise a new server would load them at its start.
    make_inactive(&service.database, "%").await;
    if let Some(redis) = &service.database.redis {
        redis.flush().await;
    }
    let fresh = second(&service).await;
    let replies = join_all((0..500).map(|_| check(&fresh.internal, call("u")))).await;
    assert!(replies.iter().all(|reply| reply.reason == "insufficient balance"));
    // The read of this check is counted after the reads of the other checks.
    check(&fresh.internal, call("last")).await;
    until("all reads are counted", async || reads(&fresh, "database").await >= 2.0).await;
    let read = reads(&fresh, "database").await;
    // Checks that arrive during a read share it. Nothing is cached until the server follows Redis, which takes
    // a slow machine several reads.
    assert!(read <= 25.0, "{read} reads of two accounts");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cached_account_is_not_read_from_the_database_again(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.use_up_free_quota("u", "asset").await;
    service.adjust("u", 1.0).await;
    let counted = async || reads(&service, "near").await + reads(&service, "redis").await;
    check(&service.internal, keyed_call()).await;
    let already = counted().await;
    let before = reads(&service, "database").await;
    for _ in 0..100 {
        assert!(check(&service.internal, keyed_call()).await.allowed);
    }
    // Some checks may find the near cache empty, because the start flushes it.
    until("the checks are counted", async || counted().await >= already + 90.0).await;
    let more = reads(&service, "database").await - before;
    assert!(more <= 10.0, "{more} more reads");
}
