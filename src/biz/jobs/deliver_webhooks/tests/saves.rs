//! Saves: their bound, and those of an end.

use super::*;

/// A queue of a receiver that was down and then accepts a test, so that all `retries` are due early.
fn returned(id: &str, retries: usize) -> Queue {
    let now = Fake::calendar().now().utc;
    let mut queue = queue(id, (0..retries).map(retry));
    let message = Message { id: Uuid::nil(), kind: TEST_TYPE.into(), at: now, data: "{}".into(), trace: None };
    queue.add_resends([Resend { id: Uuid::nil(), webhook: queue.id().clone(), message }].iter());
    let Step::Send(test) = queue.next(now) else { panic!() };
    queue.done(*test, Outcome::of_status(200), Times { began_at: now, took: Duration::ZERO, now });
    queue
}

#[tokio::test]
async fn a_save_has_a_bound_and_what_is_left_follows() {
    const RETRIES: usize = 2 * SAVED_ROWS + 10;
    const ENDED: usize = SAVED_ROWS + 20;
    let fake = Arc::new(Fake::default());
    let deliverer = fake.deliverer();
    let mut run = deliverer.start("o");
    // Retries without events end when they are read.
    let mut ending = returned("u", ENDED);
    let now = Fake::calendar().now().utc;
    while let Step::Read(read) = ending.next(now) {
        ending.take_retry(&read, Vec::new());
    }
    insert(&mut run, [ending, returned("v", RETRIES), returned("w", RETRIES)]);
    let mut saves = 0;
    while saves == 0 || run.is_save_full {
        assert_ne!(run.save().await.unwrap(), Save::Lost);
        saves += 1;
        assert!(saves < 10, "the saves come to an end");
    }
    let saved = fake.saved.lock().unwrap();
    assert!(saved.iter().all(|save| save.len() <= SAVED_ROWS), "{:?}", saved.iter().map(Vec::len));
    let all: BTreeSet<_> = saved.iter().flatten().collect();
    let count = |is_counted: fn(&Row) -> bool| all.iter().filter(|(_, row)| is_counted(row)).count();
    assert_eq!(count(|row| matches!(row, Row::Retry(_))), 2 * RETRIES);
    assert_eq!(count(|row| matches!(row, Row::Ended(_))), ENDED);
    assert_eq!(count(|row| matches!(row, Row::Attempt(_))), 3);
    assert_eq!(count(|row| matches!(row, Row::Resent(_))), 3);
    let rows: usize = saved.iter().map(Vec::len).sum();
    assert_eq!((rows, saves), (all.len(), all.len() / SAVED_ROWS + 1), "each once");
    assert!(run.queues.values().all(|queue| !queue.has_unsaved()));
}

/// Ends a run with three parts to save, of which the second one fails once.
async fn ends_with_a_failed_save(end: impl AsyncFnOnce(&mut Run<'_>, &CancellationToken)) {
    const RETRIES: usize = 2 * SAVED_ROWS + 10;
    let fake = Arc::new(Fake { failing_save: 2, ..Default::default() });
    let deliverer = fake.deliverer();
    let mut run = deliverer.start("o");
    run.held_until = Instant::now() + LEASE;
    insert(&mut run, [returned("w", RETRIES)]);
    end(&mut run, &fake.stop).await;
    assert!(run.queues.values().all(|queue| !queue.has_unsaved()), "all is saved");
    let saved = fake.saved.lock().unwrap();
    assert!(saved.iter().flatten().filter(|(_, row)| matches!(row, Row::Retry(_))).count() >= RETRIES);
}

#[tokio::test]
async fn a_stop_saves_again_what_a_failed_save_has_left() {
    ends_with_a_failed_save(async |run, stop| {
        stop.cancel();
        run.rounds(Until::Stopped, stop).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_end_by_an_error_saves_again_what_a_failed_save_has_left() {
    ends_with_a_failed_save(async |run, _| run.leave().await).await;
}
