//! A queue between a feed and a receiver that a test plays, with crashes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::biz::{
    events::{EventPage, EventType},
    values::ids::UserId,
    webhooks::{
        Progress, Types, WebhookState,
        delivery::{Failure, Outcome},
        schedule::TRIED_FOR,
        store::SavedWebhook,
        url::WebhookUrl,
    },
};

fn webhook() -> Webhook {
    Webhook {
        id: WebhookId::from_stored("w"),
        url: WebhookUrl::from_stored("https://a/"),
        types: Types::All,
        is_active: true,
        secrets: Vec::new(),
        progress: Progress::default(),
        restarts: 0,
        created_at: DateTime::UNIX_EPOCH,
        updated_at: DateTime::UNIX_EPOCH,
    }
}

fn event(position: Position, user: &str) -> Event {
    Event {
        position,
        id: Uuid::from_u128(position.into()),
        kind: EventType::AccountStatus.name().into(),
        user: Some(user).filter(|user| !user.is_empty()).map(UserId::from_stored),
        data: "{}".into(),
        at: DateTime::UNIX_EPOCH,
    }
}

/// A feed, a database and a receiver.
struct World {
    feed: Vec<Event>,
    /// The stored webhook and its retries.
    stored: Webhook,
    retries: BTreeMap<OrderKey, StoredRetry>,
    queue: Queue,
    on_way: Vec<Delivery>,
    accepted: Vec<Position>,
    now: DateTime<Utc>,
}

impl World {
    fn new(users: &[&str]) -> Self {
        let feed = users.iter().enumerate().map(|(index, user)| event(index as u64 + 1, user)).collect();
        let queue = Queue::new(webhook(), Vec::new());
        Self {
            feed,
            stored: webhook(),
            retries: BTreeMap::new(),
            queue,
            on_way: Vec::new(),
            accepted: Vec::new(),
            now: DateTime::UNIX_EPOCH,
        }
    }

    fn last(&self) -> Position {
        self.feed.len() as u64
    }

    /// Reads a page of `size` events, if there is room.
    fn read(&mut self, size: usize) {
        let Some(after) = self.queue.reads_after() else { return };
        let events: Vec<_> = self.feed.iter().skip(after as usize).take(size).cloned().collect();
        let next = after + events.len() as u64;
        self.queue.take_page(&EventPage { events, next, has_more: next < self.last(), is_beyond: false });
    }

    /// Starts the deliveries for which there is room.
    fn start(&mut self) {
        while self.queue.in_flight() < 3 {
            match self.queue.next(self.now) {
                Step::Send(delivery) => self.on_way.push(*delivery),
                Step::Read(read) => {
                    let of_retry = |event: &&Event| {
                        event.user == read.key && event.position > read.after && event.position <= read.until
                    };
                    let events = self.feed.iter().filter(of_retry).take(2).cloned().collect();
                    self.queue.take_retry(&read, events);
                }
                Step::Wait => return,
            }
        }
    }

    /// Ends one of the deliveries on their way.
    fn end(&mut self, which: usize, failure: Option<Failure>) -> Option<Position> {
        if self.on_way.is_empty() {
            return None;
        }
        let delivery = self.on_way.remove(which % self.on_way.len());
        let position = delivery.message.id.as_u128() as Position;
        if failure.is_none() {
            self.accepted.push(position);
        }
        let times = Times { began_at: self.now, took: Duration::ZERO, now: self.now };
        self.queue.done(delivery, Outcome { status: None, failure }, times);
        Some(position)
    }

    fn save(&mut self) {
        let Some(saved) = self.queue.unsaved() else { return };
        let SavedWebhook { position, attempts, accepted, failures, failing_since, failed, retries, ended, .. } =
            saved.clone();
        self.stored.progress = Progress { position, attempts, accepted, failures, failing_since, failed };
        self.retries.extend(retries.into_iter().map(|retry| (retry.key.clone(), retry)));
        self.retries.retain(|key, _| !ended.contains(key));
        self.queue.saved(&saved);
    }

    /// Loses all that is in memory. What is on its way arrives or not.
    fn crash(&mut self, arrives: bool) {
        for delivery in self.on_way.drain(..) {
            if arrives {
                self.accepted.push(delivery.message.id.as_u128() as Position);
            }
        }
        self.queue = Queue::new(self.stored.clone(), self.retries.values().cloned().collect());
    }

    /// An operator restarts the webhook.
    fn restart(&mut self) {
        let restarts = self.queue.webhook.restarts + 1;
        self.stored.restarts = restarts;
        let progress = Progress { failed: None, ..self.queue.webhook.progress.clone() };
        self.queue.renew(Webhook { restarts, progress, ..self.queue.webhook.clone() }, self.now);
    }

    /// Delivers all that is left to a receiver that accepts it.
    fn finish(&mut self) {
        for _ in 0..1_000 {
            // All that can be sent at this time.
            loop {
                self.read(5);
                self.start();
                if self.end(0, None).is_none() {
                    break;
                }
            }
            if self.queue.is_idle(self.last(), self.now) && self.queue.retries() == 0 {
                return;
            }
            self.now += TimeDelta::hours(7);
        }
        panic!("the queue is stuck: {:?}", self.queue);
    }

    /// Each event is accepted, and none of a user before an earlier one of the same user.
    fn check(&self) {
        let mut seen = std::collections::BTreeSet::new();
        for position in &self.accepted {
            let event = &self.feed[*position as usize - 1];
            let earlier = self.feed[..*position as usize - 1].iter().filter(|other| other.user == event.user);
            for other in earlier {
                assert!(
                    seen.contains(&other.position),
                    "{position} came before {}: {:?}",
                    other.position,
                    self.accepted
                );
            }
            seen.insert(*position);
        }
        assert_eq!(seen.len(), self.feed.len(), "{:?}", self.accepted);
    }
}

#[derive(Debug, Clone)]
enum Move {
    Read(usize),
    Start,
    Accept(usize),
    Fail(usize),
    Save,
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
        2 => Just(Move::Save),
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
                Move::Save => world.save(),
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
    let in_memory: usize = world.queue.retries.values().map(|retry| retry.events.len()).sum();
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
