//! The progress that is saved.

use super::*;

#[test]
fn the_list_of_a_webhook_has_the_last_attempts_of_each_outcome() {
    let mut world = World::new(&[]);
    let mut kept = BTreeMap::new();
    for number in 1..=300 {
        let failure = (number % 10 == 0).then_some(Failure::Status);
        world.feed.push(event(number, &format!("u{number}")));
        world.read(1);
        world.start();
        world.end(0, failure);
        let mut saved = world.queue.unsaved(&mut 1_000).unwrap();
        world.queue.add_log(&mut saved, &mut 1_000);
        for attempt in saved.log {
            kept.insert((attempt.is_accepted(), attempt.slot), attempt.number);
        }
        world.save();
    }
    let of = |accepted| kept.keys().filter(|(is_accepted, _)| *is_accepted == accepted).count();
    assert_eq!((of(true), of(false)), (100, 30));
}

#[test]
fn a_crash_between_two_parts_of_a_save_loses_no_event() {
    let users: Vec<String> = (0..40).map(|user| format!("u{user}")).collect();
    for parts in 0..=9 {
        let mut world = World::new(&users.iter().map(String::as_str).collect::<Vec<_>>());
        // Each fourth user is accepted, so that the receiver is not down. All others have retries.
        world.read(40);
        world.start();
        while let Some(delivery) = world.on_way.first() {
            let failure = (delivery.message.id.as_u128() % 4 > 0).then_some(Failure::Status);
            world.end(0, failure);
            world.start();
        }
        for _ in 0..parts {
            world.save_part(4);
            let passed = (1..=world.stored.progress.position).filter(|position| position % 4 > 0);
            let kept = passed.clone().filter(|position| {
                world.retries.contains_key(&Some(UserId::from_stored(format!("u{}", position - 1))))
            });
            assert_eq!(kept.count(), passed.count(), "after part {parts}");
        }
        let is_complete = world.stored.progress.position == 40;
        assert_eq!(is_complete, parts > 7, "after part {parts}, {} retries are saved", world.retries.len());
        world.crash(false);
        world.finish();
        world.check();
    }
}
