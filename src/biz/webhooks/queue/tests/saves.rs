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
        for attempt in world.queue.unsaved().map(|saved| saved.log).unwrap_or_default() {
            kept.insert((attempt.is_accepted(), attempt.slot), attempt.number);
        }
        world.save();
    }
    let of = |accepted| kept.keys().filter(|(is_accepted, _)| *is_accepted == accepted).count();
    assert_eq!((of(true), of(false)), (100, 30));
}
