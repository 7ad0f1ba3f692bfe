//! Reservations: each holds the amounts that a charge of the same call would take.

use chrono::TimeDelta;

use super::account::{Call, TTL, TestAccount, commit, release, stream, tokens, units};
use crate::biz::{
    limits::key_quota::{Period, QuotaType},
    settlement::posting::{Charge, Posting, RecordIds, Reserve},
    values::ids::TraceId,
};

#[test]
fn a_hold_takes_free_units_first_and_then_the_balance() {
    for (call, answer) in [
        (units(3), "holds 3 free and 0"),
        (units(6), "holds 4 free and 2"),
        (Call { cost: Some("3"), ..units(6) }, "holds 4 free and 1"),
        (units(10), "refused: balance is not enough: 6 needed, 5 available"),
        (tokens(3, 4), "holds 4 free and 4.714286"),
    ] {
        assert_eq!(TestAccount::with("5").reserve(call), answer, "{call:?}");
    }
}

#[test]
fn a_hold_is_not_available_to_other_calls() {
    let account = TestAccount::with("5");
    account.reserve(units(6));
    assert_eq!(account.state(), "balance 5, held 2; free 0, held 4");
    let charge = |count| Charge { trace: TraceId::from_stored("t2"), ..account.charge_of(units(count)) };
    assert_eq!(account.settle(charge(4)), "refused: balance is not enough: 4 needed, 3 available");
    assert_eq!(account.settle(charge(3)), "charged 0 free, 3 paid for 3");
}

#[test]
fn a_hold_lasts_for_its_time() {
    let account = TestAccount::with("5");
    account.reserve(units(1));
    assert_eq!(account.transaction().reservation.unwrap().expires_at, account.at.utc + TTL);
    let endless = Reserve { ttl: TimeDelta::MAX, ..account.reserve_of(units(1)) };
    let endless = Reserve { call: Charge { trace: TraceId::from_stored("t2"), ..endless.call }, ..endless };
    assert_eq!(account.settle(endless), "refused: internal error: the expiry is beyond the calendar");
}

#[test]
fn a_trace_id_reserves_once() {
    let account = TestAccount::with("5");
    account.reserve(units(6));
    assert_eq!(account.reserve(units(6)), "holds 4 free and 2");
    let mut other = account.reserve_of(units(6));
    other.call.record_ids = RecordIds::fresh();
    assert_eq!(account.settle(other.clone()), "found: holds 4 free and 2");
    account.settle(commit());
    assert_eq!(account.settle(other), "found: charged 4 free, 2 paid for 2");
    let conflict = "refused: trace_id was used before with other content; these fields differ: count";
    assert_eq!(account.reserve(units(5)), conflict);
}

#[test]
fn a_repeat_must_have_the_same_estimate() {
    let account = TestAccount::with("5");
    account.reserve(tokens(1, 1));
    let conflict = "refused: trace_id was used before with other content; these fields differ:";
    assert_eq!(account.reserve(tokens(2, 1)), format!("{conflict} estimated_input_tokens"));
    assert_eq!(account.reserve(tokens(1, 2)), format!("{conflict} estimated_output_tokens"));
}

#[test]
fn a_reserve_that_was_released_is_not_repeated() {
    let account = TestAccount::with("5");
    account.reserve(units(6));
    account.settle(release());
    assert_eq!(account.reserve(units(6)), "refused: trace_id: the reservation was released");
}

#[test]
fn the_prices_of_a_model_are_pinned_unless_the_call_names_a_cost() {
    for (cost, is_pinned) in [(None, true), (Some("1"), false)] {
        let account = TestAccount::with("5");
        account.reserve(Call { cost, ..tokens(3, 4) });
        assert_eq!(account.transaction().price_version.is_some(), is_pinned);
    }
}

#[test]
fn a_hold_counts_to_the_caps_and_the_api_key_at_once() {
    let account = TestAccount::with("5");
    account.set_daily_cap(1);
    for kind in QuotaType::ALL {
        account.set_key_quota(kind, Period::Total, 5_000_000);
    }
    account.reserve(Call { is_keyed: true, ..tokens(3, 4) });
    assert_eq!(QuotaType::ALL.map(|kind| account.key_used(kind)), [1, 7, 4_714_286]);
    let next = Charge { trace: TraceId::from_stored("t2"), ..account.charge_of(units(1)) };
    assert_eq!(account.settle(next), "refused: the daily limit is reached");
}

#[test]
fn a_hold_is_refused_by_the_caps_and_the_api_key_as_a_charge_is() {
    let account = TestAccount::with("5");
    account.set_key_quota(QuotaType::Tokens, Period::Total, 6);
    assert_eq!(account.reserve(Call { is_keyed: true, ..tokens(3, 4) }), "refused: the api key quota is reached");
    account.set_daily_cap(0);
    assert_eq!(account.reserve(units(1)), "refused: the daily limit is reached");
    assert_eq!(account.state(), "balance 5, held 0; free 0, held 0");
}

#[test]
fn a_reserve_and_its_commit_in_one_batch_charge() {
    let account = TestAccount::with("5");
    let answers = account.settle_all([Posting::Reserve(account.reserve_of(units(6))), commit().into()]);
    assert_eq!(answers, ["holds 4 free and 2", "charged 4 free, 2 paid for 2"]);
    assert_ne!(account.transaction().record_id, stream(1));
}
