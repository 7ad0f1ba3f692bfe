//! What the callers of a test know for certain: what they sent and what each charge was
//! answered, and so what the database must hold, to the last unit, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use billing_service::service::proto::{AdjustBalanceRequest, DeductQuotaReply, DeductQuotaRequest};
use tokio::sync::watch;

use super::{Database, caller::Dice};

/// The callers' own count of everything.
#[derive(Default)]
pub struct Books {
    known: Mutex<Known>,
    /// How many charges have been acknowledged, each counted once.
    pub acknowledged: watch::Sender<usize>,
    /// Answers that said again what had been acknowledged before.
    repeated: AtomicUsize,
    /// Retries that found the charge made, though nobody had been told.
    found: AtomicUsize,
}

type UserAndId = (String, String);

#[derive(Default)]
struct Known {
    charges: BTreeMap<UserAndId, (DeductQuotaRequest, DeductQuotaReply)>,
    /// Keys of the above, in the order of the answers.
    order: Vec<UserAndId>,
    refused: BTreeSet<UserAndId>,
    /// Millionths.
    credits: BTreeMap<UserAndId, i64>,
}

fn key(request: &DeductQuotaRequest) -> UserAndId {
    (request.user_id.clone(), request.trace_id.clone())
}

fn micros(amount: f64) -> i64 {
    (amount * 1e6).round() as i64
}

/// The share of the paid units in the cost of all, in millionths, halves up.
fn amount_of(request: &DeductQuotaRequest, paid: i32) -> i64 {
    let price = match request.service_name.as_str() {
        "passport" => 10_000,
        "payment" => 100_000,
        "asset" => 50_000,
        other => panic!("no service of the tests: {other}"),
    };
    let count = i64::from(request.count);
    let full = if request.cost > 0.0 { micros(request.cost) } else { price * count };
    (2 * full * i64::from(paid) + count) / (2 * count)
}

impl Books {
    /// Whoever found a difference panicked while holding it; the others need not say so too.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the answer to a charge, or holds it against the one that came first.
    /// `retried`: whether an attempt before may have been made without an answer.
    pub fn acknowledge(&self, request: &DeductQuotaRequest, reply: DeductQuotaReply, retried: bool) {
        let mut known = self.known();
        if let Some((_, first)) = known.charges.get(&key(request)) {
            assert_eq!(reply, DeductQuotaReply { replayed: true, ..first.clone() }, "{request:?} was answered before");
            self.repeated.fetch_add(1, Relaxed);
            return;
        }
        assert!(retried || !reply.replayed, "{request:?} was sent for the first time and got {reply:?}");
        assert_eq!(reply.free_count + reply.paid_count, request.count, "{request:?} got {reply:?}");
        assert_eq!(micros(reply.amount), amount_of(request, reply.paid_count), "{request:?} got {reply:?}");
        self.found.fetch_add(usize::from(reply.replayed), Relaxed);
        known.order.push(key(request));
        known.charges.insert(key(request), (request.clone(), reply));
        drop(known);
        self.acknowledged.send_modify(|count| *count += 1);
    }

    /// Enters that a charge was refused for want of money: it must leave no trace.
    pub fn refuse(&self, request: &DeductQuotaRequest) {
        let mut known = self.known();
        assert!(!known.charges.contains_key(&key(request)), "{request:?} was acknowledged and then refused");
        known.refused.insert(key(request));
    }

    pub fn credit(&self, request: &AdjustBalanceRequest) {
        let key = (request.user_id.clone(), request.adjustment_id.clone());
        self.known().credits.insert(key, micros(request.amount));
    }

    /// A charge that has been acknowledged, whichever.
    pub fn any(&self, dice: &mut Dice) -> Option<DeductQuotaRequest> {
        let known = self.known();
        let key = known.order.get(dice.below(known.order.len().max(1)))?;
        Some(known.charges[key].0.clone())
    }

    /// All charges that have been acknowledged.
    pub fn all(&self) -> Vec<DeductQuotaRequest> {
        self.known().charges.values().map(|(request, _)| request.clone()).collect()
    }

    /// Retries that found their charge made, and all charges.
    pub fn found_of_all(&self) -> (usize, usize) {
        (self.found.load(Relaxed), self.known().charges.len())
    }

    /// That the load had some of everything; without it, it would prove less than it says.
    pub fn assert_varied(&self) {
        let known = self.known();
        let of_kind = |free: bool, paid: bool| {
            let kind = |reply: &DeductQuotaReply| (reply.free_count > 0, reply.paid_count > 0) == (free, paid);
            known.charges.values().filter(|(_, reply)| kind(reply)).count()
        };
        let seen = [
            ("free", of_kind(true, false)),
            ("paid", of_kind(false, true)),
            ("mixed", of_kind(true, true)),
            ("refused", known.refused.len()),
            ("repeated", self.repeated.load(Relaxed)),
        ];
        println!("{seen:?}, {} found made by a retry", self.found.load(Relaxed));
        assert!(seen.iter().all(|(_, count)| *count > 0), "{seen:?}");
    }

    /// That the tables hold exactly what the callers know, and that the audit is clean.
    pub async fn assert_kept_in(&self, database: &Database) {
        self.assert_transactions(database).await;
        self.assert_records(database).await;
        self.assert_accounts(database).await;
        database.assert_audit_is_clean().await;
    }

    async fn assert_transactions(&self, database: &Database) {
        let columns = [
            "user_id",
            "trace_id",
            "status",
            "service_name",
            "count",
            "record_id",
            "free_count",
            "paid_count",
            "MICROS(amount)",
            "MICROS(balance_after)",
            "free_remaining_after",
        ];
        let found = database.rows(&columns, "FROM billing_transaction").await;
        let known = self.known();
        let expected = known.charges.values().map(|(request, reply)| {
            let numbers = [i64::from(reply.free_count), reply.paid_count.into(), micros(reply.amount)];
            let state = [micros(reply.balance), reply.free_remaining.into()];
            let texts = [request.user_id.as_str(), &request.trace_id, "COMMITTED", &request.service_name];
            let texts =
                texts.map(str::to_owned).into_iter().chain([request.count.to_string(), reply.record_id.clone()]);
            texts.chain(numbers.iter().chain(&state).map(i64::to_string)).collect()
        });
        assert_same("billing_transaction", expected.collect(), found);
    }

    /// A record for the free part of each charge and one for the paid; the id answered
    /// is that of the paid one, if there is one.
    async fn assert_records(&self, database: &Database) {
        let columns = ["user_id", "trace_id", "service_name", "type", "MICROS(amount)", "count", "billing_record_id"];
        let mut found = database.rows(&columns, "FROM billing_record").await;
        let known = self.known();
        for record in &mut found {
            let charge = known.charges.get(&(record[0].clone(), record[1].clone()));
            let answered = charge.is_some_and(|(_, reply)| reply.record_id == record[6]);
            record[6] = if answered { "answered" } else { "part" }.to_owned();
        }
        let mut expected = Vec::new();
        for (request, reply) in known.charges.values() {
            let record = |kind: &str, amount: f64, count: i32, id: &str| {
                let texts =
                    [request.user_id.as_str(), &request.trace_id, &request.service_name, kind].map(str::to_owned);
                let numbers = [micros(amount).to_string(), count.to_string(), id.to_owned()];
                texts.into_iter().chain(numbers).collect::<Vec<_>>()
            };
            if reply.free_count > 0 {
                let id = if reply.paid_count > 0 { "part" } else { "answered" };
                expected.push(record("1", 0.0, reply.free_count, id));
            }
            if reply.paid_count > 0 {
                expected.push(record("2", reply.amount, reply.paid_count, "answered"));
            }
        }
        assert_same("billing_record", expected, found);
    }

    async fn assert_accounts(&self, database: &Database) {
        let (mut balances, mut quotas) = (BTreeMap::<String, i64>::new(), BTreeMap::<UserAndId, i32>::new());
        let mut adjustments = Vec::new();
        {
            let known = self.known();
            for ((user, id), amount) in &known.credits {
                *balances.entry(user.clone()).or_default() += amount;
                adjustments.push(vec![user.clone(), id.clone(), amount.to_string()]);
            }
            for (request, reply) in known.charges.values() {
                *balances.entry(request.user_id.clone()).or_default() -= micros(reply.amount);
                let quota = (request.user_id.clone(), request.service_name.clone());
                *quotas.entry(quota).or_default() += reply.free_count;
            }
        }
        let found = database.rows(&["user_id", "adjustment_id", "MICROS(amount)"], "FROM balance_adjustment").await;
        assert_same("balance_adjustment", adjustments, found);

        let found = database.rows(&["user_id", "MICROS(balance)"], "FROM user_balance WHERE balance <> 0").await;
        let expected = balances.into_iter().filter(|(_, balance)| *balance != 0);
        assert_same("user_balance", expected.map(|(user, balance)| vec![user, balance.to_string()]).collect(), found);

        let used = "FROM free_quota GROUP BY user_id, service_name HAVING SUM(used_quota) > 0";
        let found = database.rows(&["user_id", "service_name", "SUM(used_quota)"], used).await;
        let expected = quotas.into_iter().filter(|(_, used)| *used > 0);
        let expected = expected.map(|((user, service), used)| vec![user, service, used.to_string()]);
        assert_same("free_quota", expected.collect(), found);
    }
}

/// Compares two tables whatever their order, row for row and not as sets, and shows the
/// first few that only one of them has.
fn assert_same<R: Ord + Debug>(table: &str, mut expected: Vec<R>, mut found: Vec<R>) {
    expected.sort();
    found.sort();
    if expected == found {
        return;
    }
    let missing: Vec<_> = expected.iter().filter(|row| found.binary_search(row).is_err()).take(3).collect();
    let surplus: Vec<_> = found.iter().filter(|row| expected.binary_search(row).is_err()).take(3).collect();
    let twice: Vec<_> = found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).take(3).collect();
    panic!(
        "{table}: {} rows expected and {} found; missing {missing:#?}, surplus {surplus:#?}, twice {twice:#?}",
        expected.len(),
        found.len()
    );
}
