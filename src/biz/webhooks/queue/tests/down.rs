//! A receiver that is down: its probes, and its return.

use super::*;

#[test]
fn a_receiver_that_is_down_is_tried_at_the_times_of_the_first_failures_only() {
    let users: Vec<String> = (0..50).map(|user| format!("u{user}")).collect();
    let mut world = World::new(&users.iter().map(String::as_str).collect::<Vec<_>>());
    let mut attempts = 0;
    for _ in 0..100 {
        world.read(50);
        world.start();
        while world.end(0, Some(Failure::Connect)).is_some() {
            attempts += 1;
        }
    }
    assert!((8..=10).contains(&attempts), "{attempts} attempts before the first pause ends");
    assert_eq!(world.queue.webhook.state(), WebhookState::Failing);
    world.now += TimeDelta::seconds(6);
    world.start();
    assert!(world.end(0, None).is_some(), "a retry is tried");
    while world.end(0, None).is_some() {}
    // Then all retries are due at once, although the times of some are later.
    world.finish();
    world.check();
    assert_eq!(world.now, DateTime::UNIX_EPOCH + TimeDelta::seconds(6));
}

#[test]
fn a_receiver_that_refuses_many_users_is_probed_by_events_of_others() {
    let users: Vec<String> = (0..300).map(|user| format!("u{user}")).collect();
    let mut world = World::new(&users.iter().map(String::as_str).collect::<Vec<_>>());
    let mut attempts = 0;
    // All waits before the first probe.
    world.read(20);
    loop {
        world.start();
        if world.end(0, Some(Failure::Status)).is_none() {
            break;
        }
        attempts += 1;
    }
    assert!((8..=10).contains(&attempts), "{attempts}");
    let tried = world.queue.retries();
    // Half a day of refusals makes few probes, and each is an event of a further user.
    for _ in 0..72 {
        world.now += TimeDelta::minutes(11);
        world.read(20);
        world.start();
        while world.end(0, Some(Failure::Status)).is_some() {
            world.start();
        }
    }
    let probes = world.queue.retries() - tried;
    assert!((72..=74).contains(&probes), "{probes}");
    // The receiver accepts all users but those.
    let bad = world.queue.retries();
    world.now += TimeDelta::minutes(11);
    for _ in 0..1_000 {
        world.read(20);
        world.start();
        let Some(delivery) = world.on_way.first() else { break };
        let is_bad = delivery.message.id.as_u128() <= bad as u128;
        world.end(0, is_bad.then_some(Failure::Status));
    }
    assert_eq!(world.accepted.len(), users.len() - bad, "all others arrive at once");
}

#[test]
fn users_with_many_events_are_probes_of_a_receiver_that_is_down_too() {
    // Users by turns, each with more events than one has in the window.
    let users: Vec<String> = (0..330).map(|index| format!("u{}", index / 11)).collect();
    let mut world = World::new(&users.iter().map(String::as_str).collect::<Vec<_>>());
    let mut attempts = 0;
    for _ in 0..100 {
        world.read(110);
        world.start();
        while world.end(0, Some(Failure::Timeout)).is_some() {
            attempts += 1;
        }
    }
    assert!((8..=10).contains(&attempts), "{attempts} attempts before the first probe");
    let in_memory = world.queue.retries.events_in_memory();
    assert!(in_memory < 30, "{in_memory} events of users whose turn has not come are in memory");
    world.now += TimeDelta::seconds(6);
    world.start();
    while world.end(0, None).is_some() {
        world.start();
    }
    world.finish();
    world.check();
}

/// The receiver accepts a delivery beside the feed.
fn accept_test(world: &mut World, number: u64) {
    let message = Message::from(&event(number, ""));
    let resend = Resend { id: Uuid::from_u128(number.into()), webhook: WebhookId::from_stored("w"), message };
    world.queue.add_resends([resend].iter());
    let Step::Send(test) = world.queue.next(world.now) else { panic!() };
    let times = Times { began_at: world.now, took: Duration::ZERO, now: world.now };
    world.queue.done(*test, Outcome { status: Some(200), failure: None }, times);
}

#[test]
fn an_accepted_test_shows_that_the_receiver_is_back() {
    let users: Vec<String> = (0..20).map(|user| format!("u{user}")).collect();
    let mut world = World::new(&users.iter().map(String::as_str).collect::<Vec<_>>());
    for _ in 0..20 {
        world.read(20);
        world.start();
        while world.end(0, Some(Failure::Connect)).is_some() {}
    }
    accept_test(&mut world, 99);
    assert_eq!(world.queue.webhook.state(), WebhookState::Active);
    world.finish();
    world.check();
    assert_eq!(world.now, DateTime::UNIX_EPOCH, "all is sent at once");
}

#[test]
fn a_receiver_that_comes_back_again_and_again_makes_each_retry_due_once_an_hour() {
    const USERS: usize = 300;
    let users: Vec<String> = (0..USERS).map(|user| format!("u{user}")).collect();
    let mut world = World::new(&users.iter().map(String::as_str).collect::<Vec<_>>());
    let later = world.now + TimeDelta::hours(1);
    for event in &world.feed {
        let (key, next) = (event.user.clone(), event.position);
        let (first_at, next_at) = (Some(world.now), later);
        let retry = StoredRetry { key: key.clone(), next, attempts: 1, first_at, next_at, failed_at: None };
        world.retries.insert(key, retry);
    }
    let failures = u32::try_from(USERS).unwrap();
    world.stored.progress =
        Progress { position: world.last(), failures, failing_since: Some(world.now), ..Default::default() };
    world.crash(false);
    let refuse_all = |world: &mut World| {
        let mut refused = 0;
        world.start();
        while world.end(0, Some(Failure::Status)).is_some() {
            refused += 1;
            world.start();
        }
        refused
    };
    accept_test(&mut world, 1_001);
    assert_eq!(refuse_all(&mut world), USERS, "all are sent early");
    for number in 1_002..1_010 {
        let changes = world.queue.retries.changes;
        accept_test(&mut world, number);
        assert_eq!(world.queue.retries.changes, changes, "a retry that must wait is left alone");
        assert_eq!(refuse_all(&mut world), 0);
        // The receiver is down again.
        world.queue.failing = world.queue.retries.keys().take(DOWN_AFTER).cloned().collect();
    }
    world.now = later;
    assert_eq!(refuse_all(&mut world), USERS, "at their times");
    accept_test(&mut world, 1_011);
    world.finish();
    world.check();
    assert_eq!(world.now, later, "after an hour, all are sent early again");
}
