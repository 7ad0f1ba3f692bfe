//! Events: which postings note them, and that each level fires once for each crossing.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    account::{
        Call, TestAccount, adjust, commit_of, commit_with, expire, key, release, reported, set_status, stream, tokens,
        units, update_order, usage, user, yuan,
    },
    histories::postings::call,
};
use crate::biz::{
    audit_trail::SET_ALERTS,
    events::alerts::Alerts,
    limits::key_quota::{Period, QuotaType},
    settlement::{
        order::OrderStatus,
        posting::{
            AlertsChange, Cause, Charge, Commit, Expire, PaymentUpdate, Posting, RefusedCall, Report, Reserve, Stop,
        },
    },
    values::{
        account_status::AccountStatus,
        ids::{PaymentId, TraceId},
        money::Money,
    },
};

/// An account with thresholds: a balance below 3 and below 1, and half and all of each quota.
fn account(balance: &str) -> TestAccount {
    let mut account = TestAccount::with(balance);
    account.set_default_alerts(Alerts::new(vec![yuan("1"), yuan("3")], vec![50, 100]).unwrap());
    account
}

/// The events, each as its type and the fields that tell it from others.
fn events(account: &TestAccount) -> Vec<String> {
    let shown = ["threshold", "refused", "quota", "percent", "order_id", "after", "cause", "output_tokens"];
    let of = |event: crate::biz::events::NewEvent| {
        assert_eq!(event.user, Some(user()));
        let fields = shown.into_iter().filter_map(|name| event.data.get(name));
        let fields = fields.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        [event.kind.to_string()].into_iter().chain(fields).collect::<Vec<_>>().join(" ")
    };
    account.books.events().into_iter().map(of).collect()
}

fn named(account: &TestAccount, trace: &str, call: Call) -> Charge {
    Charge { trace: TraceId::from_stored(trace), ..account.charge_of(call) }
}

#[test]
fn a_charge_that_crosses_no_threshold_writes_no_event() {
    let account = account("100");
    for number in 0..20 {
        account.settle(named(&account, &format!("t{number}"), units(1)));
    }
    assert_eq!(events(&account), ["quota.threshold free 50", "quota.threshold free 100"]);
    assert_eq!(account.books.balance(&user()).amount, yuan("84"));
}

#[test]
fn a_threshold_of_the_balance_fires_once_until_the_balance_is_on_its_other_side_again() {
    let account = account("5");
    account.settle(named(&account, "free", units(4)));
    let quota = ["quota.threshold free 50", "quota.threshold free 100"];
    assert_eq!(events(&account), quota);
    account.settle(named(&account, "a", units(2)));
    assert_eq!(events(&account).len(), 2, "3 is not below 3");
    account.settle(named(&account, "b", units(1)));
    account.settle(named(&account, "c", units(1)));
    // A replay changes nothing.
    account.settle(named(&account, "b", units(1)));
    assert_eq!(events(&account)[2..], ["balance.low 3"]);
    account.settle(adjust("more", "5"));
    account.settle(named(&account, "d", units(6)));
    assert_eq!(events(&account)[2..], ["balance.low 3", "balance.low 3", "balance.low 1"]);
}

#[test]
fn each_posting_of_a_batch_is_compared_by_itself() {
    let account = account("5");
    account.settle(named(&account, "free", units(4)));
    let one = |trace: &str, count| Posting::from(named(&account, trace, units(count)));
    account.settle_all([one("a", 3), adjust("x", "3"), one("b", 3)]);
    assert_eq!(events(&account)[2..], ["balance.low 3", "balance.low 3"]);
}

#[test]
fn an_account_is_exhausted_once_until_the_next_credit() {
    let account = account("2");
    account.settle(named(&account, "free", units(4)));
    let seen = events(&account).len();
    for trace in ["a", "b", "c"] {
        assert!(account.settle(named(&account, trace, units(3))).starts_with("refused"), "{trace}");
    }
    // A charge that the balance covers is no refill.
    account.settle(named(&account, "d", units(1)));
    account.settle(named(&account, "e", units(9)));
    assert_eq!(events(&account)[seen..], ["balance.exhausted charge"]);
    account.settle(adjust("refill", "1"));
    let reserve = Reserve { call: named(&account, "f", units(9)), ..account.reserve_of(units(9)) };
    account.settle(reserve);
    assert_eq!(events(&account)[seen..], ["balance.exhausted charge", "balance.exhausted reserve"]);
}

#[test]
fn a_refused_batch_that_is_settled_again_writes_no_second_event() {
    let account = account("1");
    let refused = account.charge_of(units(9));
    for _ in 0..3 {
        account.settle(refused.clone());
    }
    assert_eq!(events(&account), ["balance.exhausted charge"]);
}

#[test]
fn a_refused_check_is_noted_only_while_the_account_cannot_pay() {
    let account = account("1");
    let refused = |count| Posting::NoteRefusal(RefusedCall { call: account.charge_of(units(count)) });
    // A credit came between the check and its note.
    assert_eq!(account.settle(refused(5)), "noted");
    assert_eq!(events(&account), [""; 0]);
    let version = account.books.balance(&user()).version;
    assert_eq!(account.settle_all([refused(6), refused(6)]), ["noted", "noted"]);
    assert_eq!(events(&account), ["balance.exhausted check"]);
    assert_eq!(account.books.balance(&user()).version, version + 1);
    assert_eq!(account.books.balance(&user()).amount, yuan("1"));
}

#[test]
fn quotas_of_api_keys_and_caps_reach_their_percentages() {
    let account = account("100");
    account.set_key_quota(QuotaType::Requests, Period::Month, 2);
    account.set_daily_cap(4);
    for number in 0..3 {
        account.settle(named(&account, &format!("t{number}"), Call { is_keyed: true, ..units(1) }));
    }
    assert_eq!(key().as_str(), "k");
    assert_eq!(
        events(&account),
        [
            "quota.threshold api_key 50",
            "quota.threshold free 50",
            "quota.threshold cap 50",
            "quota.threshold api_key 100",
        ]
    );
}

#[test]
fn a_commit_fires_and_a_hold_does_not() {
    let account = account("10");
    assert_eq!(account.reserve(units(13)), "holds 4 free and 9");
    assert_eq!(events(&account), [""; 0]);
    account.settle(commit_of(13));
    assert_eq!(events(&account), ["quota.threshold free 50", "quota.threshold free 100", "balance.low 3"]);
    let other = self::account("10");
    other.reserve(units(13));
    other.settle(release());
    assert_eq!(events(&other), [""; 0]);
}

#[test]
fn a_top_up_and_a_status_leave_their_events_once() {
    let account = account("5");
    account.keep_order(OrderStatus::Pending, None);
    let paid = || update_order(PaymentUpdate::Paid { payment: PaymentId::from_stored("p"), amount: yuan("20") });
    account.settle(paid());
    account.settle(paid());
    let frozen = set_status(AccountStatus::Frozen);
    account.settle(frozen.clone());
    // The answer was lost, and the same request comes again.
    account.settle(frozen);
    assert_eq!(events(&account), ["recharge.succeeded o", "account.status FROZEN"]);
}

#[test]
fn own_alerts_take_the_place_of_the_configured_ones() {
    let account = account("5");
    let set = |alerts: Option<Alerts>| {
        let alerts = alerts.map(Arc::new);
        Posting::SetAlerts(AlertsChange { user: user(), alerts, call: call(SET_ALERTS) })
    };
    let own = || Some(Alerts::new(vec![yuan("4")], vec![]).unwrap());
    assert_eq!(account.settle(set(own())), "set");
    assert_eq!(account.settle(set(own())), "unchanged");
    account.settle(named(&account, "a", units(7)));
    assert_eq!(events(&account), ["balance.low 4"], "2 is below 4");
    assert_eq!(account.settle(set(None)), "set");
    account.settle(named(&account, "b", units(2)));
    assert_eq!(events(&account)[1..], ["balance.low 1"]);
    assert_eq!(account.books.balance(&user()).amount, Money::ZERO);
    let audited = account.books.audit_events();
    let states: Vec<_> = audited.iter().filter(|event| event.rpc == SET_ALERTS).map(|event| &event.after).collect();
    assert_eq!(states, [&Some(r#"{"balance_below":["4"],"quota_percent":[]}"#.to_owned()), &None]);
}

#[test]
fn a_stop_is_told_once_by_the_first_posting_that_carries_it() {
    let stop = |number: u128| Some(Stop { id: Uuid::from_u128(number), output_tokens: 7 });
    let account = TestAccount::with("3");
    account.reserve(tokens(2, 0));
    let first = || Posting::Report(Report { stop: stop(1), ..reported(3, 4) });
    account.settle_all([first(), first()]);
    // The answer was lost, and the engine settles the report again.
    account.settle(first());
    let stops = ["stream.stopped balance 7"];
    let told = || events(&account).into_iter().filter(|event| event.starts_with("stream")).collect::<Vec<_>>();
    assert_eq!(told(), stops);
    account.settle(Commit { stop: stop(1), ..commit_with(3, 5) });
    account.settle(Commit { stop: stop(1), ..commit_with(3, 5) });
    assert_eq!(told(), stops);

    // No report came before the end.
    let ending = |end: Posting| {
        let account = TestAccount::with("3");
        account.reserve(tokens(2, 0));
        account.settle_all([end.clone(), end]);
        events(&account).into_iter().filter(|event| event.starts_with("stream")).collect::<Vec<_>>()
    };
    assert_eq!(ending(Posting::Commit(Commit { stop: stop(1), ..commit_with(3, 5) })), stops);
    let cause = Cause::Broken { stream: stream(1), usage: Some(usage(3, 5)), stop: stop(1) };
    assert_eq!(ending(Posting::Expire(Expire { cause, ..expire() })), stops);
    // A refused posting changes nothing, and tells of nothing.
    let refused = Posting::Report(Report { stop: stop(1), stream: stream(9), ..reported(3, 4) });
    assert_eq!(ending(refused), [""; 0]);
}

#[test]
fn a_stop_names_its_cause() {
    let told = |account: &TestAccount| {
        let stop = Some(Stop { id: Uuid::from_u128(1), output_tokens: 7 });
        account.settle(Report { stop, ..reported(3, 4) });
        events(account).into_iter().filter(|event| event.starts_with("stream")).collect::<Vec<_>>()
    };
    for kind in [QuotaType::Amount, QuotaType::Tokens] {
        let account = TestAccount::with("20");
        account.set_key_quota(kind, Period::Total, if kind == QuotaType::Tokens { 7 } else { 3_000_000 });
        account.reserve(Call { is_keyed: true, ..tokens(2, 0) });
        account.settle(Report { target: Some(usage(3, 4)), ..reported(3, 4) });
        assert_eq!(told(&account), ["stream.stopped api_key 7"], "{kind:?}");
    }
    let account = TestAccount::with("20");
    account.reserve(tokens(2, 0));
    account.settle(set_status(AccountStatus::Frozen));
    assert_eq!(told(&account), ["stream.stopped account_status 7"]);
}
