//! Credits and debits of an operator.

use super::account::{TestAccount, adjust, units};
use crate::biz::{
    audit_trail::Consent,
    settlement::posting::Posting,
    values::preview::{Fingerprint, Preview},
};

#[test]
fn an_adjustment_credits_or_debits_once() {
    let account = TestAccount::with("0");
    assert_eq!(account.settle(adjust("a", "5")), "balance 5");
    assert_eq!(account.settle(adjust("a", "5")), "found: balance 5");
    assert_eq!(account.settle(adjust("b", "-2")), "balance 3");
    assert_eq!(account.state(), "balance 3, held 0; free 0, held 0");
    let conflict = "refused: adjustment_id was used before with other content; these fields differ: amount";
    assert_eq!(account.settle(adjust("a", "4")), conflict);
}

#[test]
fn the_very_request_is_no_repeat() {
    let account = TestAccount::with("0");
    let adjustment = adjust("a", "5");
    assert_eq!(account.settle(adjustment.clone()), "balance 5");
    assert_eq!(account.settle(adjustment), "balance 5");
    assert_eq!(account.state(), "balance 5, held 0; free 0, held 0");
}

#[test]
fn an_adjustment_leaves_one_event_and_a_repeat_or_a_refusal_none() {
    let account = TestAccount::with("0");
    let adjustment = adjust("a", "5.5");
    account.settle(adjustment.clone());
    account.settle(adjustment);
    account.settle(adjust("a", "5.5"));
    account.settle(adjust("b", "-9"));
    let events = account.books.audit_events();
    let shown: Vec<_> = events.iter().map(|event| (event.before.as_deref(), event.after.as_deref())).collect();
    let after = r#"{"adjustment_id":"a","amount":"5.5","balance":"5.5","operator":""}"#;
    assert_eq!(shown, [(Some(r#"{"balance":"0"}"#), Some(after))]);
    assert_eq!(events[0].rpc, "AdjustBalance");
}

#[test]
fn a_debit_leaves_the_holds() {
    let account = TestAccount::with("5");
    account.reserve(units(6));
    assert_eq!(
        account.settle(adjust("a", "-3.000001")),
        "refused: balance is not enough: 3.000001 needed, 3 available"
    );
    assert_eq!(account.settle(adjust("a", "-3")), "balance 2");
}

#[test]
fn a_credit_goes_to_a_balance_below_zero_too() {
    let account = TestAccount::with("0");
    account.reserve(units(4));
    account.settle(super::account::commit_of(8));
    assert_eq!(account.state(), "balance -4, held 0; free 4, held 0");
    assert_eq!(account.settle(adjust("a", "1")), "balance -3");
}

#[test]
fn no_balance_goes_beyond_the_largest_amount() {
    let account = TestAccount::with("0.000001");
    let refused = "refused: amount: would raise the balance above 999999999.999999";
    assert_eq!(account.settle(adjust("a", "999999999.999999")), refused);
    assert_eq!(account.settle(adjust("a", "999999999.999998")), "balance 999999999.999999");
}

#[test]
fn an_adjustment_is_made_only_with_the_consent_to_its_figures() {
    let account = TestAccount::with("1");
    let with = |id: &str, consent: Consent| match adjust(id, "5") {
        Posting::Adjust(mut adjustment) => {
            adjustment.call.consent = consent;
            Posting::Adjust(adjustment)
        }
        other => panic!("{other:?}"),
    };
    let not_made = "refused: nothing was changed: the change differs from its preview";
    assert_eq!(account.settle(with("a", Consent::Withheld)), not_made);
    assert_eq!(account.settle(with("a", Consent::To(Fingerprint::sent("another")))), not_made);
    assert_eq!(account.state(), "balance 1, held 0; free 0, held 0");
    assert_eq!(account.books.audit_events().len(), 1, "that of the opening balance");
    let made = adjust("a", "5");
    assert_eq!(account.settle(made), "balance 6");
    let event = account.books.audit_events().remove(1);
    let seen = Preview {
        rpc: event.rpc,
        user: event.user,
        before: event.before,
        after: event.after,
        reason: event.reason,
        beside: None,
    };
    // The same change of the same balance, on another account.
    let other = TestAccount::with("1");
    assert_eq!(other.settle(with("a", Consent::To(seen.fingerprint()))), "balance 6");
    // A repeat needs no consent to what is made already.
    assert_eq!(other.settle(with("a", Consent::To(seen.fingerprint()))), "found: balance 6");
    // The same amount on another balance is another change.
    assert_eq!(other.settle(with("b", Consent::To(seen.fingerprint()))), not_made);
    assert_eq!(other.state(), "balance 6, held 0; free 0, held 0");
}
