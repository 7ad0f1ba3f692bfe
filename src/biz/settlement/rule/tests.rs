//! The rule of a batch against a model that keeps one account by hand.

use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::biz::{
    calendar::{Calendar, SystemClock},
    catalog::Plan,
    settlement::posting::{AdjustmentContent, ChargeContent, RecordIds},
};

#[derive(Debug, Clone)]
enum Step {
    Charge { trace: u8, count: u32, price: i64 },
    Adjust { id: u8, micros: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..12u8, 1..6u32, 0..4i64).prop_map(|(trace, count, price)| Step::Charge { trace, count, price }),
        (0..12u8, -20..20i64)
            .prop_map(|(id, micros)| Step::Adjust { id, micros: if micros == 0 { 1 } else { micros } }),
    ]
}

fn posting(step: &Step) -> Posting {
    let user = UserId::from_stored("u");
    match step {
        Step::Charge { trace, count, price } => {
            let cost = Money::from_micros(price * i64::from(*count));
            Posting::Charge(Charge {
                user,
                trace: TraceId::from_stored(format!("t{trace}")),
                content: ChargeContent {
                    service: ServiceName::from_stored("s"),
                    count: *count,
                    cost: Some(cost),
                    api_key: None,
                    model: None,
                    usage: None,
                },
                full_cost: cost,
                record_ids: RecordIds::fresh(),
            })
        }
        Step::Adjust { id, micros } => Posting::Adjust(Adjustment {
            user,
            id: AdjustmentId::from_stored(format!("a{id}")),
            content: AdjustmentContent {
                amount: Money::from_micros(*micros),
                reason: "r".into(),
                operator: String::new(),
            },
            request: Uuid::now_v7(),
        }),
    }
}

/// One account, kept unit by unit.
#[derive(Default)]
struct Model {
    balance: i64,
    free: u32,
    charges: HashMap<u8, (u32, i64)>,
    adjustments: HashMap<u8, i64>,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Done { balance: i64 },
    Replayed,
    Conflict,
    Insufficient,
}

impl Model {
    fn answer(&mut self, step: &Step) -> Answer {
        match *step {
            Step::Charge { trace, count, price } => {
                match self.charges.get(&trace) {
                    Some(first) if *first == (count, price * i64::from(count)) => return Answer::Replayed,
                    Some(_) => return Answer::Conflict,
                    None => {}
                }
                let free = count.min(self.free);
                let amount = i64::from(count - free) * price;
                if amount > self.balance {
                    return Answer::Insufficient;
                }
                self.free -= free;
                self.balance -= amount;
                self.charges.insert(trace, (count, price * i64::from(count)));
            }
            Step::Adjust { id, micros } => {
                match self.adjustments.get(&id) {
                    Some(first) if *first == micros => return Answer::Replayed,
                    Some(_) => return Answer::Conflict,
                    None => {}
                }
                if self.balance + micros < 0 {
                    return Answer::Insufficient;
                }
                self.balance += micros;
                self.adjustments.insert(id, micros);
            }
        }
        Answer::Done { balance: self.balance }
    }
}

fn seen(outcome: &Outcome) -> Answer {
    match outcome {
        Outcome::Charged { replayed: true, .. } | Outcome::Adjusted { replayed: true, .. } => Answer::Replayed,
        Outcome::Charged { transaction, .. } => Answer::Done { balance: transaction.balance_after.micros() },
        Outcome::Adjusted { adjusted, .. } => Answer::Done { balance: adjusted.balance_after.micros() },
        Outcome::Refused(Error::IdempotencyConflict { .. }) => Answer::Conflict,
        Outcome::Refused(Error::InsufficientBalance { .. }) => Answer::Insufficient,
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// However the steps are cut into batches, answers and writes are those of
    /// one step after another.
    #[test]
    fn batches_answer_as_single_steps_do(batches in prop::collection::vec(prop::collection::vec(step(), 1..12), 1..8)) {
        let service = ServiceName::from_stored("s");
        let (user, free) = (UserId::from_stored("u"), 10);
        let catalog = Arc::new(Catalog::new([(service.clone(), Plan { price: Money::ZERO, free_quota: free })]));
        let at = Calendar::new(chrono_tz::UTC, SystemClock).now();
        let mut model = Model { free, ..Model::default() };
        let quotas = vec![Quota { service, total: free, used: 0 }];
        let mut account = Account { balance: Money::ZERO, version: 0, quotas };
        let (mut transactions, mut adjustments) = (HashMap::new(), HashMap::new());
        let (mut recorded, mut rolled_up) = (Totals::default(), Totals::default());
        for steps in &batches {
            let batch = Batch { postings: steps.iter().map(posting).collect(), at, catalog: catalog.clone() };
            let state = State {
                accounts: [(user.clone(), account.clone())].into(),
                transactions: transactions.clone(),
                adjustments: adjustments.clone(),
                ..State::default()
            };
            let (outcomes, writes) = settle(&batch, state);
            let expected: Vec<_> = steps.iter().map(|step| model.answer(step)).collect();
            prop_assert_eq!(outcomes.iter().map(seen).collect::<Vec<_>>(), expected);

            for (_, balance, version) in &writes.balances {
                prop_assert_eq!(*version, account.version + 1);
                (account.balance, account.version) = (*balance, *version);
            }
            for (_, quota) in &writes.quotas {
                account.quotas = vec![quota.clone()];
            }
            for settled in writes.transactions {
                transactions.insert((settled.user.clone(), settled.trace.clone()), settled);
            }
            for adjusted in writes.adjustments {
                adjustments.insert((adjusted.user.clone(), adjusted.id.clone()), adjusted);
            }
            let of_records = writes.records.iter().map(|(_, record)| match record.kind {
                RecordType::Free => Totals { free_count: record.count.into(), ..Totals::default() },
                RecordType::Balance => {
                    Totals { paid_count: record.count.into(), amount: record.amount, ..Totals::default() }
                }
            });
            recorded = of_records.chain([recorded]).sum();
            rolled_up = writes.usage.iter().map(|delta| delta.totals).chain([rolled_up]).sum();
        }
        prop_assert_eq!(account.balance.micros(), model.balance);
        prop_assert_eq!(account.quotas[0].remaining(), model.free);
        prop_assert_eq!(recorded, rolled_up);
        let adjusted: i64 = model.adjustments.values().sum();
        prop_assert_eq!(account.balance.micros(), adjusted - recorded.amount.micros());
    }
}
