//! Locks of other transactions, and rows that cannot be decoded. Each affects its own account only.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::{FutureExt, future::join_all};
use tokio::time::Instant;

use super::super::{
    Engine, ParkingSize, Settled,
    tests::{Fault, ScriptedLedger, charge, engine, engine_with_listener},
};
use crate::biz::{
    settlement::{
        lock::Lock,
        posting::{Charge, Effect},
    },
    values::{
        error::Error,
        ids::{ApiKeyId, UserId},
    },
};

fn account(user: &str) -> Lock {
    Lock::Account(UserId::from_stored(user))
}

fn api_key(key: &str) -> Lock {
    Lock::ApiKey(ApiKeyId::from_stored(key))
}

fn keyed(user: &str, trace: &str, key: &str) -> Charge {
    let mut charge = charge(user, trace);
    charge.content.api_key = Some(ApiKeyId::from_stored(key));
    charge
}

fn take(ledger: &ScriptedLedger, lock: Lock) {
    ledger.held.send_if_modified(|held| held.insert(lock));
}

fn release(ledger: &ScriptedLedger, lock: &Lock) {
    ledger.held.send_if_modified(|held| held.remove(lock));
}

/// A call of another user, queued behind all calls that its lane has.
async fn innocent(engine: &Engine, trace: &str) {
    engine.charge(charge("innocent", trace)).await.unwrap();
}

fn was_settled(reply: &Settled) -> bool {
    matches!(reply, Ok((_, Effect::Applied)))
}

fn is_overloaded(reply: &Settled) -> bool {
    matches!(reply, Err(Error::Overloaded(_)))
}

/// The transactions that settled a charge of the tests' locked accounts.
fn settled(ledger: &ScriptedLedger) -> Vec<Vec<String>> {
    let of_locked = |traces: &Vec<String>| traces.iter().any(|trace| trace.starts_with('t'));
    ledger.settled.lock().unwrap().iter().filter(|traces| of_locked(traces)).cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn a_locked_account_waits_beside_its_lane() {
    let (engine, ledger) = engine([]);
    take(&ledger, account("u"));
    let mut locked = Box::pin(engine.charge(charge("u", "t")));
    for number in 0..50 {
        innocent(&engine, &number.to_string()).await;
    }
    assert!(locked.as_mut().now_or_never().is_none());
    assert_eq!(engine.parked(), ParkingSize { accounts: 1, postings: 1 });
    release(&ledger, &account("u"));
    assert!(was_settled(&locked.await));
    assert_eq!(engine.parked(), ParkingSize { accounts: 0, postings: 0 });
    assert_eq!(*ledger.used.lock().unwrap(), 51);
}

#[tokio::test(start_paused = true)]
async fn a_parked_account_keeps_its_order_and_settles_its_queue_together() {
    let (engine, ledger) = engine([]);
    take(&ledger, account("u"));
    let mut calls = vec![engine.charge(charge("u", "t1"))];
    innocent(&engine, "a").await;
    for trace in ["t2", "t3", "t4"] {
        calls.push(engine.charge(charge("u", trace)));
        innocent(&engine, trace.replace('t', "b").as_str()).await;
    }
    release(&ledger, &account("u"));
    assert!(join_all(calls).await.iter().all(was_settled));
    assert_eq!(settled(&ledger), [["t1", "t2", "t3", "t4"]]);
    // The account is back in its lane, which settles it with the others.
    let calls = [engine.charge(charge("u", "t5")), engine.charge(charge("innocent", "t6"))];
    assert!(join_all(calls).await.iter().all(was_settled));
    assert_eq!(settled(&ledger).last().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_never_released_is_given_up_and_nothing_changes() {
    let (engine, ledger) = engine([]);
    take(&ledger, account("u"));
    let started = Instant::now();
    let calls = [engine.charge(charge("u", "t1")), engine.charge(charge("u", "t2"))];
    for reply in join_all(calls).await {
        let Err(Error::Overloaded(why)) = reply else { panic!("{reply:?}") };
        assert!(why.to_string().contains("nothing was changed"), "{why}");
    }
    // The timeout of the tests is five seconds, and one turn may begin before it ends.
    assert!(started.elapsed() <= Duration::from_secs(7));
    assert_eq!(settled(&ledger), Vec::<Vec<String>>::new());
    release(&ledger, &account("u"));
    assert!(was_settled(&engine.charge(charge("u", "t1")).await));
}

#[tokio::test(start_paused = true)]
async fn a_full_parking_refuses_the_callers_of_locked_accounts_alone() {
    let (engine, ledger) = engine([]);
    // Bounds of the tests: 10 accounts, 20 postings of one.
    (0..11).for_each(|number| take(&ledger, account(&format!("u{number}"))));
    let mut calls = Vec::new();
    for number in 0..11 {
        calls.push(engine.charge(charge(&format!("u{number}"), "t")));
        innocent(&engine, &format!("a{number}")).await;
    }
    assert!(is_overloaded(&calls.pop().unwrap().await), "one account too many");
    for number in 1..21 {
        calls.push(engine.charge(charge("u0", &format!("t{number}"))));
        innocent(&engine, &format!("b{number}")).await;
    }
    assert!(is_overloaded(&calls.pop().unwrap().await), "one posting of an account too many");
    (0..11).for_each(|number| release(&ledger, &account(&format!("u{number}"))));
    assert!(join_all(calls).await.iter().all(was_settled));
}

#[tokio::test(start_paused = true)]
async fn accounts_that_need_a_held_key_wait_for_it_and_settle_together() {
    let (engine, ledger) = engine([]);
    take(&ledger, api_key("k"));
    let mut calls = vec![engine.charge(keyed("u0", "t0", "k"))];
    innocent(&engine, "a").await;
    for number in 1..4 {
        calls.push(engine.charge(keyed(&format!("u{number}"), &format!("t{number}"), "k")));
        innocent(&engine, &format!("b{number}")).await;
    }
    // This call has no API key. It still stays behind the other calls of its account.
    calls.push(engine.charge(charge("u1", "t4")));
    innocent(&engine, "c").await;
    release(&ledger, &api_key("k"));
    assert!(join_all(calls).await.iter().all(was_settled));
    assert_eq!(settled(&ledger), [["t0", "t1", "t2", "t3", "t4"]]);
}

#[tokio::test(start_paused = true)]
async fn an_account_that_waited_for_a_key_may_wait_for_its_own_rows_next() {
    let (engine, ledger) = engine([]);
    take(&ledger, api_key("k"));
    let mut calls = vec![engine.charge(keyed("u", "t1", "k"))];
    innocent(&engine, "a").await;
    calls.push(engine.charge(charge("u", "t2")));
    innocent(&engine, "b").await;
    take(&ledger, account("u"));
    release(&ledger, &api_key("k"));
    // Another call through the key is settled, so the key was granted.
    assert!(was_settled(&engine.charge(keyed("v", "v", "k")).await));
    calls.push(engine.charge(charge("u", "t3")));
    innocent(&engine, "c").await;
    release(&ledger, &account("u"));
    assert!(join_all(calls).await.iter().all(was_settled));
    assert_eq!(settled(&ledger).concat(), ["t1", "t2", "t3"]);
}

#[tokio::test(start_paused = true)]
async fn more_locked_accounts_than_connections_have_their_turns() {
    let (engine, ledger) = engine([]);
    // There are two connections. Without turns, three locked accounts would keep them for ever.
    (0..3).for_each(|number| take(&ledger, account(&format!("u{number}"))));
    let locked: Vec<_> = (0..3).map(|number| engine.charge(charge(&format!("u{number}"), "t"))).collect();
    innocent(&engine, "a").await;
    take(&ledger, account("contended"));
    let contended = engine.charge(charge("contended", "t"));
    innocent(&engine, "b").await;
    release(&ledger, &account("contended"));
    assert!(was_settled(&contended.await), "it has a turn before the others are given up");
    assert!(join_all(locked).await.iter().all(is_overloaded));
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_row_affects_its_own_account_alone() {
    let (engine, ledger) = engine([]);
    let broken = UserId::from_stored("broken");
    ledger.unreadable.lock().unwrap().insert(broken.clone());
    let batch = || {
        ["a", "broken", "b", "broken"].map(|user| engine.charge(charge(user, &format!("{user}{:?}", Instant::now()))))
    };
    let replies = join_all(batch()).await;
    assert_eq!(replies.iter().map(was_settled).collect::<Vec<_>>(), [true, false, true, false]);
    assert!(matches!(replies[1], Err(Error::Internal(_))));
    assert_eq!(ledger.attempts.load(Ordering::SeqCst), 1, "the batch did not fail");

    tokio::time::advance(Duration::from_secs(1)).await;
    let replies = join_all(batch()).await;
    assert!(was_settled(&replies[0]) && is_overloaded(&replies[1]), "it is in quarantine");
    assert_eq!(ledger.attempts.load(Ordering::SeqCst), 2);

    // After the quarantine the row is still broken. Then it is repaired.
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(matches!(engine.charge(charge("broken", "again")).await, Err(Error::Internal(_))));
    ledger.unreadable.lock().unwrap().clear();
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(was_settled(&engine.charge(charge("broken", "mended")).await));
    let attempts = ledger.attempts.load(Ordering::SeqCst);
    assert!(join_all(batch()).await.iter().all(|reply| reply.is_ok()));
    assert_eq!(ledger.attempts.load(Ordering::SeqCst), attempts + 1, "it shares a transaction again");
}

#[tokio::test(start_paused = true)]
async fn a_posting_that_does_not_fit_fails_its_batch_once() {
    let (engine, ledger) = engine([]);
    let batch = |round: u32| ["a", "poison", "b"].map(|user| engine.charge(charge(user, &round.to_string())));
    let passed = |replies: Vec<Settled>| replies.iter().map(Result::is_ok).collect::<Vec<_>>();
    assert_eq!(passed(join_all(batch(0)).await), [true, false, true]);
    let attempts = ledger.attempts.load(Ordering::SeqCst);
    assert_eq!(passed(join_all(batch(1)).await), [true, false, true]);
    assert_eq!(ledger.attempts.load(Ordering::SeqCst), attempts + 1, "it is in quarantine");
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(passed(join_all(batch(2)).await), [true, false, true]);
    assert_eq!(ledger.attempts.load(Ordering::SeqCst), attempts + 3, "it goes alone");
}

#[tokio::test(start_paused = true)]
async fn a_commit_with_a_lost_answer_is_found_behind_the_lock() {
    let (engine, ledger, heard) = engine_with_listener([Fault::LostAfterCommit]);
    let call = engine.charge(charge("u", "t"));
    let holder = ledger.clone();
    // A transaction of the account itself. The server does not know yet that its caller has gone.
    let taken = tokio::spawn(async move {
        while holder.settled.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        take(&holder, account("u"));
        tokio::time::sleep(Duration::from_secs(3)).await;
        release(&holder, &account("u"));
    });
    assert!(was_settled(&call.await), "it is no replay");
    taken.await.unwrap();
    assert_eq!(*ledger.used.lock().unwrap(), 1);
    let heard = heard.0.lock().unwrap().clone();
    assert_eq!(heard.last().unwrap(), r#"invalidate [User("u")]"#, "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_answers_parked_postings() {
    let (engine, ledger) = engine([]);
    (0..2).for_each(|number| take(&ledger, account(&format!("u{number}"))));
    let mut calls: Vec<_> = (0..2).map(|number| engine.charge(charge(&format!("u{number}"), "t"))).collect();
    let soon = {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            release(&ledger, &account("u0"));
        })
    };
    let started = Instant::now();
    engine.drain().await;
    soon.await.unwrap();
    assert!(started.elapsed() <= Duration::from_secs(10));
    assert!(is_overloaded(&calls.pop().unwrap().await));
    assert!(was_settled(&calls.pop().unwrap().await));
}
