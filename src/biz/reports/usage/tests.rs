use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use super::{
    DayChange, GroupBy, ModelUse, Part, UseCount, UseDay, UseFilter, UseGroup, UseStore, UseSums,
    budget::Budget,
    keeper::UseKeeper,
    refresh::{End, FULL, Refreshed, Walks, discard, refresh},
};
use crate::biz::{
    reports::statistics::DailyUse,
    values::{
        calendar::{Calendar, Clock, DaySpan},
        error::StoreError,
        ids::{ModelName, ServiceName, UserId},
    },
};

const DAY: &str = "2026-11-20";

struct Noon;

impl Clock for Noon {
    fn now(&self) -> DateTime<Utc> {
        "2026-11-20T12:00:00Z".parse().unwrap()
    }
}

fn calendar() -> Calendar {
    Calendar::new(chrono_tz::UTC, Noon)
}

fn day() -> NaiveDate {
    DAY.parse().unwrap()
}

fn user() -> UserId {
    UserId::from_stored("u")
}

type Groups = Vec<(UseGroup, UseSums)>;

/// Records of one user on one day, each a paid unit of a model, and their rollup.
#[derive(Default)]
struct Memory {
    records: Mutex<Vec<(DateTime<Utc>, &'static str)>>,
    rollup: Mutex<Rollup>,
    summed: AtomicUsize,
    counted: AtomicUsize,
    walks: Walks,
    /// Records that are charged during the next count, or during each one.
    arriving: Mutex<Option<(i64, &'static str, usize)>>,
    is_busy: AtomicBool,
    /// Sums of this user do not end.
    stuck: Mutex<Option<UserId>>,
    is_read_only: AtomicBool,
    /// Records that the charges have counted and that are not there.
    lost: AtomicUsize,
    /// The time of a sum or a count.
    takes: Mutex<Duration>,
}

#[derive(Default, Clone, Debug, PartialEq)]
struct Rollup {
    version: u64,
    parts: Option<Vec<Part>>,
    rows: BTreeMap<u64, Groups>,
}

impl Memory {
    /// Records at a minute of the day.
    fn record(&self, minute: i64, model: &'static str, count: usize) {
        let at = calendar().start_of(day()) + TimeDelta::minutes(minute);
        self.records.lock().unwrap().extend((0..count).map(|n| (at + TimeDelta::milliseconds(n as i64), model)));
    }

    /// Paid units by model, from the rollup and from the records.
    fn books(&self) -> [BTreeMap<String, i64>; 2] {
        let mut rolled = BTreeMap::new();
        for (group, sums) in self.rollup.lock().unwrap().rows.values().flatten() {
            *rolled.entry(group.model.clone()).or_default() += sums.get(UseCount::PaidUnits);
        }
        let mut recorded = BTreeMap::new();
        for (_, model) in self.records.lock().unwrap().iter() {
            *recorded.entry((*model).to_owned()).or_default() += 1;
        }
        [rolled, recorded]
    }

    fn assert_is_exact(&self) {
        let [rolled, recorded] = self.books();
        assert_eq!(rolled, recorded);
    }

    async fn refreshed(&self, budget: Budget) -> Refreshed {
        refresh(self, &calendar(), &user(), today(), budget, &self.walks).await.unwrap()
    }

    async fn refresh(&self, budget: Budget) -> u64 {
        self.refreshed(budget).await.missing
    }

    async fn take_time(&self) {
        let takes = *self.takes.lock().unwrap();
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
    }

    fn parts(&self) -> Vec<Part> {
        self.rollup.lock().unwrap().parts.clone().unwrap_or_default()
    }

    fn between(&self, (from, before): (DateTime<Utc>, DateTime<Utc>)) -> Vec<&'static str> {
        let records = self.records.lock().unwrap();
        records.iter().filter(|(at, _)| (from..before).contains(at)).map(|(_, model)| *model).collect()
    }
}

fn sums(records: i64) -> UseSums {
    let count = |count| i64::from(matches!(count, UseCount::PaidUnits | UseCount::PaidRecords | UseCount::Calls));
    UseSums::new(UseCount::ALL.map(|kind| count(kind) * records), Default::default(), Default::default())
}

#[async_trait]
impl UseStore for Memory {
    async fn days(&self, _: &UserId, _: DaySpan) -> Result<Vec<UseDay>, StoreError> {
        let rollup = self.rollup.lock().unwrap();
        let recorded = (self.records.lock().unwrap().len() + self.lost.load(SeqCst)) as u64;
        let parts = if rollup.version == 0 { Some(Vec::new()) } else { rollup.parts.clone() };
        Ok(vec![UseDay { day: day(), recorded, version: rollup.version, parts }])
    }

    async fn count_between(&self, _: &UserId, between: (DateTime<Utc>, DateTime<Utc>)) -> Result<u64, StoreError> {
        self.counted.fetch_add(1, SeqCst);
        self.take_time().await;
        let arriving = *self.arriving.lock().unwrap();
        if let Some((minute, model, count)) = arriving {
            self.record(minute, model, count);
            if !self.is_busy.load(SeqCst) {
                self.arriving.lock().unwrap().take();
            }
        }
        Ok(self.between(between).len() as u64)
    }

    async fn newest_between(
        &self,
        _: &UserId,
        (from, before): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let records = self.records.lock().unwrap();
        Ok(records.iter().map(|(at, _)| *at).filter(|at| (from..before).contains(at)).max())
    }

    async fn part_sums(&self, _: &UserId, _: NaiveDate, part: u64) -> Result<Groups, StoreError> {
        Ok(self.rollup.lock().unwrap().rows.get(&part).cloned().unwrap_or_default())
    }

    async fn part_ids(&self, _: &UserId, _: NaiveDate, limit: u32) -> Result<Vec<u64>, StoreError> {
        Ok(self.rollup.lock().unwrap().rows.keys().copied().take(limit as usize).collect())
    }

    async fn sums_between(&self, user: &UserId, between: (DateTime<Utc>, DateTime<Utc>)) -> Result<Groups, StoreError> {
        if self.stuck.lock().unwrap().as_ref() == Some(user) {
            std::future::pending::<()>().await;
        }
        // As a database, so that others run meanwhile.
        tokio::task::yield_now().await;
        self.take_time().await;
        let found = self.between(between);
        self.summed.fetch_add(found.len(), SeqCst);
        let mut groups: BTreeMap<UseGroup, UseSums> = BTreeMap::new();
        for model in found {
            let service = ServiceName::from_stored("llm");
            let group = UseGroup { service, model: model.into(), api_key: String::new() };
            groups.entry(group).or_default().add(&sums(1));
        }
        Ok(groups.into_iter().collect())
    }

    async fn change(&self, _: &UserId, change: DayChange) -> Result<(), StoreError> {
        if self.is_read_only.load(SeqCst) {
            return Err(StoreError::Unavailable("read only".into()));
        }
        let mut rollup = self.rollup.lock().unwrap();
        if rollup.version != change.version {
            return Err(StoreError::Conflict("another version".into()));
        }
        rollup.version = change.next();
        rollup.rows.retain(|id, _| !change.removed.contains(id));
        if !change.added.is_empty() {
            rollup.rows.insert(change.next(), change.added);
        }
        rollup.parts = change.parts;
        Ok(())
    }

    async fn grouped(
        &self,
        _: &UseFilter,
        _: GroupBy,
        _: Option<&str>,
        _: u32,
    ) -> Result<(Vec<(String, UseSums)>, u64), StoreError> {
        unimplemented!("a refresh reads no groups")
    }

    async fn daily_of(&self, _: &UseFilter) -> Result<(Vec<DailyUse>, u64), StoreError> {
        unimplemented!("a refresh reads no days")
    }

    async fn use_of_models(&self, _: &[ModelName], _: NaiveDate, _: u32) -> Result<Vec<ModelUse>, StoreError> {
        unimplemented!("a refresh reads no models")
    }

    async fn entries_of_models(&self, _: &[ModelName], _: NaiveDate, _: u32) -> Result<u64, StoreError> {
        unimplemented!("a refresh counts no entries")
    }

    async fn models_of(&self, _: NaiveDate, _: u32) -> Result<Vec<ModelName>, StoreError> {
        unimplemented!("a refresh reads no names of models")
    }
}

/// A day with so many records that it has several parts.
const LARGE: usize = FULL as usize + 1_000;

#[tokio::test]
async fn a_small_day_is_summed_as_a_whole_and_only_when_it_changed() {
    let store = Memory::default();
    store.record(10, "a", 3);
    assert_eq!(store.refresh(Budget::OF_REQUEST).await, 0);
    store.assert_is_exact();
    assert_eq!(store.refresh(Budget::OF_REQUEST).await, 0);
    assert_eq!(store.summed.load(SeqCst), 3, "nothing is summed twice");
    // A commit whose record has the time of its reserve, before all that was summed.
    store.record(1, "b", 2);
    assert_eq!(store.refresh(Budget::OF_REQUEST).await, 0);
    store.assert_is_exact();
    assert_eq!(store.parts().len(), 1);
}

/// A day with [`LARGE`] records, spread over twelve hours.
fn twelve_hours() -> Memory {
    let store = Memory::default();
    for hour in 0..12 {
        store.record(hour * 60, "a", LARGE / 12 + 1);
    }
    store
}

#[tokio::test]
async fn a_record_that_comes_late_changes_only_its_part() {
    let store = twelve_hours();
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 0);
    store.assert_is_exact();
    // Parts of few records are merged.
    let [part, last] = store.parts()[..] else { panic!("{:?}", store.parts()) };
    store.record(3 * 60 + 4, "b", 1);
    store.summed.store(0, SeqCst);
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 0);
    store.assert_is_exact();
    assert_eq!(store.summed.load(SeqCst) as u64, part.records + 1);
    assert_eq!(store.parts()[1], last);
}

#[tokio::test]
async fn a_day_that_grows_is_exact_at_each_read() {
    let store = Memory::default();
    for minute in 0..600 {
        store.record(minute, "a", 7);
        if minute % 60 == 30 {
            // A late one, in a part that is full.
            store.record(minute - 20, "b", 1);
        }
        assert_eq!(store.refresh(Budget::OF_REQUEST).await, 0, "{minute}");
        store.assert_is_exact();
    }
    let parts = store.parts();
    assert!((4..=8).contains(&parts.len()), "{parts:?}");
    assert!(parts.windows(2).all(|pair| pair[0].until == pair[1].from), "{parts:?}");
}

#[tokio::test]
async fn a_refresh_that_was_cut_short_goes_on() {
    let store = Memory::default();
    for hour in 0..12 {
        store.record(hour * 60, "a", LARGE);
    }
    let recorded = store.records.lock().unwrap().len() as u64;
    let missing = store.refresh(Budget::OF_REQUEST).await;
    assert!((1..recorded).contains(&missing), "{missing}");
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 0);
    store.assert_is_exact();
}

/// Two servers sum the day at once, on both sides of the number of records up to which it is one part.
#[tokio::test]
async fn of_two_servers_that_change_a_day_one_reads_again() {
    let store = Arc::new(Memory::default());
    store.record(60, "a", FULL as usize);
    let keeper = UseKeeper::new(store.clone(), Arc::new(calendar()));
    // The one has read the day and summed it, and has not written yet.
    let slow = store.days(&user(), today()).await.unwrap().remove(0);
    let groups = store.sums_between(&user(), calendar().bounds(today())).await.unwrap();
    store.record(61, "b", 1);
    assert_eq!(keeper.up_to_date(&user(), today()).await.unwrap(), 0);
    let end = 24 * 60 * 60 * 1_000;
    let part = Part { id: slow.version + 1, from: 0, until: end, records: FULL, rows: 1 };
    let (parts, removed) = (Some(vec![part]), Vec::new());
    let change = DayChange { day: day(), version: slow.version, parts, removed, added: groups };
    assert!(matches!(store.change(&user(), change).await, Err(StoreError::Conflict(_))));
    assert_eq!(keeper.up_to_date(&user(), today()).await.unwrap(), 0);
    store.assert_is_exact();

    for second in 0..20 {
        store.record(120 + second, "c", 100);
        let budgets = [Budget::OF_REQUEST, Budget::WITHOUT_END];
        futures_util::future::join_all(budgets.map(|budget| store.refreshed(budget))).await;
        assert_eq!(keeper.up_to_date(&user(), today()).await.unwrap(), 0);
        store.assert_is_exact();
    }
}

#[tokio::test]
async fn a_day_with_too_many_records_is_not_taken_for_a_whole_one() {
    let store = Arc::new(Memory::default());
    store.record(0, "a", LARGE);
    store.refresh(Budget::WITHOUT_END).await;
    // One part is doubled, as no version of the service writes it.
    {
        let mut rollup = store.rollup.lock().unwrap();
        let rows = rollup.rows.values().next().unwrap().clone();
        rollup.rows.insert(1_000, rows);
        let parts = rollup.parts.as_mut().unwrap();
        let double = Part { id: 1_000, from: 50_000_000, until: 50_000_001, ..parts[0] };
        parts.push(double);
    }
    let keeper = UseKeeper::new(store.clone(), Arc::new(calendar()));
    let again = store.days(&user(), today()).await.unwrap().remove(0);
    assert_eq!(again.missing(), LARGE as u64);
    keeper.up_to_date(&user(), today()).await.unwrap();
    store.refresh(Budget::WITHOUT_END).await;
    store.assert_is_exact();
}

#[tokio::test]
async fn a_discarded_day_lacks_everything_until_it_is_summed_anew() {
    let store = Memory::default();
    store.record(0, "a", LARGE);
    store.refresh(Budget::WITHOUT_END).await;
    store.rollup.lock().unwrap().rows.clear();
    discard(&store, &user(), day()).await.unwrap();
    assert_eq!(store.days(&user(), today()).await.unwrap()[0].missing(), LARGE as u64);
    assert_eq!(store.refresh(Budget::OF_REQUEST).await, LARGE as u64, "a request has no time for it");
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 0);
    store.assert_is_exact();
}

#[tokio::test]
async fn rows_that_are_lost_are_seen_when_parts_are_merged() {
    let store = twelve_hours();
    assert_eq!(store.refresh(Budget::OF_REQUEST).await, 0);
    assert!(store.parts().len() > 2);
    store.rollup.lock().unwrap().rows.pop_last();
    assert!(store.refresh(Budget::WITHOUT_END).await > 0, "it is summed anew");
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 0);
    store.assert_is_exact();
}

#[tokio::test]
async fn a_read_leaves_the_rest_to_the_keeper() {
    let store = Arc::new(Memory::default());
    for hour in 0..12 {
        store.record(hour * 60, "a", LARGE);
    }
    let keeper = UseKeeper::new(store.clone(), Arc::new(calendar()));
    let span = DaySpan { first: day(), last: day() };
    assert_eq!(keeper.longest_wait(), Duration::ZERO);
    assert!(keeper.up_to_date(&user(), span).await.unwrap() > 0);
    assert!(keeper.longest_wait() > Duration::ZERO);
    let summed = async {
        while keeper.longest_wait() > Duration::ZERO {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = keeper.run(|error| panic!("{error}")) => {}
        () = summed => {}
    }
    store.assert_is_exact();
    assert_eq!(keeper.up_to_date(&user(), span).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_busy_user_is_summed_without_a_read() {
    let store = Arc::new(Memory::default());
    store.record(5, "a", 700);
    let keeper = UseKeeper::new(store.clone(), Arc::new(calendar()));
    (0..700).for_each(|_| keeper.changed(&user()));
    let summed = async {
        while store.summed.load(SeqCst) == 0 {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    };
    tokio::select! {
        () = keeper.run(|error| panic!("{error}")) => {}
        () = summed => {}
    }
    store.assert_is_exact();
    assert_eq!(keeper.longest_wait(), Duration::ZERO, "no read waited");
}

#[tokio::test]
async fn records_of_one_instant_are_summed_together() {
    let store = Memory::default();
    let at = calendar().start_of(day());
    store.records.lock().unwrap().extend((0..50_000).map(|_| (at, "a")));
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 0);
    store.assert_is_exact();
}

/// A day in several parts, all summed.
async fn large_day() -> Memory {
    let store = Memory::default();
    for hour in 0..12 {
        store.record(hour * 60, "a", LARGE);
    }
    store.refresh(Budget::WITHOUT_END).await;
    store.counted.store(0, SeqCst);
    store
}

#[tokio::test]
async fn new_records_do_not_stand_for_missing_ones() {
    for budget in [Budget::OF_REQUEST, Budget::WITHOUT_END] {
        let store = large_day().await;
        store.record(2, "late", 5);
        // As many are charged between the numbers and the count.
        *store.arriving.lock().unwrap() = Some((11 * 60 + 1, "new", 5));
        let missing = store.refresh(budget).await;
        let [rolled, recorded] = store.books();
        let lacking = recorded.values().sum::<i64>() - rolled.values().sum::<i64>();
        assert_eq!(missing, lacking as u64);
        assert_eq!(missing, if budget == Budget::WITHOUT_END { 0 } else { 5 });
        assert_eq!(store.refresh(Budget::WITHOUT_END).await, 0);
        store.assert_is_exact();
    }
}

#[tokio::test]
async fn a_refresh_of_an_account_that_is_charged_all_the_time_ends() {
    let store = large_day().await;
    store.record(2, "late", 5);
    *store.arriving.lock().unwrap() = Some((11 * 60 + 1, "new", 1));
    store.is_busy.store(true, SeqCst);
    assert!(store.refresh(Budget::OF_REQUEST).await > 0);
    let counted = store.counted.swap(0, SeqCst);
    assert!(counted <= 100, "{counted}");
    assert!(store.refresh(Budget::WITHOUT_END).await > 0);
    let counted = store.counted.load(SeqCst);
    assert!(counted <= 50, "each part once: {counted}");
    assert_eq!(store.books()[0]["late"], 5, "the late records are in");
}

#[tokio::test]
async fn many_groups_become_several_parts() {
    let store = Memory::default();
    store.record(0, "a", LARGE);
    let at = calendar().start_of(day()) + TimeDelta::minutes(30);
    let models = (0..5_000).map(|n| -> &'static str { Box::leak(format!("m-{n}").into_boxed_str()) });
    let times = (0..5_000).map(|n| at + TimeDelta::milliseconds(n));
    store.records.lock().unwrap().extend(times.zip(models));
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 0);
    store.assert_is_exact();
    let parts = store.parts();
    assert!(parts.iter().all(|part| part.rows <= 2_000), "{parts:?}");
}

/// Each statement takes a second, and a turn eight.
#[tokio::test(start_paused = true)]
async fn a_time_that_needs_several_turns_gets_in() {
    let store = Arc::new(Memory::default());
    store.record(0, "a", LARGE);
    store.record(10, "b", 250_000);
    *store.takes.lock().unwrap() = Duration::from_secs(1);
    let keeper = UseKeeper::new(store.clone(), Arc::new(calendar()));
    assert!(keeper.up_to_date(&user(), today()).await.unwrap() > 0);
    let running = keeper.run(|error| panic!("{error}"));
    tokio::time::timeout(Duration::from_secs(180), running).await.unwrap_err();
    store.assert_is_exact();
    assert!(store.summed.load(SeqCst) <= 260_000, "no turn begins anew");
    assert_eq!(keeper.longest_wait(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_comparison_goes_on_where_the_last_turn_ended() {
    let store = large_day().await;
    store.record(1, "late", 5);
    *store.takes.lock().unwrap() = Duration::from_secs(1);
    let mut turns = 0;
    // The time of each turn is over after one part.
    while store.refreshed(Budget::until(tokio::time::Instant::now() + Duration::from_nanos(1))).await.missing > 0 {
        turns += 1;
        assert!(turns <= 40, "{turns}");
    }
    store.assert_is_exact();
}

#[tokio::test(start_paused = true)]
async fn records_that_are_not_found_stay_in_sight() {
    let store = Arc::new(Memory::default());
    store.record(5, "a", 7);
    store.lost.store(2, SeqCst);
    assert_eq!(store.refreshed(Budget::WITHOUT_END).await.end, End::Lacking);
    let keeper = UseKeeper::new(store.clone(), Arc::new(calendar()));
    assert_eq!(keeper.up_to_date(&user(), today()).await.unwrap(), 2);
    store.summed.store(0, SeqCst);
    let running = keeper.run(|error| panic!("{error}"));
    tokio::time::timeout(Duration::from_secs(900), running).await.unwrap_err();
    assert!(keeper.longest_wait() > Duration::from_secs(600), "an alert tells it");
    assert!(store.summed.load(SeqCst) <= 7 * 20, "with pauses");
    store.lost.store(0, SeqCst);
    assert_eq!(keeper.up_to_date(&user(), today()).await.unwrap(), 0);
    assert_eq!(keeper.longest_wait(), Duration::ZERO);
}

fn today() -> DaySpan {
    DaySpan { first: day(), last: day() }
}

#[tokio::test(start_paused = true)]
async fn a_read_answers_within_its_time_and_leaves_the_rest() {
    let store = Arc::new(Memory::default());
    store.record(5, "a", 7);
    *store.stuck.lock().unwrap() = Some(user());
    let keeper = UseKeeper::new(store.clone(), Arc::new(calendar()));
    assert_eq!(keeper.up_to_date(&user(), today()).await.unwrap(), 7);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(keeper.longest_wait() > Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_reader_with_little_time_gets_what_is_there_and_the_rest_is_summed_behind_it() {
    let store = Arc::new(Memory::default());
    store.record(5, "a", 7);
    *store.takes.lock().unwrap() = Duration::from_millis(50);
    let keeper = UseKeeper::new(store.clone(), Arc::new(calendar()));
    let begun = tokio::time::Instant::now();
    assert_eq!(keeper.up_to_date_within(&user(), today(), Duration::ZERO).await.unwrap(), 7);
    assert_eq!(store.summed.load(SeqCst), 0, "it sums nothing itself");
    let of_reads = begun.elapsed();
    let begun = tokio::time::Instant::now();
    assert_eq!(keeper.up_to_date_within(&user(), today(), Duration::from_millis(20)).await.unwrap(), 7);
    assert!(begun.elapsed() <= of_reads + Duration::from_millis(20), "{:?}", begun.elapsed());
    let running = keeper.run(|error| panic!("{error}"));
    tokio::time::timeout(Duration::from_secs(60), running).await.unwrap_err();
    store.assert_is_exact();
}

#[tokio::test]
async fn a_read_of_too_many_sums_is_refused() {
    let store = Arc::new(Memory::default());
    store.record(5, "a", 7);
    let keeper = UseKeeper::new(store.clone(), Arc::new(calendar()));
    for (rows, is_read) in [(100_000, true), (100_001, false)] {
        let part = Part { id: 1, from: 0, until: 86_400_000, records: 7, rows };
        *store.rollup.lock().unwrap() = Rollup { version: 1, parts: Some(vec![part]), rows: BTreeMap::new() };
        assert_eq!(keeper.up_to_date(&user(), today()).await.is_ok(), is_read, "{rows}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_aborted_read_leaves_its_work_to_the_keeper() {
    let store = Arc::new(Memory::default());
    store.record(5, "a", 7);
    *store.stuck.lock().unwrap() = Some(user());
    let keeper = UseKeeper::new(store.clone(), Arc::new(calendar()));
    let aborted = tokio::time::timeout(Duration::from_millis(10), keeper.up_to_date(&user(), today())).await;
    assert!(aborted.is_err());
    store.stuck.lock().unwrap().take();
    tokio::time::timeout(Duration::from_secs(60), keeper.run(|error| panic!("{error}"))).await.unwrap_err();
    store.assert_is_exact();
    assert_eq!(keeper.longest_wait(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_read_does_not_fail_because_its_write_fails() {
    let store = Arc::new(Memory::default());
    store.record(5, "a", 7);
    store.is_read_only.store(true, SeqCst);
    let keeper = UseKeeper::new(store.clone(), Arc::new(calendar()));
    assert_eq!(keeper.up_to_date(&user(), today()).await.unwrap(), 7);
    let failures = AtomicUsize::new(0);
    let running = keeper.run(|_| {
        failures.fetch_add(1, SeqCst);
    });
    tokio::time::timeout(Duration::from_secs(60), running).await.unwrap_err();
    assert!(failures.load(SeqCst) > 0, "the background reports it");
    store.is_read_only.store(false, SeqCst);
    assert_eq!(keeper.up_to_date(&user(), today()).await.unwrap(), 0);
    assert_eq!(keeper.longest_wait(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn reads_at_once_sum_once() {
    let store = Arc::new(Memory::default());
    store.record(5, "a", 7);
    let keeper = UseKeeper::new(store.clone(), Arc::new(calendar()));
    let user = user();
    let reads = (0..8).map(|_| keeper.up_to_date(&user, today()));
    let missing = futures_util::future::join_all(reads).await;
    assert!(missing.into_iter().all(|missing| missing.unwrap() == 0));
    assert_eq!(store.summed.load(SeqCst), 7);
}

#[tokio::test(start_paused = true)]
async fn a_user_that_takes_long_holds_up_nobody() {
    let store = Arc::new(Memory::default());
    store.record(5, "a", 7);
    let keeper = UseKeeper::new(store.clone(), Arc::new(calendar()));
    let huge = UserId::from_stored("huge");
    *store.stuck.lock().unwrap() = Some(huge.clone());
    assert_eq!(keeper.up_to_date(&huge, today()).await.unwrap(), 7);
    store.is_read_only.store(true, SeqCst);
    assert_eq!(keeper.up_to_date(&user(), today()).await.unwrap(), 7);
    store.is_read_only.store(false, SeqCst);
    let running = keeper.run(|_| {});
    tokio::time::timeout(Duration::from_secs(30), running).await.unwrap_err();
    store.assert_is_exact();
}
