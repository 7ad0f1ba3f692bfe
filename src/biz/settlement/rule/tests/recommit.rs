//! Additions to a charge of reported usage, by a commit or by the end of the stream.

use super::account::{
    TTL, TestAccount, break_off, calls, commit, commit_with, expire, reported, stream, tokens, usage, yuan,
};
use crate::biz::{
    account::policy::{AboveHold, Policy},
    settlement::posting::Commit,
};

/// Charged 4 free units and 4.714286 for the 3 others, as reported.
fn swept(balance: &str, above_hold: AboveHold) -> TestAccount {
    let mut account = TestAccount::with_policy(balance, Policy { above_hold, ..Policy::default() });
    account.reserve(tokens(3, 4));
    account.settle(reported(3, 4));
    account.pass(TTL);
    assert_eq!(account.settle(expire()), "charged 4 free, 3 paid for 4.714286");
    account
}

#[test]
fn a_commit_that_knows_of_more_is_charged_the_rest_and_one_that_knows_of_less_is_not() {
    for (commit, answer, balance) in [
        (commit_with(3, 4), "found: charged 4 free, 3 paid for 4.714286", "15.285714"),
        (commit_with(3, 5), "added 0 free, 1 paid for 1.785714, 0 short: charged 4 free, 4 paid for 6.5", "13.5"),
        (commit_with(1, 1), "found: charged 4 free, 3 paid for 4.714286", "15.285714"),
        (commit_with(0, 0), "found: charged 4 free, 3 paid for 4.714286", "15.285714"),
        (commit(), "found: charged 4 free, 3 paid for 4.714286", "15.285714"),
        // 3 of 7 units at a cost of 14.
        (
            Commit { cost: Some(yuan("14")), ..commit() },
            "added 0 free, 0 paid for 1.285714, 0 short: charged 4 free, 3 paid for 6",
            "14",
        ),
    ] {
        let account = swept("20", AboveHold::Charge);
        assert_eq!(account.settle(commit), answer);
        assert_eq!(account.state_of("tokens"), format!("balance {balance}, held 0; free 4, held 0"));
    }
}

#[test]
fn the_policy_of_the_service_binds_the_rest_too() {
    for (policy, balance, answer) in [
        (AboveHold::Charge, "5", "added 0 free, 1 paid for 1.785714, 0 short: charged 4 free, 4 paid for 6.5"),
        (
            AboveHold::Cap,
            "20",
            "added 0 free, 1 paid for 0, 1.785714 short: charged 4 free, 4 paid for 4.714286, 1.785714 short",
        ),
        (
            AboveHold::Spill,
            "5",
            "added 0 free, 1 paid for 0.285714, 1.5 short: charged 4 free, 4 paid for 5, 1.5 short",
        ),
        (AboveHold::Spill, "20", "added 0 free, 1 paid for 1.785714, 0 short: charged 4 free, 4 paid for 6.5"),
    ] {
        assert_eq!(swept(balance, policy).settle(commit_with(3, 5)), answer);
    }
}

#[test]
fn a_shortfall_is_not_charged_later() {
    let account = swept("20", AboveHold::Cap);
    let more = break_off(1, Some(usage(3, 5)));
    account.settle(more);
    let answer = "added 0 free, 1 paid for 0, 1.833333 short: charged 4 free, 5 paid for 4.714286, 3.619047 short";
    assert_eq!(account.settle(commit_with(3, 6)), answer);
}

#[test]
fn a_commit_adds_once() {
    let account = swept("20", AboveHold::Charge);
    // A commit without more usage leaves the charge open for additions.
    account.settle(commit_with(1, 1));
    account.settle(commit_with(3, 5));
    assert_eq!(account.settle(commit_with(3, 5)), "found: charged 4 free, 4 paid for 6.5");
    let conflict = "refused: trace_id was used before with other content; these fields differ: usage";
    assert_eq!(account.settle(commit_with(3, 6)), conflict);
    assert_eq!(account.settle(break_off(1, Some(usage(3, 6)))), "nothing to end");
}

#[test]
fn only_the_stream_that_was_charged_adds() {
    let account = swept("20", AboveHold::Charge);
    let by = |number| Commit { stream: Some(stream(number)), ..commit_with(3, 5) };
    assert_eq!(account.settle(by(2)), "refused: trace_id: another stream meters the reservation");
    assert_eq!(account.settle(break_off(2, Some(usage(3, 5)))), "nothing to end");
    assert!(account.settle(by(1)).starts_with("added"));
}

#[test]
fn a_stream_that_broke_adds_as_often_as_it_knows_of_more() {
    let account = swept("20", AboveHold::Charge);
    assert_eq!(account.settle(break_off(1, None)), "found: charged 4 free, 3 paid for 4.714286");
    assert!(account.settle(break_off(1, Some(usage(3, 5)))).starts_with("added 0 free, 1 paid for 1.785714"));
    assert_eq!(account.settle(break_off(1, Some(usage(3, 5)))), "found: charged 4 free, 4 paid for 6.5");
    assert!(account.settle(break_off(1, Some(usage(3, 6)))).starts_with("added 0 free, 1 paid"));
}

#[test]
fn the_rest_takes_free_units_first_and_has_records_of_its_own() {
    let mut account = TestAccount::with("20");
    account.reserve(tokens(1, 0));
    account.settle(reported(1, 0));
    account.pass(TTL);
    account.settle(expire());
    let answer = "added 3 free, 3 paid for 4.714286, 0 short: charged 4 free, 3 paid for 4.714286";
    assert_eq!(account.settle(commit_with(3, 4)), answer);
    let records = ["1 free for 0, 0 tokens", "3 free for 0, 0 tokens", "3 paid for 4.714286, 7 tokens"];
    assert_eq!(account.records(), records);
    assert_eq!(account.state_of("tokens"), "balance 15.285714, held 0; free 4, held 0");
}

#[test]
fn more_calls_than_were_charged_are_added_and_fewer_are_not() {
    for (count, answer) in [
        (1, "found: charged 2 free, 0 paid for 0"),
        (2, "found: charged 2 free, 0 paid for 0"),
        (5, "added 2 free, 1 paid for 2.2, 0 short: charged 4 free, 1 paid for 2.2"),
    ] {
        let mut account = TestAccount::with("20");
        account.reserve(calls(2, 3, 4));
        account.settle(reported(3, 4));
        account.pass(TTL);
        account.settle(expire());
        assert_eq!(account.settle(Commit { count: Some(count), ..commit() }), answer);
    }
}
