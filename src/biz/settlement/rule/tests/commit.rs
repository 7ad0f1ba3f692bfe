//! Commits: the delivered work is charged to the day and the month of the reserve.

use chrono::TimeDelta;

use super::account::{
    Call, TTL, TestAccount, commit, commit_of, expire, release, report, stream, tokens, units, usage, yuan,
};
use crate::biz::{
    account::policy::{AboveHold, Policy},
    limits::key_quota::{Period, QuotaType},
    settlement::{posting::Commit, transaction::ChargedBy},
};

#[test]
fn a_commit_charges_the_delivery_and_frees_the_rest_of_the_hold() {
    for (count, cost, answer, state) in [
        (None, None, "charged 4 free, 2 paid for 2", "balance 3, held 0; free 4, held 0"),
        (Some(3), None, "charged 3 free, 0 paid for 0", "balance 5, held 0; free 3, held 0"),
        (Some(9), None, "charged 4 free, 5 paid for 5", "balance 0, held 0; free 4, held 0"),
        (None, Some("3"), "charged 4 free, 2 paid for 1", "balance 4, held 0; free 4, held 0"),
        (Some(8), Some("1"), "charged 4 free, 4 paid for 0.5", "balance 4.5, held 0; free 4, held 0"),
    ] {
        let account = TestAccount::with("5");
        account.reserve(units(6));
        let commit = Commit { count, cost: cost.map(yuan), ..commit() };
        assert_eq!(account.settle(commit), answer);
        assert_eq!(account.state(), state);
    }
}

#[test]
fn the_policy_of_the_service_limits_a_commit_beyond_the_hold() {
    for (above_hold, answer, balance) in [
        (AboveHold::Charge, "charged 4 free, 8 paid for 8", "-3"),
        (AboveHold::Cap, "charged 4 free, 8 paid for 2, 6 short", "3"),
        (AboveHold::Spill, "charged 4 free, 8 paid for 5, 3 short", "0"),
    ] {
        let account = TestAccount::with_policy("5", Policy { above_hold, ..Policy::default() });
        account.reserve(units(6));
        assert_eq!(account.settle(commit_of(12)), answer);
        assert_eq!(account.state(), format!("balance {balance}, held 0; free 4, held 0"));
    }
}

#[test]
fn tokens_are_priced_as_at_the_reserve() {
    for (commit, answer) in [
        (Commit { usage: Some(usage(1, 1)), ..commit() }, "charged 2 free, 0 paid for 0"),
        (Commit { usage: Some(usage(10, 0)), ..commit() }, "charged 4 free, 6 paid for 6"),
        // If units are tokens, the count is ignored.
        (Commit { usage: Some(usage(10, 0)), count: Some(1), ..commit() }, "charged 4 free, 6 paid for 6"),
        (Commit { cost: Some(yuan("7")), ..commit() }, "charged 4 free, 3 paid for 3"),
        (commit(), "refused: usage: is required: the reservation is priced by model"),
        (
            Commit { usage: Some(usage(0, 0)), ..commit() },
            "refused: usage: is required: the reservation is priced by model",
        ),
    ] {
        let account = TestAccount::with("20");
        account.reserve(tokens(3, 4));
        assert_eq!(account.settle(commit), answer);
    }
}

#[test]
fn output_that_was_counted_takes_the_place_of_the_estimate() {
    let account = TestAccount::with("20");
    account.reserve(tokens(3, 4));
    assert_eq!(account.settle(Commit { counted_output: Some(2), ..commit() }), "charged 4 free, 1 paid for 1.4");
    assert_eq!(account.transaction().reservation.unwrap().usage(), Some(usage(3, 2)));
}

#[test]
fn a_text_with_less_output_than_its_stream_reported_is_charged_as_reported() {
    for (output, cost, answer, charged_by) in [
        (4, None, "charged 4 free, 4 paid for 6.5", ChargedBy::Report),
        (5, None, "charged 4 free, 4 paid for 6.5", ChargedBy::Commit),
        (4, Some("14"), "charged 4 free, 3 paid for 6", ChargedBy::Commit),
    ] {
        let account = TestAccount::with("20");
        account.reserve(tokens(3, 4));
        account.settle(super::account::reported(3, 5));
        let commit = Commit { counted_output: Some(output), cost: cost.map(yuan), ..commit() };
        assert_eq!(account.settle(commit), answer);
        assert_eq!(account.transaction().reservation.unwrap().charged_by, charged_by);
    }
}

#[test]
fn only_the_stream_that_meters_a_reservation_commits_it() {
    let account = TestAccount::with("5");
    account.reserve(units(6));
    let by = |number| Commit { stream: Some(stream(number)), ..commit() };
    assert_eq!(account.settle(by(2)), "refused: trace_id: another stream meters the reservation");
    assert_eq!(account.settle(by(1)), "charged 4 free, 2 paid for 2");
}

#[test]
fn an_expired_reservation_is_charged_late_and_a_released_one_is_not() {
    let mut account = TestAccount::with("5");
    account.reserve(units(6));
    account.pass(TTL);
    assert_eq!(account.settle(expire()), "expired");
    assert_eq!(account.settle(commit()), "charged 4 free, 2 paid for 2");
    assert_eq!(account.state(), "balance 3, held 0; free 4, held 0");

    let account = TestAccount::with("5");
    account.reserve(units(6));
    account.settle(release());
    assert_eq!(account.settle(commit()), "refused: trace_id: the reservation was released");
}

#[test]
fn a_commit_needs_a_reservation() {
    let account = TestAccount::with("5");
    assert_eq!(account.settle(commit()), "refused: transaction t not found");
    account.charge(units(1));
    assert_eq!(account.settle(commit()), "refused: trace_id: it is a charge and not a reservation");
}

#[test]
fn a_reservation_is_committed_once() {
    let account = TestAccount::with("20");
    account.reserve(tokens(3, 4));
    let first = Commit { usage: Some(usage(1, 1)), ..commit() };
    assert_eq!(account.settle(first.clone()), "charged 2 free, 0 paid for 0");
    assert_eq!(account.settle(first.clone()), "charged 2 free, 0 paid for 0");
    assert_eq!(
        account.settle(Commit { record_ids: commit().record_ids, ..first.clone() }),
        "found: charged 2 free, 0 paid for 0"
    );
    let conflict = "refused: trace_id was used before with other content; these fields differ:";
    for (other, fields) in [
        (Commit { usage: Some(usage(9, 9)), ..first.clone() }, "usage"),
        (Commit { cost: Some(yuan("1")), ..first.clone() }, "cost"),
    ] {
        assert_eq!(account.settle(other), format!("{conflict} {fields}"));
    }
}

#[test]
fn a_commit_counts_to_the_month_of_the_reserve() {
    let mut account = TestAccount::with("5");
    account.reserve(units(6));
    account.pass(TimeDelta::days(1));
    assert_eq!(account.settle(commit()), "charged 4 free, 2 paid for 2");
    assert_eq!(account.state(), "balance 3, held 0; free 0, held 0");
    account.pass(-TimeDelta::days(1));
    assert_eq!(account.state(), "balance 3, held 0; free 4, held 0");
}

#[test]
fn a_commit_corrects_the_take_of_the_hold_from_the_api_key() {
    let keyed = |account: &TestAccount| QuotaType::ALL.map(|kind| account.key_used(kind));
    let mut account = TestAccount::with("20");
    for kind in QuotaType::ALL {
        account.set_key_quota(kind, Period::Total, 99_000_000);
    }
    account.reserve(Call { is_keyed: true, ..tokens(3, 4) });
    account.pass(TTL);
    account.settle(expire());
    assert_eq!(keyed(&account), [0, 0, 0]);
    account.settle(Commit { usage: Some(usage(10, 0)), ..commit() });
    assert_eq!(keyed(&account), [1, 10, 6_000_000]);

    let account = TestAccount::with("20");
    for kind in QuotaType::ALL {
        account.set_key_quota(kind, Period::Total, 99_000_000);
    }
    account.reserve(Call { is_keyed: true, ..tokens(3, 4) });
    account.settle(report());
    account.settle(Commit { usage: Some(usage(1, 1)), ..commit() });
    assert_eq!(keyed(&account), [1, 2, 0]);
}
