//! Usage far beyond the expected one.

use super::account::{TestAccount, commit_with, reported, tokens};
use crate::biz::{
    charge::prices::{Draft, PriceList, PriceVersion},
    settlement::transaction::{Delivered, Transaction},
    values::{ids::PriceVersionId, usage::Usage},
};

/// A charge of text at prices with the tokens of the largest call.
fn charge(max_tokens: Option<u32>, usage: Option<Usage>) -> Transaction {
    let account = TestAccount::with("1000");
    account.charge(tokens(1, 0));
    let mut transaction = account.transaction();
    let draft: Draft = transaction.price_version.as_ref().unwrap().prices.draft();
    let prices: PriceList = Draft { max_tokens, ..draft }.check().unwrap();
    transaction.price_version = Some(PriceVersion::new(PriceVersionId::from_stored("v"), prices));
    transaction.content.usage = usage;
    transaction
}

#[test]
fn a_charge_is_held_against_the_largest_call_of_its_model() {
    for (max_tokens, usage, is_suspicious) in [
        (Some(100), Some(Usage::of_text(500, 500)), false),
        (Some(100), Some(Usage::of_text(500, 501)), true),
        (Some(100), None, false),
        // Without an expectation, nothing is beyond it.
        (None, Some(Usage::of_text(u32::MAX, u32::MAX)), false),
        (Some(u32::MAX), Some(Usage::of_text(u32::MAX, u32::MAX)), false),
    ] {
        assert_eq!(charge(max_tokens, usage).is_suspicious(10), is_suspicious, "{max_tokens:?} {usage:?}");
    }
}

#[test]
fn a_delivery_is_held_against_the_estimate_and_the_largest_call() {
    let account = TestAccount::with("1000");
    account.reserve(tokens(3, 2));
    let pending = account.transaction();
    assert!(!pending.is_suspicious(1));
    account.settle(reported(3, 20));
    assert!(!account.transaction().is_suspicious(1), "a report is no delivery");
    account.settle(commit_with(3, 22));
    let committed = account.transaction();
    assert_eq!((committed.is_suspicious(5), committed.is_suspicious(4)), (false, true));
    // An estimate of nothing expects nothing.
    let mut guessed = committed.clone();
    guessed.content.estimate = Some(Usage::default());
    assert!(!guessed.is_suspicious(1));
    let reservation = guessed.reservation.as_mut().unwrap();
    let Delivered { usage, .. } = reservation.delivered.as_mut().unwrap();
    *usage = None;
    assert!(!guessed.is_suspicious(1));
}
