//! Reports of a stream, and the growth of its hold.

use chrono::TimeDelta;

use super::account::{
    Call, TTL, TestAccount, break_off, commit, expire, release, report, reported, stream, tokens, usage, user,
};
use crate::biz::{
    limits::key_quota::{Period, QuotaType},
    settlement::posting::{Posting, Report},
    values::usage::Usage,
};

/// Holds 2 free units.
fn metered(balance: &str) -> TestAccount {
    let account = TestAccount::with(balance);
    assert_eq!(account.reserve(tokens(2, 0)), "holds 2 free and 0");
    account
}

fn target(input: u32, output: u32) -> Report {
    Report { target: Some(usage(input, output)), ..report() }
}

#[test]
fn a_hold_grows_free_units_first_and_as_far_as_the_balance() {
    for (balance, answer, held) in [
        ("20", "holds 4 free and 4.714286", "4.714286"),
        ("3", "holds 4 free and 3", "3"),
        ("0", "holds 4 free and 0", "0"),
    ] {
        let account = metered(balance);
        assert_eq!(account.settle(target(3, 4)), answer);
        assert_eq!(account.state_of("tokens"), format!("balance {balance}, held {held}; free 0, held 4"));
    }
}

#[test]
fn a_hold_never_shrinks() {
    let account = metered("20");
    account.settle(target(3, 4));
    assert_eq!(account.settle(target(1, 0)), "holds 4 free and 4.714286");
    assert_eq!(account.settle(report()), "holds 4 free and 4.714286");
}

#[test]
fn a_hold_grows_as_far_as_the_quota_of_its_api_key() {
    let account = TestAccount::with("20");
    account.set_key_quota(QuotaType::Amount, Period::Total, 3_000_000);
    account.reserve(Call { is_keyed: true, ..tokens(2, 0) });
    assert_eq!(account.settle(target(3, 4)), "holds 4 free and 3");
    assert_eq!(account.key_used(QuotaType::Amount), 3_000_000);
}

#[test]
fn a_target_without_a_price_does_not_grow_the_hold() {
    let account = metered("20");
    let target = Some(Usage { cached_input_tokens: 9, ..usage(3, 4) });
    assert_eq!(account.settle(Report { target, ..report() }), "holds 2 free and 0");
}

#[test]
fn a_report_without_a_price_is_refused() {
    let account = metered("20");
    let unpriced = Some(Usage { cached_input_tokens: 9, ..usage(3, 4) });
    let refused = "refused: usage.cached_input_tokens: must be at most input_tokens";
    assert_eq!(account.settle(Report { usage: unpriced, ..report() }), refused);
    assert_eq!(account.settle(report()), "holds 2 free and 0");
}

#[test]
fn output_that_was_reported_stays_reported() {
    let account = metered("20");
    assert_eq!(account.settle(reported(1, 3)), "holds 2 free and 0, reported 1 + 3");
    assert_eq!(account.settle(reported(2, 1)), "holds 2 free and 0, reported 2 + 3");
    assert_eq!(account.settle(reported(0, 0)), "holds 2 free and 0, reported 2 + 3");
    assert_eq!(account.settle(report()), "holds 2 free and 0, reported 2 + 3");
}

#[test]
fn a_report_makes_the_hold_last_from_now_on() {
    let mut account = metered("20");
    account.pass(TimeDelta::minutes(5));
    account.settle(report());
    assert_eq!(account.transaction().reservation.unwrap().expires_at, account.at.utc + TTL);
}

#[test]
fn one_stream_meters_a_reservation_until_another_takes_over() {
    let by = |number, takes_over| Report { stream: stream(number), takes_over, ..report() };
    let refused = "refused: trace_id: another stream meters the reservation";
    let account = metered("20");
    assert_eq!(account.settle(by(2, false)), refused);
    assert_eq!(account.settle(by(2, true)), "holds 2 free and 0");
    assert_eq!(account.settle(by(1, false)), refused);
    assert_eq!(account.settle(by(2, false)), "holds 2 free and 0");
}

#[test]
fn a_report_that_holds_no_more_leaves_the_account_as_it_is() {
    let account = metered("20");
    let version = |account: &TestAccount| account.books.balance(&user()).version;
    let before = version(&account);
    account.settle(reported(1, 3));
    assert_eq!(version(&account), before);
    account.settle(target(3, 4));
    assert_eq!(version(&account), before + 1);
}

#[test]
fn a_stream_is_exhausted_when_it_has_all_the_tokens_of_its_api_key() {
    for (limit, output, is_exhausted) in [(7, 4, true), (7, 5, true), (7, 3, false), (8, 4, false)] {
        let account = TestAccount::with("20");
        account.set_key_quota(QuotaType::Tokens, Period::Month, limit);
        account.reserve(Call { is_keyed: true, ..tokens(3, 4) });
        let answer = account.settle(reported(3, output));
        assert_eq!(answer.ends_with(", exhausted"), is_exhausted, "{answer}, {output} of {limit}");
        assert_eq!(account.key_used(QuotaType::Tokens), i64::from(3 + output.max(4)));
    }
}

#[test]
fn after_the_sweep_a_stream_learns_that_its_time_is_over() {
    let mut account = metered("20");
    account.pass(TTL);
    account.settle(expire());
    assert_eq!(account.settle(reported(3, 4)), "expired, exhausted");
    let other = Report { stream: stream(2), takes_over: true, ..report() };
    assert_eq!(account.settle(other), "refused: trace_id: the reservation has expired; commit what it delivered");

    let mut account = metered("20");
    account.settle(reported(2, 0));
    account.pass(TTL);
    account.settle(expire());
    assert_eq!(account.settle(reported(3, 4)), "charged 2 free, 0 paid for 0, exhausted");
    assert_eq!(
        account.settle(Report { stream: stream(2), ..report() }),
        "refused: trace_id: the reservation was committed"
    );
}

#[test]
fn an_ended_reservation_takes_no_reports() {
    let ends: [(Posting, &str); 3] = [
        (super::account::commit_with(2, 0).into(), "committed"),
        (release().into(), "released"),
        (super::account::commit_with(9, 9).into(), "committed"),
    ];
    for (end, ended) in ends {
        let account = metered("50");
        account.settle(end);
        assert_eq!(account.settle(report()), format!("refused: trace_id: the reservation was {ended}"));
    }
    assert_eq!(TestAccount::with("20").settle(report()), "refused: transaction t not found");
    let account = metered("20");
    account.settle(break_off(1, Some(usage(1, 0))));
    assert_eq!(account.settle(report()), "charged 1 free, 0 paid for 0, exhausted");
    assert_eq!(account.settle(commit()), "found: charged 1 free, 0 paid for 0");
}
