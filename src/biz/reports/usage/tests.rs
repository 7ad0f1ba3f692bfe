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
    DayPart, GroupBy, StaleDay, UseCount, UseFilter, UseGroup, UseStore, UseSums,
    keeper::UseKeeper,
    refresh::{Budget, SMALL_DAY, WideSlices, refresh},
};
use crate::biz::{
    reports::statistics::DailyUse,
    values::{
        calendar::{Calendar, Clock, DaySpan},
        error::StoreError,
        ids::{ServiceName, UserId},
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
    rolled: Mutex<BTreeMap<DayPart, Groups>>,
    summed: AtomicUsize,
    counted: AtomicUsize,
    wide: WideSlices,
    /// Records that are charged during the next count, or during each one.
    arriving: Mutex<Option<(i64, &'static str, usize)>>,
    is_busy: AtomicBool,
    /// Sums of this user do not end.
    stuck: Mutex<Option<UserId>>,
    is_read_only: AtomicBool,
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
        for (group, sums) in self.rolled.lock().unwrap().values().flatten() {
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

    async fn refresh(&self, budget: Budget) -> u64 {
        refresh(self, &calendar(), &user(), DaySpan { first: day(), last: day() }, budget, &self.wide).await.unwrap()
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
    async fn stale_days(&self, _: &UserId, _: DaySpan) -> Result<Vec<StaleDay>, StoreError> {
        let rolled = self.rolled.lock().unwrap();
        let records_in = |groups: &Groups| groups.iter().map(|(_, sums)| sums.records()).sum::<u64>();
        let rolled = rolled.iter().map(|(part, groups)| (*part, records_in(groups)));
        // A part without rows is not there.
        let rolled: BTreeMap<_, _> = rolled.filter(|(_, records)| *records > 0).collect();
        let recorded = self.records.lock().unwrap().len() as u64;
        let stale = StaleDay { day: day(), recorded, rows: rolled.len() as u64, rolled };
        Ok(Some(stale).filter(|stale| !stale.is_equal() || stale.is_sliced()).into_iter().collect())
    }

    async fn count_between(&self, _: &UserId, between: (DateTime<Utc>, DateTime<Utc>)) -> Result<u64, StoreError> {
        self.counted.fetch_add(1, SeqCst);
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

    async fn fold(&self, _: &UserId, _: NaiveDate) -> Result<(), StoreError> {
        unimplemented!("today stays in slices")
    }

    async fn sums_between(&self, user: &UserId, between: (DateTime<Utc>, DateTime<Utc>)) -> Result<Groups, StoreError> {
        if self.stuck.lock().unwrap().as_ref() == Some(user) {
            std::future::pending::<()>().await;
        }
        // As a database, so that others run meanwhile.
        tokio::task::yield_now().await;
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

    async fn replace(
        &self,
        _: &UserId,
        (_, part): (NaiveDate, DayPart),
        groups: &[(UseGroup, UseSums)],
    ) -> Result<(), StoreError> {
        if self.is_read_only.load(SeqCst) {
            return Err(StoreError::Unavailable("read only".into()));
        }
        let mut rolled = self.rolled.lock().unwrap();
        match part {
            DayPart::Whole => rolled.clear(),
            DayPart::Slice(_) => drop(rolled.remove(&DayPart::Whole)),
        }
        rolled.insert(part, groups.to_vec());
        Ok(())
    }

    async fn grouped(
        &self,
        _: &UseFilter,
        _: GroupBy,
        _: Option<&str>,
        _: u32,
    ) -> Result<Vec<(String, UseSums)>, StoreError> {
        unimplemented!("a refresh reads no groups")
    }

    async fn daily_of(&self, _: &UseFilter) -> Result<Vec<DailyUse>, StoreError> {
        unimplemented!("a refresh reads no days")
    }
}

/// A day with so many records that it is summed in slices.
const LARGE: usize = SMALL_DAY as usize + 1_000;

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
}

#[tokio::test]
async fn a_record_that_comes_late_changes_only_its_slice() {
    let store = Memory::default();
    for hour in 0..12 {
        store.record(hour * 60, "a", LARGE / 12 + 1);
    }
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 0);
    store.assert_is_exact();
    assert_eq!(store.rolled.lock().unwrap().len(), 12);
    store.record(3 * 60 + 4, "b", 1);
    store.summed.store(0, SeqCst);
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 0);
    store.assert_is_exact();
    assert_eq!(store.summed.load(SeqCst), LARGE / 12 + 2);
}

#[tokio::test]
async fn a_day_that_grows_keeps_its_sums_until_its_slices_replace_them() {
    let store = Memory::default();
    store.record(0, "a", SMALL_DAY as usize);
    assert_eq!(store.refresh(Budget::OF_REQUEST).await, 0);
    store.record(60, "b", 10);
    // A request has no time for all slices.
    assert_eq!(store.refresh(Budget::OF_REQUEST).await, 10);
    assert_eq!(store.books()[0], [("a".to_owned(), SMALL_DAY as i64)].into());
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 0);
    store.assert_is_exact();
    // From now on the time suffices for the newest slice.
    store.record(61, "c", 10);
    assert_eq!(store.refresh(Budget::OF_REQUEST).await, 0);
    store.assert_is_exact();
}

#[tokio::test]
async fn a_refresh_that_was_cut_short_goes_on() {
    let store = Memory::default();
    for hour in 0..12 {
        store.record(hour * 60, "a", LARGE / 12 + 1);
    }
    let recorded = store.records.lock().unwrap().len() as u64;
    let missing = store.refresh(Budget::OF_REQUEST).await;
    assert!((1..recorded).contains(&missing), "{missing}");
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 0);
    store.assert_is_exact();
}

#[tokio::test]
async fn slices_beside_a_whole_day_are_not_counted_twice() {
    let store = Memory::default();
    store.record(0, "a", LARGE);
    store.refresh(Budget::WITHOUT_END).await;
    // Another server has summed the day as a whole, at the same time.
    let whole = store.sums_between(&user(), calendar().bounds(DaySpan { first: day(), last: day() })).await.unwrap();
    store.rolled.lock().unwrap().insert(DayPart::Whole, whole);
    assert_ne!(store.books()[0], store.books()[1]);
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 0);
    store.assert_is_exact();
}

#[tokio::test]
async fn older_sums_of_a_slower_server_are_replaced() {
    let store = Memory::default();
    store.record(0, "a", LARGE);
    store.refresh(Budget::WITHOUT_END).await;
    let older = store.rolled.lock().unwrap().clone();
    store.record(1, "b", 5);
    store.refresh(Budget::WITHOUT_END).await;
    *store.rolled.lock().unwrap() = older;
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 0);
    store.assert_is_exact();
}

#[tokio::test]
async fn a_read_leaves_the_rest_to_the_keeper() {
    let store = Arc::new(Memory::default());
    for hour in 0..12 {
        store.record(hour * 60, "a", LARGE / 12 + 1);
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

/// A day in twelve slices, all summed.
async fn large_day() -> Memory {
    let store = Memory::default();
    for hour in 0..12 {
        store.record(hour * 60, "a", LARGE / 12 + 1);
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
    assert!(counted <= 12 * 12, "from the newest record back: {counted}");
    assert_eq!(store.books()[0]["late"], 5, "the late records are in");
}

#[tokio::test]
async fn a_slice_with_too_many_groups_is_left_out_and_not_summed_again() {
    let store = Memory::default();
    store.record(0, "a", LARGE);
    let at = calendar().start_of(day()) + TimeDelta::minutes(30);
    let models = (0..20_001).map(|n| -> &'static str { Box::leak(format!("m-{n}").into_boxed_str()) });
    store.records.lock().unwrap().extend(models.map(|model| (at, model)));
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 20_001);
    assert_eq!(store.books()[0], [("a".to_owned(), LARGE as i64)].into());
    store.summed.store(0, SeqCst);
    assert_eq!(store.refresh(Budget::WITHOUT_END).await, 20_001);
    assert_eq!(store.summed.load(SeqCst), 0);
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
    let running = keeper.run(|error| panic!("{error}"));
    tokio::time::timeout(Duration::from_secs(30), running).await.unwrap_err();
    store.assert_is_exact();
}
