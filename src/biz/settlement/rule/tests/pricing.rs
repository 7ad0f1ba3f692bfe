//! The price of a reservation.

use super::account::{Call, TestAccount, calls, commit, commit_with, tokens, units, usage, yuan};
use crate::biz::{
    charge::Split,
    settlement::{posting::Commit, transaction::Delivered},
    values::money::Money,
};

fn delivered(count: u32) -> Delivered {
    Delivered { count, cost: None, usage: None, service_tier: None, model: None }
}

#[test]
fn without_tokens_the_unit_cost_of_the_reserve_prices_a_commit() {
    for (count, cost) in [(3, "3"), (6, "6"), (12, "12"), (0, "0")] {
        let account = TestAccount::with("20");
        account.reserve(units(6));
        assert_eq!(account.transaction().priced(&delivered(count)), Ok((count, yuan(cost))));
    }
    let account = TestAccount::with("20");
    account.reserve(Call { cost: Some("1"), ..units(3) });
    assert_eq!(account.transaction().priced(&delivered(2)), Ok((2, yuan("0.666667"))));
}

#[test]
fn a_commit_costs_no_more_than_the_largest_amount() {
    let account = TestAccount::with("999999999");
    account.reserve(Call { cost: Some("999999999.999999"), ..units(4) });
    let refused = account.transaction().priced(&delivered(5)).unwrap_err();
    assert_eq!(refused.to_string(), "count: times the unit cost of the reserve is more than 999999999.999999");
}

#[test]
fn the_amount_of_a_stream_is_its_delivery_without_the_held_free_units() {
    let account = TestAccount::with("20");
    account.reserve(tokens(2, 1));
    let so_far = |input, output| account.transaction().so_far(usage(input, output)).unwrap();
    assert_eq!(so_far(2, 0), Split { free: 2, paid: 0, amount: Money::ZERO });
    assert_eq!(so_far(3, 4), Split { free: 3, paid: 4, amount: yuan("6.285714") });
}

#[test]
fn the_version_of_the_prices_stands_where_the_amount_follows_from_it() {
    let version = |call, commit: Option<Commit>| {
        let account = TestAccount::with("20");
        account.reserve(call);
        commit.map(|commit| account.settle(commit));
        account.transaction().priced_by().is_some()
    };
    assert!(version(tokens(3, 4), None));
    assert!(!version(Call { cost: Some("1"), ..tokens(3, 4) }, None));
    assert!(version(tokens(3, 4), Some(commit_with(3, 4))));
    assert!(!version(tokens(3, 4), Some(Commit { cost: Some(yuan("1")), ..commit_with(3, 4) })));
    assert!(!version(tokens(3, 4), Some(Commit { cost: Some(yuan("1")), ..commit() })));
    let charged = TestAccount::with("20");
    charged.charge(tokens(3, 4));
    assert!(charged.transaction().priced_by().is_some());
}

#[test]
fn the_units_of_a_call_are_its_tokens_where_the_free_quota_counts_them() {
    for (call, units) in [(tokens(3, 4), 7), (calls(2, 3, 4), 2), (super::account::units(6), 6)] {
        let account = TestAccount::with("20");
        account.reserve(call);
        assert_eq!(account.transaction().units(), units);
    }
}
