//! Refunds of charges.

use chrono::TimeDelta;
use proptest::prelude::*;

use super::account::{
    Call, TestAccount, calls, commit, commit_with, expire, refund, release, reported, set_status, tokens, trace, units,
    user,
};
use crate::biz::{
    limits::key_quota::{Period, QuotaType},
    settlement::{
        keys::Keys,
        posting::Posting,
        rule::{self, State},
        transaction::{Delivered, Transaction},
    },
    values::{account_status::AccountStatus, ids::ServiceName, money::Money, usage::Usage},
};

#[test]
fn a_refund_gives_paid_units_back_first_and_then_free_ones() {
    let account = TestAccount::with("5");
    assert_eq!(account.charge(units(6)), "charged 4 free, 2 paid for 2");
    assert_eq!(account.settle(refund("a", 1)), "0 free, 1 paid for 1 back; 1 for 1 in all, balance 4");
    assert_eq!(account.settle(refund("b", 3)), "2 free, 1 paid for 1 back; 4 for 2 in all, balance 5");
    assert_eq!(account.state(), "balance 5, held 0; free 2, held 0");
    assert_eq!(account.settle(refund("c", None)), "2 free, 0 paid for 0 back; 6 for 2 in all, balance 5");
    assert_eq!(account.state(), "balance 5, held 0; free 0, held 0");
    assert_eq!(
        account.records(),
        [
            "4 free for 0, 0 tokens",
            "2 paid for 2, 0 tokens",
            "2 free back for 0, 0 tokens",
            "2 free back for 0, 0 tokens",
            "1 paid back for 1, 0 tokens",
            "1 paid back for 1, 0 tokens",
        ]
    );
    // What was charged stays as it was.
    let charge = account.transaction();
    assert_eq!((charge.free, charge.paid, charge.amount.micros()), (4, 2, 2_000_000));
    assert_eq!((charge.refunded.free, charge.refunded.paid, charge.refunded.amount.micros()), (4, 2, 2_000_000));
}

#[test]
fn the_201st_of_200_units_is_refused() {
    let account = TestAccount::with("500");
    account.charge(units(200));
    let refused = "refused: count: is more than the 200 units that are left of the charge";
    assert_eq!(account.settle(refund("a", 201)), refused);
    assert_eq!(account.settle(refund("a", 199)), "3 free, 196 paid for 196 back; 199 for 196 in all, balance 500");
    let refused = "refused: count: is more than the 1 units that are left of the charge";
    assert_eq!(account.settle(refund("b", 2)), refused);
    assert_eq!(account.settle(refund("b", 1)), "1 free, 0 paid for 0 back; 200 for 196 in all, balance 500");
    let refused = "refused: count: the charge is refunded already; nothing is left";
    assert_eq!(account.settle(refund("c", 1)), refused);
    assert_eq!(account.settle(refund("c", None)), refused);
    assert_eq!(account.state(), "balance 500, held 0; free 0, held 0");
}

#[test]
fn equal_refunds_give_back_once_and_other_content_is_refused() {
    let account = TestAccount::with("5");
    account.charge(units(6));
    let answers = account.settle_all::<40>(std::array::from_fn(|_| refund("a", 2)));
    let first = "0 free, 2 paid for 2 back; 2 for 2 in all, balance 5";
    assert_eq!(answers[0], first);
    assert!(answers[1..].iter().all(|answer| *answer == format!("found: {first}")), "{answers:?}");
    assert!(account.settle(refund("a", None)).contains("count"));
    // The first outcome stays, whatever comes after.
    account.settle(refund("b", 1));
    assert_eq!(account.settle(refund("a", 2)), format!("found: {first}"));
    assert_eq!(account.state(), "balance 5, held 0; free 3, held 0");
    assert_eq!(account.books.audit_events().iter().filter(|event| event.rpc == "RefundCharge").count(), 2);
}

/// An attempt whose answer was lost is no replay.
#[test]
fn a_refund_that_is_settled_again_is_the_same_one() {
    let account = TestAccount::with("5");
    account.charge(units(6));
    let posting = refund("a", 1);
    let first = account.settle(posting.clone());
    assert_eq!(account.settle(posting), first);
    assert_eq!(account.state(), "balance 4, held 0; free 4, held 0");
}

#[test]
fn the_event_of_a_refund_names_the_charge_and_its_amounts() {
    let account = TestAccount::with("5");
    account.charge(units(6));
    account.settle(refund("a", 3));
    let events = account.books.audit_events();
    let event = events.iter().find(|event| event.rpc == "RefundCharge").unwrap();
    assert_eq!(event.before.as_deref(), Some(r#"{"balance":"3"}"#));
    let after = r#"{"amount":"2","balance":"5","free_count":1,"paid_count":2,"refund_id":"a","refunded_count":3,"trace_id":"t"}"#;
    assert_eq!(event.after.as_deref(), Some(after));
}

#[test]
fn a_charge_and_its_refund_may_come_in_one_batch() {
    let account = TestAccount::with("5");
    let answers = account.settle_all([
        refund("a", None),
        account.charge_of(units(6)).into(),
        refund("a", None),
        account.charge_of(units(6)).into(),
    ]);
    assert_eq!(
        answers,
        [
            "refused: transaction t not found",
            "charged 4 free, 2 paid for 2",
            "4 free, 2 paid for 2 back; 6 for 2 in all, balance 5",
            "found: charged 4 free, 2 paid for 2",
        ]
    );
    assert_eq!(account.state(), "balance 5, held 0; free 0, held 0");
}

#[test]
fn free_units_go_back_to_their_month_and_never_to_another() {
    let mut account = TestAccount::with("5");
    account.charge(units(6));
    let november = (user(), account.at.month, ServiceName::from_stored("units"));
    account.pass(TimeDelta::days(1));
    account.settle(account.charge_of(Call { count: 1, ..units(1) }));
    assert_eq!(account.settle(refund("a", None)), "0 free, 2 paid for 2 back; 6 for 2 in all, balance 5");
    assert_eq!(account.books.quota(&november).unwrap().used, 4);
    let nothing = "refused: count: the charge is refunded already; nothing is left";
    assert_eq!(account.settle(refund("b", 1)), nothing);
    assert_eq!(account.records()[2..], ["2 paid back for 2, 0 tokens"]);
}

#[test]
fn a_reservation_is_refunded_once_it_is_committed() {
    let mut account = TestAccount::with("5");
    account.reserve(units(6));
    let refused = "refused: trace_id: the reservation is not committed";
    assert_eq!(account.settle(refund("a", 1)), refused);
    account.pass(TimeDelta::minutes(11));
    account.settle(expire());
    assert_eq!(account.settle(refund("a", 1)), refused);
    account.settle(commit());
    assert_eq!(account.settle(refund("a", 1)), "0 free, 1 paid for 1 back; 1 for 1 in all, balance 4");
    assert_eq!(account.state(), "balance 4, held 0; free 4, held 0");

    let account = TestAccount::with("5");
    account.reserve(units(6));
    account.settle(release());
    assert_eq!(account.settle(refund("a", 1)), refused);
}

#[test]
fn an_account_that_is_not_active_and_one_in_debt_are_refunded() {
    let account = TestAccount::with("2");
    account.charge(units(6));
    account.settle(super::account::claw_back("b", "-3"));
    account.settle(set_status(AccountStatus::Closed));
    assert_eq!(account.settle(refund("a", None)), "4 free, 2 paid for 2 back; 6 for 2 in all, balance -1");
}

#[test]
fn a_cap_gets_the_call_back_when_all_of_it_is_refunded() {
    let account = TestAccount::with("5");
    account.set_daily_cap(1);
    account.charge(units(2));
    let next = || super::account::other(&account, units(1));
    assert_eq!(account.settle(next()), "refused: the daily limit is reached");
    account.settle(refund("a", 1));
    assert_eq!(account.settle(next()), "refused: the daily limit is reached");
    account.settle(refund("b", 1));
    assert_eq!(account.settle(next()), "charged 1 free, 0 paid for 0");
}

#[test]
fn a_cap_of_another_day_gets_nothing_back() {
    let mut account = TestAccount::with("5");
    account.set_daily_cap(1);
    account.charge(units(2));
    account.pass(TimeDelta::days(1));
    account.settle(super::account::other(&account, units(1)));
    account.settle(refund("a", None));
    assert_eq!(account.books.requests(&user()).unwrap().daily, 1);
}

#[test]
fn the_quotas_of_a_key_get_back_the_part_that_the_charge_took() {
    let account = TestAccount::with("90");
    for kind in QuotaType::ALL {
        account.set_key_quota(kind, Period::Total, 1_000_000_000);
    }
    let used = || QuotaType::ALL.map(|kind| account.key_used(kind));
    account.charge(Call { is_keyed: true, ..tokens(7, 3) });
    assert_eq!(account.transaction().split().amount, Money::from_micros(7_800_000));
    assert_eq!(used(), [1, 10, 7_800_000]);
    account.settle(refund("a", 3));
    assert_eq!(used(), [1, 7, 3_900_000]);
    account.settle(refund("b", None));
    assert_eq!(used(), [0, 0, 0]);
}

#[test]
fn a_commit_of_more_than_was_refunded_is_a_call_again() {
    let account = TestAccount::with("90");
    account.set_daily_cap(5);
    account.reserve(tokens(6, 4));
    account.settle(reported(6, 4));
    account.settle(super::account::break_off(1, None));
    account.settle(refund("a", None));
    assert_eq!(account.books.requests(&user()).unwrap().daily, 0);
    account.settle(commit_with(6, 8));
    assert_eq!(account.books.requests(&user()).unwrap().daily, 1);
    account.settle(refund("b", None));
    assert_eq!(account.books.requests(&user()).unwrap().daily, 0);
    assert_eq!(account.state_of("tokens"), "balance 90, held 0; free 0, held 0");
}

/// An earlier rule counted such a call again when a commit added to it, and gave tokens back that it had not taken.
#[test]
fn a_delivery_of_images_alone_is_a_call_without_tokens() {
    let account = TestAccount::with("90");
    account.reserve(calls(1, 6, 4));
    account.settle(commit_with(6, 4));
    let charge = account.transaction();
    let images = Usage { images: 2, ..Usage::default() };
    let mut reservation = charge.reservation.clone().unwrap();
    reservation.delivered = reservation.delivered.map(|delivered| Delivered { usage: Some(images), ..delivered });
    let charge = Transaction { free: 0, paid: 0, reservation: Some(reservation), ..charge };
    let kept = charge.kept();
    assert_eq!((kept.requests, kept.tokens), (1, charge.taken_tokens(0, Some(images))));
    assert_eq!((kept, kept.tokens), (charge.taken(), 0));
}

/// Charges pay nothing for refunds.
#[test]
fn a_batch_of_charges_looks_up_and_writes_no_refund() {
    let account = TestAccount::with("0");
    let reserve = Posting::Reserve(account.reserve_of(units(1)));
    let batch = account.batch([account.charge_of(units(1)).into(), reserve, commit().into()]);
    let keys = Keys::of(&batch);
    assert!(keys.refunds.is_empty());
    let mut state = State::default();
    assert!(state.further_quotas(&batch, &keys).is_empty());
    state.balances.insert(user(), Default::default());
    for service in ["units", "calls", "tokens"] {
        let quota = crate::biz::account::Quota { total: 4, used: 0, held: 0 };
        state.quotas.insert((user(), account.at.month, ServiceName::from_stored(service)), quota);
    }
    let (_, writes) = rule::settle(&batch, state);
    let is_silent = writes.refunds.is_empty() && writes.refunded_charges.is_empty() && writes.refund_usage.is_empty();
    assert!(!writes.is_empty() && is_silent);
}

#[test]
fn a_refund_looks_for_its_charge_and_its_id() {
    let account = TestAccount::with("0");
    let batch = account.batch([refund("a", 1)]);
    let keys = Keys::of(&batch);
    assert_eq!((keys.accounts.len(), keys.quotas.len(), keys.refunds.len()), (0, 0, 1));
    assert_eq!((keys.ending.len(), keys.transactions.first()), (1, Some(&(&user(), &trace()))));
}

proptest! {
    /// Each part is at most a millionth from its exact share, and all parts are the charge.
    #[test]
    fn partial_refunds_sum_up_to_the_charge(
        count in 5u32..400,
        cost in 1i64..=1_000_000_000,
        cuts in prop::collection::vec(1u32..60, 1..12),
    ) {
        let account = TestAccount::with("2000");
        let (opening, cost) = (account.state(), Money::from_micros(cost).to_string());
        account.charge(Call { cost: Some(Box::leak(cost.into_boxed_str())), ..units(count) });
        let charge = account.transaction();
        let (mut left, mut paid, mut before) = (count, 0, Money::ZERO);
        for (number, cut) in cuts.into_iter().enumerate() {
            let cut = cut.min(left);
            left -= cut;
            let refused = account.settle(refund(&format!("r{number}"), cut)).starts_with("refused");
            prop_assert_eq!(refused, cut == 0);
            paid = (paid + cut).min(charge.paid);
            let sum = account.transaction().refunded.amount;
            let exact = charge.amount.micros() * i64::from(paid);
            prop_assert!((sum.micros() * i64::from(charge.paid) - exact).abs() <= i64::from(charge.paid));
            prop_assert!(sum >= before);
            before = sum;
        }
        account.settle(refund("last", None));
        let refunded = account.transaction().refunded;
        prop_assert_eq!((refunded.free, refunded.paid, refunded.amount), (charge.free, charge.paid, charge.amount));
        prop_assert_eq!(account.state(), opening);
    }
}
