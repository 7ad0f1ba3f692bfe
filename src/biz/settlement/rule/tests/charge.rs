//! Charges: free units first, then the balance; a trace id charges once.

use super::account::{Call, TestAccount, calls, key, tokens, trace, units, yuan};
use crate::biz::{
    limits::key_quota::{Period, QuotaType},
    settlement::posting::Charge,
    values::{
        error::Error,
        ids::{ModelName, ServiceName, TraceId},
    },
};

#[test]
fn free_units_go_first_and_the_balance_pays_the_rest() {
    for (call, answer) in [
        (units(3), "charged 3 free, 0 paid for 0"),
        (units(6), "charged 4 free, 2 paid for 2"),
        (Call { cost: Some("3"), ..units(6) }, "charged 4 free, 2 paid for 1"),
        (units(9), "charged 4 free, 5 paid for 5"),
        (units(10), "refused: balance is not enough: 6 needed, 5 available"),
        // The cost is 11 for 7 tokens, or for 8 calls.
        (tokens(3, 4), "charged 4 free, 3 paid for 4.714286"),
        (calls(8, 3, 4), "refused: balance is not enough: 5.5 needed, 5 available"),
    ] {
        assert_eq!(TestAccount::with("5").charge(call), answer, "{call:?}");
    }
}

#[test]
fn a_charge_takes_the_amounts_of_its_reply_and_a_refusal_takes_nothing() {
    let account = TestAccount::with("5");
    account.charge(units(10));
    assert_eq!(account.state(), "balance 5, held 0; free 0, held 0");
    account.charge(units(6));
    assert_eq!(account.state(), "balance 3, held 0; free 4, held 0");
    let charged = account.transaction();
    assert_eq!((charged.balance_after, charged.free_remaining_after), (yuan("3"), 0));
}

#[test]
fn a_trace_id_charges_once_and_answers_as_it_did() {
    let account = TestAccount::with("5");
    let first = account.charge_of(units(6));
    assert_eq!(account.settle(first.clone()), "charged 4 free, 2 paid for 2");
    assert_eq!(account.charge(units(6)), "found: charged 4 free, 2 paid for 2");
    // A retry of the same request after a lost answer is no repeat.
    assert_eq!(account.settle(first), "charged 4 free, 2 paid for 2");
    // A repeat needs no price.
    let unpriced = Charge { quote: Err(Error::UnknownService("units".into())), ..account.charge_of(units(6)) };
    assert_eq!(account.settle(unpriced), "found: charged 4 free, 2 paid for 2");
    assert_eq!(account.state(), "balance 3, held 0; free 4, held 0");
}

#[test]
fn a_call_without_a_price_is_refused() {
    let account = TestAccount::with("5");
    let unpriced = Charge { quote: Err(Error::UnknownService("x".into())), ..account.charge_of(units(1)) };
    assert_eq!(account.settle(unpriced), "refused: service_name: unknown service \"x\"");
}

#[test]
fn a_repeat_with_other_content_names_the_fields_that_differ() {
    let account = TestAccount::with("5");
    account.charge(tokens(1, 1));
    type Change = fn(&mut Charge);
    let changes: [(&str, Change); 6] = [
        ("service_name", |charge| charge.content.service = ServiceName::from_stored("calls")),
        ("count", |charge| charge.content.count = 2),
        ("cost", |charge| charge.content.cost = Some(yuan("1"))),
        ("api_key_id", |charge| charge.content.api_key = Some(key())),
        ("model", |charge| charge.content.model = Some(ModelName::from_stored("other"))),
        ("usage", |charge| charge.content.usage = None),
    ];
    for (field, change) in changes {
        let mut charge = account.charge_of(tokens(1, 1));
        change(&mut charge);
        let conflict = "refused: trace_id was used before with other content; these fields differ:";
        assert_eq!(account.settle(charge), format!("{conflict} {field}"));
    }
}

#[test]
fn the_trace_id_of_a_reservation_is_not_that_of_a_charge() {
    let conflict = "refused: trace_id was used before with other content; these fields differ: rpc";
    let account = TestAccount::with("5");
    account.charge(units(1));
    assert_eq!(account.reserve(units(1)), conflict);
    let account = TestAccount::with("5");
    account.reserve(units(1));
    assert_eq!(account.charge(units(1)), conflict);
}

#[test]
fn a_charge_that_is_partly_free_has_two_records_and_its_tokens_stand_on_the_paid_one() {
    for (call, records) in [
        (calls(8, 3, 4), vec!["4 free for 0, 0 tokens", "4 paid for 5.5, 7 tokens"]),
        (calls(3, 3, 4), vec!["3 free for 0, 7 tokens"]),
    ] {
        let account = TestAccount::with("6");
        account.charge(call);
        assert_eq!(account.records(), records);
    }
}

#[test]
fn a_capped_user_is_refused_until_the_next_day() {
    let mut account = TestAccount::with("5");
    account.set_daily_cap(1);
    // A refused call does not count.
    account.charge(units(10));
    account.charge(units(1));
    let next = |account: &TestAccount| Charge { trace: TraceId::from_stored("t2"), ..account.charge_of(units(1)) };
    assert_eq!(account.settle(next(&account)), "refused: the daily limit is reached");
    account.pass(chrono::TimeDelta::days(1));
    assert_eq!(account.settle(next(&account)), "charged 1 free, 0 paid for 0");
}

#[test]
fn an_api_key_counts_requests_tokens_and_the_amount_from_the_balance() {
    let account = TestAccount::with("5");
    for kind in QuotaType::ALL {
        account.set_key_quota(kind, Period::Total, 5_000_000);
    }
    account.charge(Call { is_keyed: true, ..tokens(3, 4) });
    assert_eq!(QuotaType::ALL.map(|kind| account.key_used(kind)), [1, 7, 4_714_286]);
    let unkeyed = Charge { trace: TraceId::from_stored("t2"), ..account.charge_of(units(1)) };
    account.settle(unkeyed);
    assert_eq!(QuotaType::ALL.map(|kind| account.key_used(kind)), [1, 7, 4_714_286]);
}

#[test]
fn the_quota_of_a_key_is_looked_at_after_the_balance() {
    let account = TestAccount::with("5");
    account.set_key_quota(QuotaType::Amount, Period::Total, 1_999_999);
    let keyed = |count| Call { is_keyed: true, ..units(count) };
    assert_eq!(account.charge(keyed(10)), "refused: balance is not enough: 6 needed, 5 available");
    assert_eq!(account.charge(keyed(6)), "refused: the api key quota is reached");
    assert_eq!(account.charge(keyed(5)), "charged 4 free, 1 paid for 1");
}

#[test]
fn calls_of_one_batch_see_each_other() {
    let account = TestAccount::with("5");
    let second = Charge { trace: TraceId::from_stored("t2"), ..account.charge_of(units(6)) };
    let answers = account.settle_all([account.charge_of(units(3)).into(), second.into()]);
    assert_eq!(answers, ["charged 3 free, 0 paid for 0", "charged 1 free, 5 paid for 5"]);
    assert_eq!(account.transaction().trace, trace());
}
