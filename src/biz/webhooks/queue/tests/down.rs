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

#[test]
fn an_accepted_test_shows_that_the_receiver_is_back() {
    let users: Vec<String> = (0..20).map(|user| format!("u{user}")).collect();
    let mut world = World::new(&users.iter().map(String::as_str).collect::<Vec<_>>());
    for _ in 0..20 {
        world.read(20);
        world.start();
        while world.end(0, Some(Failure::Connect)).is_some() {}
    }
    let message = Message::from(&event(99, ""));
    let resend = Resend { id: Uuid::from_u128(99), webhook: WebhookId::from_stored("w"), message };
    world.queue.add_resends([resend].iter());
    let Step::Send(test) = world.queue.next(world.now) else { panic!() };
    let times = Times { began_at: world.now, took: Duration::ZERO, now: world.now };
    world.queue.done(*test, Outcome { status: Some(200), failure: None }, times);
    assert_eq!(world.queue.webhook.state(), WebhookState::Active);
    world.finish();
    world.check();
    assert_eq!(world.now, DateTime::UNIX_EPOCH, "all is sent at once");
}
