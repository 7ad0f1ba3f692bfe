//! The order of the events of a user, and the users who wait for nobody else.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Move {
    Read(usize),
    Start,
    Accept(usize),
    Fail(usize),
    Save(usize),
    Crash(bool),
    Wait(i64),
    /// A day passes.
    Sleep,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => (1..6usize).prop_map(Move::Read),
        4 => Just(Move::Start),
        4 => (0..3usize).prop_map(Move::Accept),
        3 => (0..3usize).prop_map(Move::Fail),
        3 => (1..6usize).prop_map(Move::Save),
        1 => any::<bool>().prop_map(Move::Crash),
        2 => (1..4_000i64).prop_map(Move::Wait),
        1 => Just(Move::Sleep),
    ]
}

proptest! {
    #[test]
    fn every_event_arrives_in_the_order_of_its_user(
        users in proptest::collection::vec(prop_oneof![5 => "a", 1 => "b", 1 => "c", 1 => ""], 1..80),
        moves in proptest::collection::vec(moves(), 0..200),
    ) {
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        let mut world = World::new(&users);
        for step in moves {
            match step {
                Move::Read(size) => world.read(size),
                Move::Start => world.start(),
                Move::Accept(which) => { world.end(which, None); }
                Move::Fail(which) => { world.end(which, Some(Failure::Status)); }
                Move::Save(room) => world.save_part(room),
                Move::Crash(arrives) => world.crash(arrives),
                Move::Wait(seconds) => world.now += TimeDelta::seconds(seconds),
                Move::Sleep => world.now += TimeDelta::days(1),
            }
        }
        if world.queue.failed_users() > 0 || !world.queue.webhook.is_served() {
            world.restart();
        }
        world.finish();
        world.check();
        world.save();
        prop_assert_eq!(world.stored.progress.position, world.last());
        prop_assert!(world.retries.is_empty());
    }
}

#[test]
fn a_user_whose_event_is_not_accepted_holds_no_other_up() {
    let mut world = World::new(&["a", "a", "b", "a", "b"]);
    world.read(5);
    world.start();
    assert_eq!(world.on_way.len(), 2, "one of each user");
    assert_eq!(world.end(0, Some(Failure::Status)), Some(1));
    world.start();
    assert_eq!(world.end(0, None), Some(3));
    world.start();
    assert_eq!(world.end(0, None), Some(5));
    world.start();
    assert!(world.on_way.is_empty(), "a waits for its time");
    world.save();
    assert_eq!((world.stored.progress.position, world.retries.len()), (5, 1));
    world.now += TimeDelta::seconds(6);
    world.start();
    assert_eq!(world.end(0, None), Some(1));
    world.finish();
    world.check();
}

#[test]
fn refused_events_of_two_users_hold_no_third_one_up() {
    let mut world = World::new(&["a", "b", "c"]);
    world.read(2);
    for _ in 0..20 {
        world.start();
        while world.end(0, Some(Failure::Status)).is_some() {}
        world.now += TimeDelta::minutes(1);
    }
    assert!(world.queue.webhook.progress.failures >= 8, "{:?}", world.queue.webhook.progress);
    // A crash must not make the receiver look down either.
    world.save();
    world.crash(false);
    world.read(3);
    world.start();
    let sent: Vec<_> = world.on_way.iter().map(|delivery| delivery.message.id.as_u128()).collect();
    assert!(sent.contains(&3), "{sent:?}");
}

#[test]
fn one_user_with_many_events_leaves_room_for_the_others() {
    let users: Vec<String> = (0..110).map(|index| if index < 100 { "a".into() } else { format!("u{index}") }).collect();
    let mut world = World::new(&users.iter().map(String::as_str).collect::<Vec<_>>());
    world.read(100);
    world.read(100);
    assert_eq!((world.queue.retries(), world.queue.waiting.len()), (1, 10));
    for _ in 0..20 {
        world.start();
        world.end(0, None);
    }
    assert!(world.accepted.iter().filter(|position| **position > 100).count() >= 9, "{:?}", world.accepted);
    world.finish();
    world.check();
}
