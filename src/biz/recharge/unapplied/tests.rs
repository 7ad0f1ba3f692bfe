//! Random orders of the events of one unapplied payment: each return counts once, and no difference between the money
//! that came and the money that was given out stays hidden.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::biz::values::ids::UserId;

#[derive(Debug, Clone)]
enum Event {
    /// The payment is reported over so much, and no order takes it.
    Report(i64),
    Credit,
    BeginRefund,
    Dismiss,
    /// The answer or the callback that an attempt was made, perhaps late or again. The number counts modulo the
    /// attempts.
    Made(usize),
    NotMade(usize),
    /// Money went back under an id of payment-service.
    Return {
        id: u8,
        amount: i64,
    },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (1..4_i64).prop_map(Event::Report),
        1 => Just(Event::Credit),
        3 => Just(Event::BeginRefund),
        2 => Just(Event::Dismiss),
        3 => (0..3_usize).prop_map(Event::Made),
        2 => (0..3_usize).prop_map(Event::NotMade),
        3 => (0..4_u8, 1..4_i64).prop_map(|(id, amount)| Event::Return { id, amount }),
    ];
    prop::collection::vec(event, 1..14)
}

/// The tables, and the words of payment-service.
#[derive(Default)]
struct Case {
    row: Option<UnappliedPayment>,
    /// The rows of counted returns.
    counted: BTreeMap<RefundId, Money>,
    /// Money that payment-service has told to be back.
    told: BTreeMap<RefundId, Money>,
    /// The amount of each attempt at payment-service.
    attempts: Vec<Money>,
    /// Whether an operator has booked the difference since the last return.
    is_booked: bool,
}

fn payment_id() -> PaymentId {
    PaymentId::from_stored("p")
}

fn report(micros: i64) -> UnappliedReport {
    UnappliedReport {
        payment: payment_id(),
        order: OrderId::from_stored("o"),
        amount: Money::from_micros(micros),
        currency: "CNY".into(),
        cause: UnappliedCause::UnknownOrder,
    }
}

fn row(report: UnappliedReport, times_seen: u64) -> UnappliedPayment {
    UnappliedPayment { times_seen, ..UnappliedPayment::reported(report.payment.as_str(), report.amount) }
}

impl Case {
    fn play(&mut self, event: &Event) {
        match *event {
            Event::Report(amount) => self.report(report(amount)),
            Event::Credit => {
                let user = UserId::from_stored("u");
                let credited = self.row.as_ref().map(|row| row.credited(&user, "why", DateTime::UNIX_EPOCH));
                if let Some(Ok(credited)) = credited {
                    self.row = Some(credited);
                }
            }
            Event::BeginRefund => {
                if self.resolve(UnappliedChange::BeginRefund, None).is_ok_and(|resolved| resolved.changed) {
                    self.attempts.extend(self.row.as_ref().map(|row| row.amount));
                }
            }
            Event::Dismiss => {
                let was_in_conflict = self.row.as_ref().is_some_and(|row| row.status == UnappliedStatus::Conflict);
                let dismissed = self.resolve(UnappliedChange::Dismiss, None);
                self.is_booked |= was_in_conflict && dismissed.is_ok();
            }
            Event::Made(number) => {
                let Some((attempt, id, amount)) = self.attempt(number) else { return };
                let is_whole = self.row.as_ref().is_some_and(|row| row.amount == amount);
                let change =
                    if is_whole { UnappliedChange::Refunded { attempt } } else { UnappliedChange::WentBack { amount } };
                self.goes_back(id, amount, change);
            }
            Event::NotMade(number) => {
                let Some((attempt, id, _)) = self.attempt(number) else { return };
                // payment-service takes no success back.
                if !self.told.contains_key(&id) {
                    self.resolve(UnappliedChange::NotRefunded { attempt }, None).unwrap();
                }
            }
            Event::Return { id, amount } => {
                let id = RefundId::from_stored(format!("r{id}"));
                // A repeated id has its first amount.
                let amount = self.told.get(&id).copied().unwrap_or(Money::from_micros(amount));
                self.goes_back(id, amount, UnappliedChange::WentBack { amount });
            }
        }
    }

    fn attempt(&self, number: usize) -> Option<(u32, RefundId, Money)> {
        let row = self.row.as_ref()?;
        let index = number.checked_rem(self.attempts.len())?;
        let attempt = u32::try_from(index + 1).unwrap();
        Some((attempt, row.refund_id_of(attempt), self.attempts[index]))
    }

    /// As [`UnappliedStore::report_unapplied`].
    fn report(&mut self, report: UnappliedReport) {
        let Some(stored) = &mut self.row else {
            self.row = Some(row(report, 1));
            return;
        };
        let decides = stored.status == UnappliedStatus::Open || stored.times_seen == 0;
        if stored.times_seen == 0 && stored.status == UnappliedStatus::Refunded && report.amount != stored.returned {
            stored.status = UnappliedStatus::Conflict;
        }
        if decides {
            stored.amount = report.amount;
        }
        stored.times_seen += 1;
    }

    fn goes_back(&mut self, id: RefundId, amount: Money, change: UnappliedChange) {
        if self.row.is_none() {
            self.row = Some(row(report(amount.micros()), 0));
        }
        if self.resolve(change, Some(id.clone())).unwrap().changed {
            self.is_booked = false;
        }
        self.told.insert(id, amount);
    }

    fn resolve(&mut self, change: UnappliedChange, refund: Option<RefundId>) -> Result<Resolved> {
        let found = self.row.clone().map(|payment| FoundUnapplied {
            payment,
            has_credited: false,
            is_counted: refund.as_ref().is_some_and(|id| self.counted.contains_key(id)),
            has_returns: !self.counted.is_empty(),
        });
        let resolution = Resolution { change, refund, call: None, expected: None, at: DateTime::UNIX_EPOCH };
        let resolved = resolution.decide(&payment_id(), found)?;
        self.row = Some(resolved.payment.clone());
        if let Some(CountedReturn { refund, amount, .. }) = resolved.returned.clone() {
            assert!(self.counted.insert(refund, amount).is_none());
        }
        Ok(resolved)
    }

    fn check(&self) {
        assert_eq!(self.counted, self.told);
        let Some(row) = &self.row else { return };
        assert_eq!(row.returned, self.told.values().copied().sum::<Money>());
        let credited = if row.user.is_some() { row.amount } else { Money::ZERO };
        let given = row.returned.plus(credited);
        match row.status {
            UnappliedStatus::Open | UnappliedStatus::Refunding | UnappliedStatus::Dismissed => {
                assert_eq!(given, Money::ZERO);
            }
            UnappliedStatus::Credited => assert_eq!(given, row.amount),
            UnappliedStatus::Refunded => assert!(given == row.amount || self.is_booked, "hidden: {given}"),
            UnappliedStatus::Conflict => assert!(!row.returned.is_zero()),
            UnappliedStatus::Applied => panic!("no order takes it"),
        }
    }
}

proptest! {
    #[test]
    fn each_return_counts_once_in_any_order_and_no_difference_is_hidden(events in events()) {
        let mut case = Case::default();
        for event in &events {
            case.play(event);
            case.check();
        }
    }
}

/// Older releases have counted no ids, so a repeat of theirs is no further return.
#[test]
fn the_success_of_an_attempt_that_an_older_release_noted_is_a_repeat() {
    let refunded = UnappliedPayment {
        status: UnappliedStatus::Refunded,
        refunds: 1,
        returned: Money::from_micros(7),
        ..row(report(7), 1)
    };
    let of = |change, has_returns| {
        let resolution = Resolution {
            change,
            refund: Some(RefundId::from_stored("unapplied_p_1")),
            call: None,
            expected: None,
            at: DateTime::UNIX_EPOCH,
        };
        let found = FoundUnapplied { payment: refunded.clone(), has_credited: false, is_counted: false, has_returns };
        let resolved = resolution.decide(&payment_id(), Some(found)).unwrap();
        (resolved.changed, resolved.payment.status, resolved.payment.returned.micros())
    };
    let attempt = UnappliedChange::Refunded { attempt: 1 };
    assert_eq!(of(attempt, false), (false, UnappliedStatus::Refunded, 7));
    assert_eq!(of(attempt, true), (true, UnappliedStatus::Conflict, 14));
    let by_itself = UnappliedChange::WentBack { amount: Money::from_micros(7) };
    assert_eq!(of(by_itself, false), (true, UnappliedStatus::Conflict, 14));
}
