//! The end of reservations without a commit or release: by expiry, or after a broken stream.

use chrono::TimeDelta;

use super::account::{TTL, TestAccount, break_off, commit, expire, release, reported, tokens, units, usage};
use crate::biz::{
    account::policy::{OnExpiry, Policy},
    settlement::posting::Posting,
};

const AS_REPORTED: &str = "charged 4 free, 3 paid for 4.714286";

fn reserved() -> TestAccount {
    let account = TestAccount::with("20");
    account.reserve(tokens(3, 4));
    account
}

fn frees_what_expires() -> Policy {
    Policy { on_expiry: OnExpiry::Release, ..Policy::default() }
}

#[test]
fn a_hold_ends_when_its_time_is_over_and_not_before() {
    let mut account = reserved();
    account.pass(TTL - TimeDelta::microseconds(1));
    assert_eq!(account.settle(expire()), "nothing to end");
    account.pass(TimeDelta::microseconds(1));
    assert_eq!(account.settle(expire()), "expired");
    assert_eq!(account.state_of("tokens"), "balance 20, held 0; free 0, held 0");
}

#[test]
fn a_reported_usage_is_charged_unless_the_policy_frees_it() {
    for (policy, answer) in [(Policy::default(), AS_REPORTED), (frees_what_expires(), "expired")] {
        let mut account = TestAccount::with_policy("20", policy);
        account.reserve(tokens(3, 4));
        account.settle(reported(3, 4));
        account.pass(TTL);
        assert_eq!(account.settle(expire()), answer);
    }
}

#[test]
fn an_ended_reservation_does_not_end_again() {
    let ends: [Posting; 3] = [commit().into(), release().into(), break_off(1, Some(usage(1, 1))).into()];
    for end in ends {
        let mut account = TestAccount::with("20");
        account.reserve(units(6));
        account.settle(end);
        account.pass(TTL);
        assert_eq!(account.settle(expire()), "nothing to end");
    }
}

#[test]
fn a_charge_does_not_expire() {
    let account = TestAccount::with("20");
    assert_eq!(account.settle(expire()), "nothing to end");
    account.charge(units(1));
    assert_eq!(account.settle(expire()), "refused: trace_id: it is a charge and not a reservation");
}

#[test]
fn a_broken_stream_is_charged_for_its_delivery() {
    for (delivered, answer) in [
        (Some(usage(3, 4)), AS_REPORTED),
        // The largest known output counts, here the reported one.
        (Some(usage(3, 1)), "charged 4 free, 1 paid for 1.4"),
        (None, "charged 3 free, 0 paid for 0"),
        // A last report of zero tokens does not reduce the reported usage.
        (Some(usage(0, 0)), "charged 3 free, 0 paid for 0"),
    ] {
        let account = reserved();
        account.settle(reported(1, 2));
        assert_eq!(account.settle(break_off(1, delivered)), answer, "{delivered:?}");
    }
}

#[test]
fn a_stream_that_delivered_nothing_frees_its_hold() {
    for delivered in [None, Some(usage(0, 0))] {
        let account = reserved();
        assert_eq!(account.settle(break_off(1, delivered)), "expired");
        assert_eq!(account.state_of("tokens"), "balance 20, held 0; free 0, held 0");
    }
}

#[test]
fn a_stream_that_was_replaced_ends_nothing() {
    let account = reserved();
    assert_eq!(account.settle(break_off(2, Some(usage(3, 4)))), "nothing to end");
    assert_eq!(account.state_of("tokens"), "balance 20, held 4.714286; free 0, held 4");
}

#[test]
fn a_broken_stream_is_charged_under_every_policy_and_after_the_sweep() {
    let mut account = TestAccount::with_policy("20", frees_what_expires());
    account.reserve(tokens(3, 4));
    account.pass(TTL);
    account.settle(expire());
    assert_eq!(account.settle(break_off(1, None)), "found: expired");
    assert_eq!(account.settle(break_off(1, Some(usage(3, 4)))), AS_REPORTED);
    assert_eq!(account.state_of("tokens"), "balance 15.285714, held 0; free 4, held 0");
}
