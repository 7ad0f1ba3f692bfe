//! Months close: a charge that comes later counts to the month in which it comes.

use chrono::TimeDelta;

use super::account::{
    TestAccount, break_off, commit, commit_with, open, refund, release, reported, tokens, units, user,
};
use crate::biz::values::{calendar::Month, ids::ServiceName};

/// Used and held free units of a service in November.
fn november(account: &TestAccount, service: &str) -> (u64, u64) {
    let month: Month = "2026-11".parse().unwrap();
    let quota = account.books.quota(&(user(), month, ServiceName::from_stored(service))).unwrap();
    (quota.used, quota.held)
}

#[test]
fn a_commit_counts_to_the_month_of_its_reserve_until_that_closes() {
    let mut account = TestAccount::with("5");
    account.reserve(units(6));
    // The month ends twelve hours later, and closes three days after that.
    account.pass(TimeDelta::hours(12 + 72) - TimeDelta::microseconds(1));
    assert_eq!(account.settle(commit()), "charged 4 free, 2 paid for 2");
    assert_eq!(november(&account, "units"), (4, 0));
    assert_eq!(account.state(), "balance 3, held 0; free 0, held 0");
    assert_eq!(account.records(), ["4 free for 0, 0 tokens", "2 paid for 2, 0 tokens"]);
}

#[test]
fn a_commit_after_the_close_counts_to_the_month_in_which_it_comes_and_says_so() {
    let mut account = TestAccount::with("5");
    account.reserve(units(6));
    account.pass(TimeDelta::hours(12 + 72));
    assert_eq!(account.settle(commit()), "charged 4 free, 2 paid for 2");
    assert_eq!(november(&account, "units"), (0, 0));
    assert_eq!(account.state(), "balance 3, held 0; free 4, held 0");
    let late = ["4 free for 0, 0 tokens, late of 2026-11", "2 paid for 2, 0 tokens, late of 2026-11"];
    assert_eq!(account.records(), late);
    // Its free units belong to December, so they go back there.
    assert_eq!(account.settle(refund("a", None)), "4 free, 2 paid for 2 back; 6 for 2 in all, balance 5");
    assert_eq!(account.state(), "balance 5, held 0; free 0, held 0");
    assert_eq!(account.records()[2..], ["4 free back for 0, 0 tokens", "2 paid back for 2, 0 tokens"]);
}

#[test]
fn a_late_commit_shares_the_free_quota_of_the_month_in_which_it_comes() {
    let mut account = TestAccount::with("9");
    account.reserve(units(6));
    account.pass(TimeDelta::days(5));
    account.settle(super::account::other(&account, units(3)));
    assert_eq!(account.settle(commit()), "charged 1 free, 5 paid for 5");
    assert_eq!((november(&account, "units"), account.state().as_str()), ((0, 0), "balance 4, held 0; free 4, held 0"));
}

#[test]
fn a_release_after_the_close_frees_the_hold() {
    let mut account = TestAccount::with("5");
    account.reserve(units(6));
    account.pass(TimeDelta::days(5));
    assert_eq!(account.settle(release()), "released");
    assert_eq!(november(&account, "units"), (0, 0));
    account.settle(open());
    assert_eq!(account.state(), "balance 5, held 0; free 0, held 0");
}

#[test]
fn an_addition_after_the_close_counts_to_its_month_and_takes_no_free_quota() {
    let mut account = TestAccount::with("90");
    account.reserve(tokens(1, 1));
    account.settle(reported(1, 1));
    assert_eq!(account.settle(break_off(1, None)), "charged 2 free, 0 paid for 0");
    account.pass(TimeDelta::days(5));
    let added = "added 0 free, 3 paid for 5.4, 0 short: charged 2 free, 3 paid for 5.4";
    assert_eq!(account.settle(commit_with(1, 4)), added);
    assert_eq!(november(&account, "tokens"), (2, 0));
    assert_eq!(account.records()[1], "3 paid for 5.4, 5 tokens, late of 2026-11");
}

#[test]
fn a_refund_counts_to_its_own_day_and_names_a_closed_month() {
    let mut account = TestAccount::with("5");
    account.charge(units(6));
    account.pass(TimeDelta::hours(12 + 72) - TimeDelta::microseconds(1));
    account.settle(refund("a", 1));
    account.pass(TimeDelta::microseconds(1));
    account.settle(refund("b", 1));
    let back = ["1 paid back for 1, 0 tokens", "1 paid back for 1, 0 tokens, late of 2026-11"];
    assert_eq!(account.records()[2..], back);
    let days: Vec<_> =
        account.books.daily(&user()).iter().map(|of| (of.day.to_string(), of.totals.refunded_count)).collect();
    assert_eq!(days, [("2026-11-30".to_owned(), 0), ("2026-12-03".to_owned(), 1), ("2026-12-04".to_owned(), 1)]);
}
