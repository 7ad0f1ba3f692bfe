//! Accounts that are frozen or closed.

use super::account::{
    TestAccount, adjust, break_off, commit, expire, release, report, reported, set_status, tokens, units, update_order,
    usage, user, yuan,
};
use crate::biz::{
    settlement::{
        order::OrderStatus,
        posting::{Outcome, PaymentUpdate, Report},
        rule,
    },
    values::{
        account_status::AccountStatus::{self, Active, Closed, Frozen},
        ids::PaymentId,
    },
};

const STOPPED: [(AccountStatus, &str); 2] = [(Frozen, "refused: account frozen"), (Closed, "refused: account closed")];

#[test]
fn an_account_that_is_not_active_refuses_calls_before_any_other_reason() {
    for (status, refused) in STOPPED {
        let account = TestAccount::with("5");
        assert_eq!(account.settle(set_status(status)), "set");
        account.set_daily_cap(0);
        assert_eq!(account.charge(units(1)), refused);
        assert_eq!(account.reserve(units(1)), refused);
        assert_eq!(account.charge(units(99)), refused);
        assert_eq!(account.state(), "balance 5, held 0; free 0, held 0");
    }
}

#[test]
fn an_account_that_is_active_again_takes_calls() {
    let account = TestAccount::with("5");
    account.settle(set_status(Closed));
    assert_eq!(account.settle(set_status(Active)), "set");
    assert_eq!(account.charge(units(6)), "charged 4 free, 2 paid for 2");
}

#[test]
fn each_status_may_follow_each_other_and_the_same_changes_nothing() {
    for from in AccountStatus::ALL {
        for to in AccountStatus::ALL {
            let account = TestAccount::with("5");
            account.settle(set_status(from));
            let version = account.books.balance(&user()).version;
            let is_same = from == to;
            assert_eq!(account.settle(set_status(to)), if is_same { "unchanged" } else { "set" });
            let balance = account.books.balance(&user());
            assert_eq!((balance.status, balance.amount), (to, yuan("5")));
            assert_eq!(balance.version, version + i64::from(!is_same), "{from} to {to}");
        }
    }
}

#[test]
fn the_status_decides_from_its_place_in_the_batch_on() {
    let account = TestAccount::with("5");
    let charge = || account.charge_of(units(1)).into();
    let other = |trace: &str| {
        let trace = crate::biz::values::ids::TraceId::from_stored(trace);
        crate::biz::settlement::posting::Charge { trace, ..account.charge_of(units(1)) }.into()
    };
    assert_eq!(
        account.settle_all([charge(), set_status(Frozen), charge(), other("b"), set_status(Active), other("c")]),
        [
            "charged 1 free, 0 paid for 0",
            "set",
            "found: charged 1 free, 0 paid for 0",
            "refused: account frozen",
            "set",
            "charged 1 free, 0 paid for 0"
        ]
    );
}

#[test]
fn all_that_had_begun_is_settled() {
    for (status, _) in STOPPED {
        let with = |posting: &str| {
            let account = TestAccount::with("5");
            assert_eq!(account.reserve(units(6)), "holds 4 free and 2", "{posting}");
            assert_eq!(account.settle(set_status(status)), "set");
            account
        };
        let committed = with("commit");
        assert_eq!(committed.settle(commit()), "charged 4 free, 2 paid for 2");
        assert_eq!(committed.settle(commit()), "found: charged 4 free, 2 paid for 2");
        assert_eq!(committed.reserve(units(6)), "found: charged 4 free, 2 paid for 2");
        assert_eq!(with("release").settle(release()), "released");
        assert_eq!(with("break").settle(break_off(1, Some(usage(1, 1)))), "charged 4 free, 2 paid for 2");
        let mut expired = with("expiry");
        expired.pass(super::account::TTL);
        assert_eq!(expired.settle(expire()), "expired");
        assert_eq!(with("adjustment").settle(adjust("a", "-3")), "balance 2");
    }
}

#[test]
fn a_paid_order_is_credited_to_a_closed_account() {
    let account = TestAccount::with("5");
    account.keep_order(OrderStatus::Pending, None);
    account.settle(set_status(Closed));
    let paid = PaymentUpdate::Paid { payment: PaymentId::from_stored("p"), amount: yuan("20") };
    assert_eq!(account.settle(update_order(paid)), "success, p");
    assert_eq!(account.books.balance(&user()).amount, yuan("25"));
}

#[test]
fn the_hold_of_a_stream_stays_and_its_delivery_is_stored() {
    let account = TestAccount::with("20");
    account.reserve(tokens(2, 0));
    account.settle(set_status(Frozen));
    let more = Report { target: Some(usage(3, 4)), ..reported(1, 3) };
    assert_eq!(account.settle(more.clone()), "holds 2 free and 0, reported 1 + 3");
    account.settle(set_status(Active));
    assert_eq!(account.settle(more), "holds 4 free and 4.714286, reported 1 + 3");
    assert_eq!(account.settle(report()), "holds 4 free and 4.714286, reported 1 + 3");
}

#[test]
fn a_change_leaves_one_event_also_if_its_batch_is_settled_again() {
    let account = TestAccount::with("0");
    let batch = account.batch([set_status(Frozen), set_status(Active), set_status(Closed), set_status(Closed)]);
    let changed = |changed| Outcome::StatusSet { changed };
    let outcomes = [changed(true), changed(true), changed(true), changed(false)];
    for _ in 0..2 {
        assert_eq!(account.books.settle(&batch), outcomes);
    }
    let (of, state) = (account.books.audit_events(), |status: &str| Some(format!("{{\"status\":\"{status}\"}}")));
    let states: Vec<_> = of.iter().map(|event| (event.before.clone(), event.after.clone())).collect();
    let expected = [("ACTIVE", "FROZEN"), ("FROZEN", "ACTIVE"), ("ACTIVE", "CLOSED")];
    assert_eq!(states, expected.map(|(before, after)| (state(before), state(after))));
    assert!(of.iter().all(|event| event.rpc == "SetAccountStatus" && event.user == Some(user())));
    assert_eq!(of[0].at, account.at.utc);
    assert_eq!((&*of[0].actor.caller, &*of[0].actor.role, &*of[0].actor.request_id), ("tester", "admin", "r"));
}

#[test]
fn only_a_new_status_is_written() {
    let account = TestAccount::with("5");
    account.charge(units(1));
    let state = || rule::State {
        balances: [(user(), account.books.balance(&user()))].into(),
        quotas: account.books.quotas(),
        ..Default::default()
    };
    let (_, writes) = rule::settle(&account.batch([account.charge_of(units(1)).into()]), state());
    assert_eq!((writes.balances.len(), writes.statuses.len()), (1, 0));
    let (_, writes) = rule::settle(&account.batch([set_status(Active)]), state());
    assert!(writes.is_empty() && writes.changes.is_empty());
    let (_, writes) = rule::settle(&account.batch([set_status(Frozen), set_status(Closed)]), state());
    assert_eq!(writes.statuses, [(user(), Closed)]);
    assert_eq!((writes.balances.len(), writes.changes.len()), (1, 1));
}
