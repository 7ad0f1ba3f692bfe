//! Changes by operators: restarts and other types.

use super::*;

#[test]
fn a_restart_tries_all_that_waits_at_once_and_counts_anew() {
    let mut world = World::new(&["a"]);
    world.read(1);
    for _ in 0..3 {
        world.start();
        world.end(0, Some(Failure::Status));
        world.now += TimeDelta::minutes(3);
    }
    world.save();
    assert_eq!(world.retries[&Some(UserId::from_stored("a"))].attempts, 3);
    world.now -= TimeDelta::minutes(2);
    world.start();
    assert!(world.on_way.is_empty());
    let restarted = Webhook { restarts: 1, ..world.stored.clone() };
    world.queue.renew(restarted, world.now);
    world.start();
    assert_eq!(world.end(0, Some(Failure::Status)), Some(1));
    world.save();
    assert_eq!(world.retries[&Some(UserId::from_stored("a"))].attempts, 1);
}

#[test]
fn an_event_whose_type_is_removed_while_it_is_on_its_way_is_not_tried_again() {
    let mut world = World::new(&["a", "a"]);
    world.read(2);
    world.start();
    let stored = Webhook { types: Types::of(vec![EventType::MonthClosed]), ..world.stored.clone() };
    world.queue.renew(stored, world.now);
    assert_eq!(world.end(0, Some(Failure::Status)), Some(1));
    assert!(matches!(world.queue.next(world.now + TimeDelta::days(1)), Step::Wait));
    world.save();
    assert_eq!((world.stored.progress.position, world.retries.len()), (2, 0));
}

#[test]
fn other_types_count_for_the_events_that_wait() {
    let mut world = World::new(&["a", "a", "b", "c"]);
    world.read(4);
    world.start();
    assert_eq!(world.end(0, Some(Failure::Status)), Some(1));
    assert_eq!((world.end(0, None), world.end(0, None)), (Some(3), Some(4)));
    world.feed.push(event(5, "d"));
    world.read(1);
    let stored = Webhook { types: Types::of(vec![EventType::MonthClosed]), ..world.stored.clone() };
    world.queue.renew(stored, world.now);
    world.now += TimeDelta::minutes(1);
    assert!(matches!(world.queue.next(world.now), Step::Read(_)), "the retry is read by the types of now");
    world.queue.take_retry(&RetryRead { key: Some(UserId::from_stored("a")), after: 0, until: 2 }, Vec::new());
    assert!(matches!(world.queue.next(world.now), Step::Wait));
    world.save();
    assert_eq!((world.stored.progress.position, world.retries.len()), (5, 0));
}
