//! How often the database is read.

use futures_util::future::join_all;
use rstest::rstest;

use super::servers::{call, check, keyed_call, reads, second, was_last_active_two_hours_ago};
use crate::harness::{Backend, MySql, Service, Sqlite, wait::until};

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_first_checks_of_an_account_at_once_share_a_few_reads(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for user in ["u", "last"] {
        service.use_up_free_quota(user, "asset").await;
    }
    // A fresh server would load them by itself otherwise.
    was_last_active_two_hours_ago(&service.database, "%").await;
    if let Some(redis) = &service.database.redis {
        redis.flush().await;
    }
    let fresh = second(&service).await;
    let replies = join_all((0..500).map(|_| check(&fresh.internal, call("u")))).await;
    assert!(replies.iter().all(|reply| reply.reason == "insufficient balance"));
    // Its read is counted after theirs.
    check(&fresh.internal, call("last")).await;
    until("all reads are counted", async || reads(&fresh, "database").await >= 2.0).await;
    let read = reads(&fresh, "database").await;
    // One for all of them that came before it was over.
    assert!(read <= 4.0, "{read} reads of two accounts");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cached_is_not_read_from_the_database_again(#[values(MySql, Sqlite)] on: Backend) {
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
    // But for those that found the near cache just emptied, as it is at the start.
    until("they are counted", async || counted().await >= already + 90.0).await;
    let more = reads(&service, "database").await - before;
    assert!(more <= 10.0, "{more} reads more");
}
