//! Charges of delivered work, and other debts.

use super::account::{
    Call, TestAccount, adjust, charge_delivered, claw_back, deliver, key, reserve_other, set_status, units, user,
};
use crate::biz::{
    account::policy::{AboveHold, Policy},
    limits::key_quota::{Period, QuotaType},
    settlement::posting::Posting,
    values::account_status::AccountStatus,
};

fn start(balance: &str, above_hold: AboveHold) -> TestAccount {
    TestAccount::with_policy(balance, Policy { above_hold, ..Policy::default() })
}

#[test]
fn the_policy_decides_about_the_cost_that_the_balance_does_not_cover() {
    for (above_hold, charged, state) in [
        (AboveHold::Charge, "charged 4 free, 4 paid for 4", "balance -3, held 0; free 4, held 0"),
        (AboveHold::Cap, "charged 4 free, 4 paid for 1, 3 short", "balance 0, held 0; free 4, held 0"),
        (AboveHold::Spill, "charged 4 free, 4 paid for 1, 3 short", "balance 0, held 0; free 4, held 0"),
    ] {
        let account = start("1", above_hold);
        let needed = "refused: balance is not enough: 4 needed, 1 available";
        assert_eq!(account.charge(units(8)), needed);
        assert_eq!(charge_delivered(&account, units(8)), charged, "{above_hold:?}");
        assert_eq!(charge_delivered(&account, units(8)), format!("found: {charged}"));
        assert_eq!(account.charge(units(8)), format!("found: {charged}"));
        assert_eq!(account.state(), state, "{above_hold:?}");
    }
}

#[test]
fn delivered_work_that_is_covered_is_charged_as_ever() {
    for above_hold in [AboveHold::Charge, AboveHold::Cap, AboveHold::Spill] {
        let account = start("9", above_hold);
        assert_eq!(charge_delivered(&account, units(8)), "charged 4 free, 4 paid for 4");
        assert_eq!(account.state(), "balance 5, held 0; free 4, held 0");
    }
}

#[test]
fn a_capped_charge_leaves_the_holds_and_takes_nothing_of_a_debt() {
    let account = start("5", AboveHold::Cap);
    account.settle(reserve_other(&account, units(7)));
    assert_eq!(charge_delivered(&account, units(4)), "charged 0 free, 4 paid for 2, 2 short");
    account.settle(claw_back("b", "-9"));
    assert_eq!(account.state(), "balance -6, held 3; free 0, held 4");
    assert_eq!(account.settle(deliver(&account, "t3", units(2))), "charged 0 free, 2 paid for 0, 2 short");
}

#[test]
fn no_delivered_call_is_lost_when_the_balance_covers_one() {
    for (above_hold, balance, short) in [(AboveHold::Charge, "-99", 0), (AboveHold::Spill, "0", 99)] {
        let account = start("1", above_hold);
        account.settle(super::account::other(&account, units(4)));
        let calls: [Posting; 100] = std::array::from_fn(|number| deliver(&account, &format!("d{number}"), units(1)));
        let answers = account.settle_all(calls);
        assert_eq!(answers.iter().filter(|answer| answer.ends_with("1 short")).count(), short);
        assert!(answers.iter().all(|answer| answer.starts_with("charged 0 free, 1 paid for")), "{answers:?}");
        assert_eq!(account.state(), format!("balance {balance}, held 0; free 4, held 0"));
    }
}

#[test]
fn caps_and_key_quotas_count_delivered_work_and_do_not_refuse_it() {
    let account = start("9", AboveHold::Charge);
    account.set_daily_cap(1);
    account.set_key_quota(QuotaType::Requests, Period::Day, 1);
    let keyed = Call { is_keyed: true, ..units(1) };
    for trace in ["d1", "d2", "d3"] {
        assert_eq!(account.settle(deliver(&account, trace, keyed)), "charged 1 free, 0 paid for 0");
    }
    assert_eq!(account.books.requests(&user()).unwrap().daily, 3);
    assert_eq!(account.key_used(QuotaType::Requests), 3);
    assert!(account.books.key_quotas().keys().all(|(known, _)| *known == key()));
    assert_eq!(account.charge(keyed), "refused: the daily limit is reached");
}

#[test]
fn an_account_that_is_not_active_refuses_delivered_work_too() {
    let account = start("9", AboveHold::Charge);
    account.settle(set_status(AccountStatus::Frozen));
    assert!(charge_delivered(&account, units(1)).starts_with("refused"));
}

#[test]
fn a_debit_takes_the_balance_below_zero_only_if_it_may() {
    let account = start("5", AboveHold::Charge);
    account.settle(reserve_other(&account, units(6)));
    let refused = "refused: balance is not enough: 6 needed, 3 available";
    assert_eq!(account.settle(adjust("a", "-6")), refused);
    assert_eq!(account.settle(claw_back("a", "-6")), "balance -1");
    assert_eq!(account.settle(adjust("a", "-6")), "found: balance -1");
    // Free calls pass in debt, paid ones do not. A credit pays the debt first.
    let account = start("5", AboveHold::Charge);
    account.settle(claw_back("a", "-6"));
    assert_eq!(account.charge(units(4)), "charged 4 free, 0 paid for 0");
    let refused = "refused: balance is not enough: 1 needed, -1 available";
    assert_eq!(account.settle(super::account::other(&account, units(1))), refused);
    assert_eq!(account.settle(adjust("b", "3")), "balance 2");
    assert_eq!(account.settle(super::account::other(&account, units(1))), "charged 0 free, 1 paid for 1");
}

#[test]
fn the_event_of_a_debit_says_that_it_may_overdraw() {
    let account = start("5", AboveHold::Charge);
    account.settle(claw_back("a", "-6"));
    let events = account.books.audit_events();
    let after = r#"{"adjustment_id":"a","allow_negative":true,"amount":"-6","balance":"-1","operator":""}"#;
    assert_eq!(events[1].after.as_deref(), Some(after));
}
