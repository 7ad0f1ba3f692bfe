//! The bounds of what is in memory for all webhooks together.

use super::*;

#[tokio::test]
async fn the_webhook_with_most_refused_users_has_failed_when_all_together_have_too_many() {
    let fake = Arc::new(Fake::default());
    let deliverer = fake.deliverer();
    let mut run = deliverer.start("o");
    run.bounds.refused = 10;
    insert(&mut run, [queue("few", (0..3).map(retry)), queue("many", (0..6).map(retry))]);
    let failed = |run: &Run<'_>| -> Vec<(String, String)> {
        let failed = |queue: &Queue| {
            let reason = queue.webhook.progress.failed.clone()?.reason;
            Some((queue.id().as_str().to_owned(), reason))
        };
        run.queues.values().filter_map(failed).collect()
    };
    run.bound_refused();
    assert_eq!(failed(&run), []);
    insert(&mut run, [queue("one", [retry(0)])]);
    for _ in 0..2 {
        run.bound_refused();
        let reason = "the receivers refused events of 10 users in all; this one of 6, the most";
        assert_eq!(failed(&run), [("many".to_owned(), reason.to_owned())]);
    }
    assert!(run.queues.values().any(Queue::has_unsaved), "the failure is saved");
}

#[tokio::test]
async fn a_webhook_with_few_retries_gets_events_when_others_have_too_many() {
    let fake = Fake::default();
    (0..2).for_each(|_| fake.write_event());
    let fake = Arc::new(fake);
    let deliverer = fake.deliverer();
    let mut run = deliverer.start("o");
    run.bounds.retries = 200;
    // Retries without an attempt count too. Their receivers are not down.
    let untried = |number| StoredRetry { attempts: 0, first_at: None, ..retry(number) };
    insert(&mut run, [queue("few", [untried(0)]), queue("many", (0..200).map(untried))]);
    let read = |run: &Run<'_>| run.queues.values().map(|queue| queue.reads_after().unwrap()).collect::<Vec<_>>();
    run.read_feed().await.unwrap();
    assert_eq!(read(&run), [2, 1]);
    run.bounds.retries = 202;
    run.polled_at = None;
    run.read_feed().await.unwrap();
    assert_eq!(read(&run), [2, 2]);
}

#[tokio::test]
async fn the_retries_of_many_webhooks_are_read_in_several_rounds_and_up_to_a_bound() {
    let webhooks = ["a", "b", "c"].map(|id| queue(id, []).webhook).to_vec();
    let retries = Mutex::new((0..5).map(retry).collect());
    let fake = Arc::new(Fake { read_time: READS, webhooks, retries, ..Default::default() });
    let deliverer = fake.deliverer();
    let mut run = deliverer.start("o");
    run.bounds.loaded = 10;
    run.polled_at = Some(Instant::now());
    run.reload_if_due().await.unwrap();
    assert_eq!((run.queues.len(), run.is_idle()), (1, false), "a save can renew the lease now");
    run.reload_if_due().await.unwrap();
    assert_eq!((run.queues.len(), run.is_idle()), (2, false));
    // The third one waits until the others have fewer.
    run.reload_if_due().await.unwrap();
    assert_eq!(run.queues.len(), 2);
    run.bounds.loaded = 11;
    run.reloaded_at = None;
    run.reload_if_due().await.unwrap();
    assert_eq!(run.queues.len(), 3);
}
