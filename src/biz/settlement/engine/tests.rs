//! Faults that are rare with a real database. A scripted ledger produces them.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::*;
use crate::biz::{
    account::{
        Balance, Quota,
        catalog::{Price, ServiceTerms},
    },
    charge::quote::Quote,
    settlement::{
        change::Change,
        keys::Keys,
        ledger::{Gather, SettledBatch},
        lock::{LeftOut, Lock, Obstacle},
        posting::{Batch, Effect, RecordIds},
        rule::{self, State},
        transaction::ChargeContent,
    },
    values::{
        cache_key::CacheKey,
        calendar::SystemClock,
        error::StoreError,
        ids::{ServiceName, TraceId},
        money::Money,
    },
};

pub(in crate::biz::settlement) enum Fault {
    /// The transaction is rolled back.
    Conflict,
    /// The commit succeeds, and its answer is lost.
    LostAfterCommit,
    Panic,
    /// Never answers.
    Silence,
}

/// Keeps accounts in memory with the real rule, and fails as scripted.
#[derive(Default)]
pub(in crate::biz::settlement) struct ScriptedLedger {
    faults: Mutex<VecDeque<Fault>>,
    pub used: Mutex<u32>,
    transactions: Mutex<std::collections::HashMap<(UserId, TraceId), Transaction>>,
    pub attempts: AtomicUsize,
    /// Locks that another transaction holds.
    pub held: watch::Sender<BTreeSet<Lock>>,
    /// Users with a row that cannot be decoded.
    pub unreadable: Mutex<BTreeSet<UserId>>,
    /// The trace ids of each transaction that settled some.
    pub settled: Mutex<Vec<Vec<String>>>,
}

/// The lock wait timeout of the real databases.
const LOCK_WAIT_TIMEOUT: Duration = Duration::from_secs(2);

impl ScriptedLedger {
    /// The accounts that a transaction leaves out.
    fn locked_out(&self, batch: &Batch) -> LeftOut {
        let (held, unreadable) = (self.held.borrow(), self.unreadable.lock().unwrap());
        let mut left_out = LeftOut::default();
        for posting in &batch.postings {
            let (user, account) = (posting.user(), Lock::Account(posting.user().clone()));
            let key = match posting {
                Posting::Charge(charge) => charge.content.api_key.clone().map(Lock::ApiKey),
                _ => None,
            };
            if unreadable.contains(user) {
                left_out.insert(user, Obstacle::Unreadable("stored number is not valid".into()));
            }
            if let Some(lock) = [Some(account), key].into_iter().flatten().find(|lock| held.contains(lock)) {
                left_out.insert(user, Obstacle::Locked(lock));
            }
        }
        left_out
    }
}

#[async_trait]
impl Ledger for ScriptedLedger {
    async fn settle_behind(&self, lock: &Lock, gather: &Gather) -> std::result::Result<SettledBatch, StoreError> {
        let mut held = self.held.subscribe();
        let granted = tokio::time::timeout(LOCK_WAIT_TIMEOUT, held.wait_for(|held| !held.contains(lock))).await;
        // The guard of what it waited for must not live on.
        drop(granted.map_err(|_| StoreError::Conflict("lock wait timeout".into()))?);
        self.settle(&gather()).await
    }

    async fn settle(&self, batch: &Batch) -> std::result::Result<SettledBatch, StoreError> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let left_out = self.locked_out(batch);
        let batch = &batch.without(&left_out);
        let fault = self.faults.lock().unwrap().pop_front();
        match fault {
            Some(Fault::Conflict) => return Err(StoreError::Conflict("deadlock".into())),
            Some(Fault::Panic) => panic!("scripted"),
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::LostAfterCommit) | None => {}
        }
        if batch.postings.iter().any(|posting| posting.user().as_str() == "poison") {
            return Err(StoreError::Failed("does not fit".into()));
        }
        if batch.postings.iter().any(|posting| posting.user().as_str() == "jam") {
            return Err(StoreError::Conflict("locked by another".into()));
        }
        if batch.postings.iter().any(|posting| posting.user().as_str() == "frozen") {
            tokio::time::sleep(Duration::from_secs(2)).await;
            return Err(StoreError::Conflict("lock wait timeout".into()));
        }
        let used = *self.used.lock().unwrap();
        let keys = Keys::of(batch);
        let quota = |(user, service): &(&UserId, &ServiceName)| {
            (((*user).clone(), batch.at.month, (*service).clone()), Quota { total: 1000, used: used.into(), held: 0 })
        };
        let state = State {
            balances: keys.users.iter().map(|user| ((*user).clone(), Balance::default())).collect(),
            quotas: keys.quotas.iter().map(quota).collect(),
            transactions: self.transactions.lock().unwrap().clone(),
            ..State::default()
        };
        let traces = batch.postings.iter().filter_map(|posting| match posting {
            Posting::Charge(charge) => Some(charge.trace.to_string()),
            _ => None,
        });
        self.settled.lock().unwrap().push(traces.collect());
        let (outcomes, writes) = rule::settle(batch, state);
        for transaction in writes.charges {
            *self.used.lock().unwrap() += transaction.free;
            let key = (transaction.user.clone(), transaction.trace.clone());
            self.transactions.lock().unwrap().insert(key, transaction);
        }
        match fault {
            Some(Fault::LostAfterCommit) => Err(StoreError::Unavailable("connection lost".into())),
            _ => Ok(SettledBatch {
                outcomes,
                changes: writes.changes,
                api_keys: writes.api_keys,
                left_out,
                ..SettledBatch::default()
            }),
        }
    }
}

/// The calls that the listener received, as texts.
#[derive(Default)]
pub(super) struct RecordingListener(pub Mutex<Vec<String>>);

#[async_trait]
impl CommitListener for RecordingListener {
    async fn committed(&self, _: Vec<Change>) {
        self.0.lock().unwrap().push("committed".into());
    }

    async fn invalidate(&self, cache_keys: Vec<CacheKey>) {
        self.0.lock().unwrap().push(format!("invalidate {cache_keys:?}"));
    }

    async fn outcome_unknown(&self, cache_keys: Vec<CacheKey>) {
        self.0.lock().unwrap().push(format!("unknown {cache_keys:?}"));
    }
}

pub(in crate::biz::settlement) fn engine(faults: impl IntoIterator<Item = Fault>) -> (Engine, Arc<ScriptedLedger>) {
    let (engine, ledger, _) = engine_with_listener(faults);
    (engine, ledger)
}

pub(super) fn engine_with_listener(
    faults: impl IntoIterator<Item = Fault>,
) -> (Engine, Arc<ScriptedLedger>, Arc<RecordingListener>) {
    let ledger = Arc::new(ScriptedLedger { faults: Mutex::new(faults.into_iter().collect()), ..Default::default() });
    let terms = ServiceTerms { price: Price::Unit(Money::ZERO), free_quota: 1000, policy: Default::default() };
    let catalog = Catalog::new([(ServiceName::from_stored("s"), terms)]);
    let calendar = Calendar::new(chrono_tz::UTC, SystemClock);
    let limits = LaneLimits {
        lanes: 1,
        queue: 100,
        batch: 10,
        max_wait: Duration::from_secs(1),
        retry_timeout: Duration::from_secs(5),
        parking: ParkingLimits { accounts: 10, postings: 20, connections: 2, quarantine: Duration::from_secs(10) },
    };
    let heard = Arc::new(RecordingListener::default());
    (Engine::start(ledger.clone(), heard.clone(), catalog.into(), calendar.into(), limits), ledger, heard)
}

pub(super) fn charge(user: &str, trace: &str) -> Charge {
    Charge {
        is_delivered: false,
        user: UserId::from_stored(user),
        trace: TraceId::from_stored(trace),
        content: ChargeContent {
            service: ServiceName::from_stored("s"),
            count: 1,
            cost: None,
            api_key: None,
            model: None,
            usage: None,
            estimate: None,
            service_tier: None,
        },
        quote: Ok(Quote::of_calls(1, Money::ZERO)),
        tariff: None,
        record_ids: RecordIds::fresh(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_with_a_lost_answer_is_found_and_is_no_replay() {
    let (engine, ledger) = engine([Fault::LostAfterCommit, Fault::LostAfterCommit]);
    let (first, effect) = engine.charge(charge("u", "t")).await.unwrap();
    assert_eq!(effect, Effect::Applied);
    assert_eq!(*ledger.used.lock().unwrap(), 1);
    let (again, effect) = engine.charge(charge("u", "t")).await.unwrap();
    assert_eq!(effect, Effect::Unchanged);
    assert_eq!(again, first);
    assert_eq!(*ledger.used.lock().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_listener_gets_the_changes_or_the_unknown_outcome() {
    let (engine, _, heard) = engine_with_listener([]);
    engine.charge(charge("u", "t")).await.unwrap();
    engine.charge(charge("u", "t")).await.unwrap();
    assert_eq!(*heard.0.lock().unwrap(), ["committed"], "a replay changes nothing");

    let (engine, _, heard) = engine_with_listener([Fault::LostAfterCommit]);
    engine.charge(charge("u", "t")).await.unwrap();
    assert_eq!(
        *heard.0.lock().unwrap(),
        [r#"invalidate [User("u")]"#],
        "the committed attempt did not notify the listener"
    );

    let (engine, _, heard) = engine_with_listener([Fault::Conflict]);
    engine.charge(charge("u", "t")).await.unwrap();
    assert_eq!(*heard.0.lock().unwrap(), ["committed"], "a rolled-back attempt changes nothing");

    for fault in [Fault::Silence, Fault::Panic] {
        let (engine, _, heard) = engine_with_listener([fault]);
        engine.charge(charge("u", "t")).await.unwrap_err();
        assert_eq!(*heard.0.lock().unwrap(), [r#"unknown [User("u")]"#]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadlock_settles_the_batch_again() {
    let (engine, ledger) = engine([Fault::Conflict, Fault::Conflict, Fault::Conflict]);
    assert_eq!(engine.charge(charge("u", "t")).await.unwrap().1, Effect::Applied);
    assert_eq!(ledger.attempts.load(Ordering::SeqCst), 4);
    assert_eq!(*ledger.used.lock().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_posting_that_does_not_fit_fails_alone() {
    let (engine, ledger) = engine([]);
    let calls = ["a", "poison", "b", "c"].map(|user| engine.charge(charge(user, "t")));
    let replies = futures_util::future::join_all(calls).await;
    let passed: Vec<_> = replies.iter().map(Result::is_ok).collect();
    assert_eq!(passed, [true, false, true, true]);
    assert!(matches!(replies[1], Err(Error::Internal(_))));
    assert_eq!(*ledger.used.lock().unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_lasting_conflict_affects_its_own_posting_alone() {
    let (engine, ledger) = engine([]);
    let calls = ["a", "jam", "b", "c"].map(|user| engine.charge(charge(user, "t")));
    let started = Instant::now();
    let [a, jam, b, c] = calls;
    for reply in futures_util::future::join_all([a, b, c]).await {
        assert_eq!(reply.unwrap().1, Effect::Applied);
    }
    assert!(started.elapsed() < Duration::from_secs(2), "others don't wait for the lane's retry_timeout to end");
    assert!(matches!(jam.await, Err(Error::Overloaded(_))));
    assert_eq!(*ledger.used.lock().unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_never_released_affects_its_own_posting_alone() {
    let (engine, ledger) = engine([]);
    let calls = ["a", "frozen", "b", "frozen", "c"].map(|user| engine.charge(charge(user, "t")));
    let replies = futures_util::future::join_all(calls).await;
    let passed: Vec<_> = replies.iter().map(Result::is_ok).collect();
    assert_eq!(passed, [true, false, true, false, true]);
    assert_eq!(*ledger.used.lock().unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_commit_with_a_lost_answer_is_found_when_its_accounts_are_settled_one_by_one() {
    let faults = std::iter::once(Fault::LostAfterCommit).chain(std::iter::repeat_with(|| Fault::Conflict).take(10));
    let (engine, ledger) = engine(faults);
    let calls = ["a", "b", "c"].map(|user| engine.charge(charge(user, "t")));
    for reply in futures_util::future::join_all(calls).await {
        assert_eq!(reply.unwrap().1, Effect::Applied, "it is no replay");
    }
    assert_eq!(*ledger.used.lock().unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_no_lane() {
    let (engine, ledger) = engine([Fault::Panic]);
    assert!(matches!(engine.charge(charge("u", "t")).await, Err(Error::Internal(_))));
    assert!(engine.charge(charge("u", "t")).await.is_ok());
    assert_eq!(*ledger.used.lock().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_database_is_given_up_within_the_retry_timeout() {
    let (engine, _) = engine([Fault::Silence]);
    let started = Instant::now();
    assert!(matches!(engine.charge(charge("u", "t")).await, Err(Error::Overloaded(_))));
    assert!(started.elapsed() <= Duration::from_secs(6));
    assert!(engine.charge(charge("u", "t")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_posting_that_waited_too_long_is_refused_and_not_settled() {
    let (engine, ledger) = engine([Fault::Silence]);
    let calls: Vec<_> = (0..30).map(|i| engine.charge(charge("u", &format!("t{i}")))).collect();
    for reply in futures_util::future::join_all(calls).await {
        assert!(matches!(reply, Err(Error::Overloaded(_))));
    }
    assert_eq!(ledger.attempts.load(Ordering::SeqCst), 1);
    assert_eq!(*ledger.used.lock().unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_on_a_silent_database_ends_within_twice_the_retry_timeout() {
    let (engine, ledger) = engine(std::iter::repeat_with(|| Fault::Silence).take(100));
    let accepted: Vec<_> = (0..100).map(|i| engine.charge(charge("u", &format!("t{i}")))).collect();
    let started = Instant::now();
    engine.drain().await;
    assert!(started.elapsed() <= Duration::from_secs(10), "{:?}", started.elapsed());
    for reply in futures_util::future::join_all(accepted).await {
        assert!(matches!(reply, Err(Error::Overloaded(_))));
    }
    assert_eq!(*ledger.used.lock().unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn draining_answers_accepted_postings_and_refuses_new_ones() {
    let (engine, ledger) = engine([Fault::Conflict]);
    let accepted: Vec<_> = (0..10).map(|i| engine.charge(charge("u", &format!("t{i}")))).collect();
    engine.drain().await;
    for reply in futures_util::future::join_all(accepted).await {
        assert!(reply.is_ok());
    }
    assert_eq!(*ledger.used.lock().unwrap(), 10);
    assert!(matches!(engine.charge(charge("u", "late")).await, Err(Error::Overloaded(_))));
}
