//! The ends of users and webhooks whose events are not accepted.

use super::*;

#[test]
fn a_webhook_fails_after_three_days_or_at_once_when_its_receiver_is_gone() {
    let mut world = World::new(&["a", "b"]);
    world.read(2);
    for _ in 0..100 {
        world.start();
        while world.end(0, Some(Failure::Timeout)).is_some() {}
        world.now += TimeDelta::hours(6) + TimeDelta::minutes(40);
    }
    let failed = world.queue.webhook.progress.failed.clone().unwrap();
    assert!(
        failed.at >= DateTime::UNIX_EPOCH + TRIED_FOR
            && failed.reason.contains("no event was accepted for three days; last failure: timeout"),
        "{failed:?}"
    );
    assert!(matches!(world.queue.next(world.now), Step::Wait) && world.queue.is_idle(2, world.now));

    // An operator restarts it, and nothing is lost.
    world.save();
    world.stored.progress.failed = None;
    world.stored.progress.failures = 0;
    world.stored.restarts = 1;
    world.crash(false);
    world.finish();
    world.check();

    let mut world = World::new(&["a"]);
    world.read(1);
    world.start();
    world.end(0, Some(Failure::Gone));
    assert_eq!(world.queue.webhook.state(), WebhookState::Failed);
    assert!(world.queue.webhook.progress.failed.as_ref().unwrap().reason.contains("410"));
}

#[test]
fn a_user_whose_event_is_refused_for_three_days_fails_alone() {
    let mut world = World::new(&["a", "a", "b"]);
    world.read(3);
    let is_a = |world: &World, index: usize| world.on_way[index].message.id.as_u128() <= 2;
    // Until the attempts at the first event end; an event of another user is accepted now and then.
    for round in 0..30 {
        world.feed.push(event(4 + round, "b"));
        world.read(1);
        world.start();
        while !world.on_way.is_empty() {
            let failure = is_a(&world, 0).then_some(Failure::Status);
            world.end(0, failure);
        }
        world.now += TimeDelta::hours(6) + TimeDelta::minutes(40);
        // A crash in between changes nothing.
        world.save();
        world.crash(false);
    }
    let key = Some(UserId::from_stored("a"));
    assert!(world.retries[&key].failed_at.is_some(), "{:?}", world.retries);
    assert_eq!(world.queue.webhook.state(), WebhookState::Active);
    assert!(!world.accepted.contains(&1) && !world.accepted.contains(&2), "{:?}", world.accepted);
    let attempts = world.retries[&key].attempts;
    assert!((10..=18).contains(&attempts), "{attempts}");
    world.now += TimeDelta::days(30);
    loop {
        world.read(40);
        world.start();
        if world.end(0, None).is_none() {
            break;
        }
    }
    assert!(!world.accepted.contains(&1) && world.accepted.contains(&3), "{:?}", world.accepted);
    assert!(matches!(world.queue.next(world.now), Step::Wait));
    assert!(world.queue.is_idle(world.last(), world.now));

    // Another event of the user waits too. A restart sends all of them, in order.
    world.feed.push(event(world.last() + 1, "a"));
    world.read(40);
    world.start();
    assert!(world.on_way.is_empty());
    world.restart();
    world.finish();
    world.check();
}

#[test]
fn a_webhook_that_accepts_no_events_of_many_users_has_failed() {
    let users: Vec<String> =
        (0..MAX_FAILED_USERS).flat_map(|user| [format!("u{user}"), format!("good{user}")]).collect();
    let mut world = World::new(&users.iter().map(String::as_str).collect::<Vec<_>>());
    let is_bad = |world: &World| world.on_way[0].user().is_some_and(|user| user.as_str().starts_with('u'));
    for round in 0..40 {
        // An accepted event in each round, so that the receiver is not down.
        world.feed.push(event(world.last() + 1, &format!("good{round}")));
        for _ in 0..50 {
            world.read(20);
            world.start();
            while !world.on_way.is_empty() {
                let failure = is_bad(&world).then_some(Failure::Status);
                world.end(0, failure);
            }
        }
        world.now += TimeDelta::hours(3);
    }
    let failed = world.queue.webhook.progress.failed.clone().expect("it has failed");
    assert!(failed.reason.contains("100 users"), "{failed:?}");
}

#[test]
fn thousands_of_refused_users_hold_nobody_up_until_the_webhook_has_failed() {
    // The receiver refuses each second user.
    let users: Vec<String> = (1..=MAX_REFUSED).flat_map(|user| [format!("bad{user}"), format!("good{user}")]).collect();
    let mut world = World::new(&users.iter().map(String::as_str).collect::<Vec<_>>());
    let mut pages = 0;
    while world.queue.webhook.is_served() {
        pages += 1;
        assert!(pages < 1_000, "{} users were refused", world.queue.retries());
        world.read(200);
        world.start();
        while let Some(delivery) = world.on_way.first() {
            let is_bad = delivery.message.id.as_u128() % 2 == 1;
            world.end(0, is_bad.then_some(Failure::Status));
            world.start();
        }
        assert_eq!(world.queue.retries.events_in_memory(), 0, "no refused event is kept in memory");
        if world.queue.webhook.is_served() {
            assert_eq!(world.accepted.len(), world.queue.retries(), "each user in between was served");
        }
    }
    let failed = world.queue.webhook.progress.failed.clone().unwrap();
    assert_eq!(failed.reason, "the receiver refused events of 20000 users; last failure: status");
    assert_eq!(world.queue.retries(), MAX_REFUSED);

    // Repaired and restarted, it gets the events of all.
    world.save();
    world.crash(false);
    world.restart();
    let mut left = 0;
    while world.queue.retries() > 0 {
        left += 1;
        assert!(left < 100_000, "{} retries are left", world.queue.retries());
        match world.queue.next(world.now) {
            Step::Send(delivery) => {
                world.on_way.push(*delivery);
                world.end(0, None);
            }
            // Each user has one event. So this is as good as a search in the whole feed.
            Step::Read(read) => {
                let first = world.feed.get(read.after as usize).filter(|event| event.user == read.key).cloned();
                world.queue.take_retry(&read, first.into_iter().collect());
            }
            Step::Wait => panic!("{} retries are left", world.queue.retries()),
        }
    }
    assert_eq!(world.accepted.len(), 2 * MAX_REFUSED);
}
