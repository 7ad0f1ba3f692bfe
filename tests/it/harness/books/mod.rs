//! The books of the callers of a test: all requests with their definite answers. The database must
//! agree with the books to the last unit.

mod comparison;
mod events;
mod holds;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use billing_service::service::proto::{
    AdjustBalanceRequest, DeductQuotaReply, DeductQuotaRequest, ReserveQuotaRequest,
};
use tokio::sync::watch;

pub use self::holds::{End, Hold};
use super::caller::Dice;

/// The requests of all callers, and their answers.
#[derive(Default)]
pub struct Books {
    known: Mutex<Known>,
    /// Number of acknowledged charges, reserves, commits and releases. A repeat does not count.
    pub acknowledged: watch::Sender<usize>,
    /// Number of replays of an acknowledged request.
    repeated: AtomicUsize,
    /// Number of retries that found an earlier attempt, whose answer was lost.
    found: AtomicUsize,
}

type UserAndId = (String, String);

#[derive(Default)]
struct Known {
    charges: BTreeMap<UserAndId, (DeductQuotaRequest, DeductQuotaReply)>,
    /// Keys of the above, in the order of the answers.
    order: Vec<UserAndId>,
    refused: BTreeSet<UserAndId>,
    uncertain: UncertainRefusals,
    holds: BTreeMap<UserAndId, Hold>,
    /// Keys of the committed and released holds.
    ended: Vec<UserAndId>,
    /// In millionths.
    credits: BTreeMap<UserAndId, i64>,
    /// The balances, in millionths, below which `balance.low` fires for a user.
    thresholds: BTreeMap<String, Vec<i64>>,
}

/// Refused requests that may still succeed, because an earlier attempt may be in flight.
#[derive(Default)]
pub struct UncertainRefusals {
    pub charges: Vec<DeductQuotaRequest>,
    pub holds: Vec<ReserveQuotaRequest>,
}

fn key(user: &str, trace: &str) -> UserAndId {
    (user.to_owned(), trace.to_owned())
}

fn micros(amount: f64) -> i64 {
    (amount * 1e6).round() as i64
}

/// The cost of a call without free units, in millionths.
fn full_cost(service: &str, count: i32, cost: f64) -> i64 {
    let price = match service {
        "passport" => 10_000,
        "payment" => 100_000,
        "asset" => 50_000,
        other => panic!("unknown service: {other}"),
    };
    if cost > 0.0 { micros(cost) } else { price * i64::from(count) }
}

/// The share of some units in the full cost. Halves are rounded up.
fn share(full: i64, part: i32, whole: i32) -> i64 {
    let (part, whole) = (i64::from(part), i64::from(whole));
    (2 * full * part + whole) / (2 * whole)
}

impl Books {
    /// Ignores poisoning: the caller that found a difference has already panicked with the cause.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the first answer to a charge, or compares a later answer with the first one. `retried`:
    /// whether an earlier attempt without an answer may have succeeded.
    pub fn acknowledge(&self, request: &DeductQuotaRequest, reply: DeductQuotaReply, retried: bool) {
        let mut known = self.known();
        let key = key(&request.user_id, &request.trace_id);
        if let Some((_, first)) = known.charges.get(&key) {
            assert_eq!(reply, DeductQuotaReply { replayed: true, ..first.clone() }, "{request:?} was answered before");
            self.repeated.fetch_add(1, Relaxed);
            return;
        }
        assert!(retried || !reply.replayed, "{request:?} was sent for the first time and got {reply:?}");
        assert_eq!(reply.free_count + reply.paid_count, request.count, "{request:?} got {reply:?}");
        let full = full_cost(&request.service_name, request.count, request.cost);
        assert_eq!(micros(reply.amount), share(full, reply.paid_count, request.count), "{request:?} got {reply:?}");
        self.found.fetch_add(usize::from(reply.replayed), Relaxed);
        known.order.push(key.clone());
        known.charges.insert(key, (request.clone(), reply));
        drop(known);
        self.acknowledged.send_modify(|count| *count += 1);
    }

    /// Enters that a charge or a reserve was refused, because the balance is too low. It must leave no
    /// row.
    pub fn refuse(&self, user: &str, trace: &str) {
        let (mut known, key) = (self.known(), key(user, trace));
        let made = known.charges.contains_key(&key) || known.holds.contains_key(&key);
        assert!(!made, "{key:?} was acknowledged and then refused");
        known.refused.insert(key);
    }

    /// Enters a refusal of a charge, of which an earlier attempt may still succeed.
    pub fn refuse_charge_uncertainly(&self, request: &DeductQuotaRequest) {
        self.known().uncertain.charges.push(request.clone());
    }

    /// Like [`Self::refuse_charge_uncertainly`], for a reserve.
    pub fn refuse_hold_uncertainly(&self, request: &ReserveQuotaRequest) {
        self.known().uncertain.holds.push(request.clone());
    }

    /// Takes all uncertain refusals, to send the requests again.
    pub fn take_uncertain(&self) -> UncertainRefusals {
        std::mem::take(&mut self.known().uncertain)
    }

    pub fn credit(&self, request: &AdjustBalanceRequest) {
        let key = (request.user_id.clone(), request.adjustment_id.clone());
        self.known().credits.insert(key, micros(request.amount));
    }

    pub fn set_thresholds(&self, user: &str, thresholds: &[f64]) {
        let thresholds = thresholds.iter().map(|threshold| micros(*threshold)).collect();
        self.known().thresholds.insert(user.to_owned(), thresholds);
    }

    /// A random acknowledged charge.
    pub fn any(&self, dice: &mut Dice) -> Option<DeductQuotaRequest> {
        let known = self.known();
        let key = known.order.get(dice.below(known.order.len().max(1)))?;
        Some(known.charges[key].0.clone())
    }

    /// All acknowledged charges.
    pub fn all(&self) -> Vec<DeductQuotaRequest> {
        self.known().charges.values().map(|(request, _)| request.clone()).collect()
    }

    /// Number of retries that found their charge, and of all charges.
    pub fn found_of_all(&self) -> (usize, usize) {
        (self.found.load(Relaxed), self.known().charges.len())
    }

    /// The load contained every kind of request and outcome.
    pub fn assert_varied(&self) {
        let known = self.known();
        let of_kind = |free: bool, paid: bool| {
            let kind = |reply: &DeductQuotaReply| (reply.free_count > 0, reply.paid_count > 0) == (free, paid);
            known.charges.values().filter(|(_, reply)| kind(reply)).count()
        };
        let ended = |such: fn(&Hold) -> bool| known.holds.values().filter(|hold| such(hold)).count();
        let seen = [
            ("free", of_kind(true, false)),
            ("paid", of_kind(false, true)),
            ("mixed", of_kind(true, true)),
            ("refused", known.refused.len()),
            ("refused holds", known.refused.iter().filter(|(_, trace)| trace.starts_with("hold-")).count()),
            ("left to expire", ended(|hold| matches!(hold.end, End::Open | End::Expired))),
            ("released", ended(|hold| matches!(hold.end, End::Released))),
            ("committed in part", ended(|hold| hold.delivered().is_some_and(|count| count < hold.request.count))),
            ("committed in full", ended(|hold| hold.delivered() == Some(hold.request.count))),
            ("committed beyond", ended(|hold| hold.delivered().is_some_and(|count| count > hold.request.count))),
            ("below zero", ended(|hold| matches!(&hold.end, End::Committed(_, reply) if reply.balance < 0.0))),
            ("repeated", self.repeated.load(Relaxed)),
        ];
        println!("{seen:?}, {} found made by a retry", self.found.load(Relaxed));
        assert!(seen.iter().all(|(_, count)| *count > 0), "{seen:?}");
    }
}
