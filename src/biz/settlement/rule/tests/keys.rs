//! The keys that a batch locks and loads.

use super::account::{Call, TestAccount, adjust, commit, expire, release, report, units, update_order};
use crate::biz::settlement::{
    keys::Keys,
    posting::{PaymentUpdate, Posting},
    rule::State,
};

#[test]
fn the_end_of_a_reservation_needs_no_account_of_this_month() {
    let account = TestAccount::with("0");
    for posting in [report().into(), commit().into(), release().into(), Posting::Expire(expire())] {
        let batch = account.batch([posting]);
        let keys = Keys::of(&batch);
        assert_eq!((keys.users.len(), keys.accounts.len(), keys.quotas.len()), (1, 0, 0));
        assert_eq!((keys.transactions.len(), keys.ending.len()), (1, 1));
    }
}

#[test]
fn a_call_needs_the_quota_of_its_service_and_an_opening_needs_all() {
    let account = TestAccount::with("0");
    let keyed = Call { is_keyed: true, ..units(1) };
    let calls = [Posting::Charge(account.charge_of(keyed)), Posting::Reserve(account.reserve_of(keyed))];
    for call in calls {
        let batch = account.batch([call]);
        let keys = Keys::of(&batch);
        assert_eq!((keys.accounts.len(), keys.quotas.len(), keys.api_keys.len()), (1, 1, 1));
        assert_eq!((keys.transactions.len(), keys.ending.len()), (1, 0));
    }
    let batch = account.batch([super::account::open()]);
    let keys = Keys::of(&batch);
    assert_eq!((keys.accounts.len(), keys.quotas.len(), keys.transactions.len()), (1, 3, 0));
}

#[test]
fn adjustments_orders_and_payments_are_looked_for() {
    let account = TestAccount::with("0");
    let opened = PaymentUpdate::Opened {
        payment: crate::biz::values::ids::PaymentId::from_stored("p"),
        url: "https://pay".into(),
    };
    let batch = account.batch([adjust("a", "1"), update_order(opened), update_order(PaymentUpdate::Expired)]);
    let keys = Keys::of(&batch);
    assert_eq!((keys.accounts.len(), keys.quotas.len()), (1, 0));
    assert_eq!((keys.adjustments.len(), keys.orders.len(), keys.payments.len()), (1, 1, 1));
}

#[test]
fn an_account_without_a_balance_or_a_quota_is_opened() {
    let account = TestAccount::with("0");
    let batch = account.batch([Posting::Charge(account.charge_of(units(1)))]);
    let (keys, user) = (Keys::of(&batch), super::account::user());
    let mut state = State::default();
    assert_eq!(state.unopened(&keys, account.at.month), [user.clone()].into());
    state.balances.insert(user.clone(), Default::default());
    assert_eq!(state.unopened(&keys, account.at.month), [user.clone()].into());
    let (_, service) = keys.quotas.first().unwrap();
    state.quotas.insert((user, account.at.month, (*service).clone()), Default::default());
    assert!(state.unopened(&keys, account.at.month).is_empty());
}
