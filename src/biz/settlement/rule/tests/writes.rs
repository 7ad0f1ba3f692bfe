//! The writes of a batch: every changed row, once, and no other row.

use super::account::{Call, TestAccount, adjust, commit, commit_of, key, open, trace, units, user, yuan};
use crate::biz::{
    account::{Balance, Quota},
    events::alerts::Watch,
    limits::{
        caps::{Caps, Requests},
        key_quota::{KeyQuota, Period, QuotaType, Taken},
    },
    settlement::{
        keys::Keys,
        posting::{Outcome, Posting},
        rule::{self, State},
        transaction::Status,
    },
    values::{error::Error, ids::ServiceName},
};

/// A user with a balance of 5, caps, and a key with a quota of requests.
fn loaded(account: &TestAccount) -> State {
    let mut state = State::default();
    state.balances.insert(user(), Balance { amount: yuan("5"), version: 7, ..Balance::default() });
    for service in ["units", "calls", "tokens"] {
        let row = (user(), account.at.month, ServiceName::from_stored(service));
        state.quotas.insert(row, Quota { total: 4, used: 0, held: 0 });
    }
    let caps = Caps { daily: Some(9), monthly: None };
    state.requests.insert(user(), Requests::new(caps, account.at));
    let (since, day) = (account.at.utc, account.at.day);
    let quota = KeyQuota { period: Period::Total, limit: 9, taken: Taken::default(), since, day, version: 3 };
    state.key_quotas.insert((key(), QuotaType::Requests), quota);
    state
}

#[test]
fn the_rows_of_a_charge_are_written_once_and_their_versions_grow() {
    let account = TestAccount::with("0");
    let charge = account.charge_of(Call { is_keyed: true, ..units(6) });
    let batch = account.batch([charge.into(), adjust("a", "1"), adjust("b", "1")]);
    let (_, writes) = rule::settle(&batch, loaded(&account));
    let balance = writes.balances.iter().map(|(_, balance)| (balance.amount, balance.version));
    assert_eq!(balance.collect::<Vec<_>>(), [(yuan("5"), 8)]);
    let quotas = writes.quotas.iter().map(|((_, _, service), quota)| (service.as_str(), quota.used));
    assert_eq!(quotas.collect::<Vec<_>>(), [("units", 4)]);
    assert_eq!(writes.requests.iter().map(|(_, requests)| requests.daily).collect::<Vec<_>>(), [1]);
    let keys = writes.key_quotas.values().map(|quota| (quota.taken, quota.version));
    assert_eq!(keys.collect::<Vec<_>>(), [(Taken { day: 1, month: 1, total: 1 }, 4)]);
    assert_eq!((writes.charges.len(), writes.records.len(), writes.adjustments.len()), (1, 2, 2));
    let usage = writes.usage.iter().map(|(_, day)| (day.free_records, day.paid_records, day.totals.amount));
    assert_eq!(usage.collect::<Vec<_>>(), [(1, 1, yuan("2"))]);
    // One change of the account and one of the key, for the caches.
    assert_eq!((writes.changes.len(), writes.api_keys.len()), (2, 1));
    assert!(!writes.is_empty());
}

#[test]
fn refusals_and_openings_write_nothing() {
    let account = TestAccount::with("0");
    let batch = account.batch([open(), account.charge_of(units(99)).into(), commit().into()]);
    let mut state = loaded(&account);
    // The first refusal for money since the last credit writes its event.
    state.watches.insert(user(), Watch { is_exhausted: true, alerts: None });
    let (_, writes) = rule::settle(&batch, state);
    assert!(writes.is_empty() && writes.events.is_empty() && writes.watches.is_empty());
    let is_silent = writes.records.is_empty() && writes.quotas.is_empty() && writes.usage.is_empty();
    assert!(is_silent && writes.changes.is_empty());
}

#[test]
fn a_reservation_that_ends_in_its_first_batch_is_written_as_new() {
    let account = TestAccount::with("0");
    let reserve = || Posting::Reserve(account.reserve_of(units(6)));
    let (_, writes) = rule::settle(&account.batch([reserve(), commit().into()]), loaded(&account));
    let written = writes.reservations.iter().map(|write| (write.transaction.status, write.was));
    assert_eq!(written.collect::<Vec<_>>(), [(Status::Committed, None)]);

    let (_, writes) = rule::settle(&account.batch([reserve()]), loaded(&account));
    let mut state = loaded(&account);
    let reserved = writes.reservations.into_iter().next().unwrap().transaction;
    state.transactions.insert((user(), trace()), reserved);
    let (_, writes) = rule::settle(&account.batch([commit().into()]), state);
    assert_eq!(writes.reservations[0].was, Some(Status::Pending));
    assert!(!writes.is_empty());
}

#[test]
fn an_account_that_a_batch_opens_is_new_once() {
    let account = TestAccount::with("0");
    let mut state = loaded(&account);
    state.created.insert(user());
    let (outcomes, _) = rule::settle(&account.batch([open(), open()]), state);
    assert_eq!(outcomes, [Outcome::Opened { created: true }, Outcome::Opened { created: false }]);
}

#[test]
fn an_account_that_was_not_loaded_is_an_error_and_never_an_empty_one() {
    let account = TestAccount::with("0");
    for posting in [account.charge_of(units(1)).into(), adjust("a", "1")] {
        let (outcomes, writes) = rule::settle(&account.batch([posting]), State::default());
        let not_loaded = Outcome::Refused(Error::Internal("the balance of u was not loaded".into()));
        assert_eq!(outcomes, [not_loaded]);
        assert!(writes.is_empty());
    }
}

/// Charges pay nothing for the status of accounts and for the audit trail.
#[test]
fn a_batch_of_charges_looks_up_and_writes_no_event_and_no_status() {
    let account = TestAccount::with("0");
    let reserve = || Posting::Reserve(account.reserve_of(units(1)));
    let batch = account.batch([account.charge_of(units(6)).into(), reserve(), commit().into()]);
    assert!(Keys::of(&batch).audit_events.is_empty());
    let (_, writes) = rule::settle(&batch, loaded(&account));
    assert!(!writes.is_empty() && writes.audit_events.is_empty() && writes.statuses.is_empty());
    let (_, writes) = rule::settle(&account.batch([adjust("a", "1"), adjust("b", "1")]), loaded(&account));
    assert_eq!((writes.audit_events.len(), writes.adjustments.len()), (2, 2));
}

/// The quota row of a call that took and freed none of it stays as it is.
#[test]
fn only_a_quota_that_changed_is_written() {
    let account = TestAccount::with("0");
    let used_up = || {
        let mut state = loaded(&account);
        state.quotas.values_mut().for_each(|quota| quota.used = quota.total);
        state
    };
    let (_, writes) = rule::settle(&account.batch([account.charge_of(units(2)).into()]), used_up());
    assert_eq!((writes.charges.len(), writes.quotas.len()), (1, 0));
    let reserve = Posting::Reserve(account.reserve_of(units(2)));
    let (_, writes) = rule::settle(&account.batch([reserve]), used_up());
    assert_eq!((writes.reservations.len(), writes.quotas.len()), (1, 0));
    let mut state = used_up();
    let reserved = writes.reservations.into_iter().next().unwrap().transaction;
    state.balances.entry(user()).and_modify(|balance| balance.held = yuan("2"));
    state.transactions.insert((user(), trace()), reserved);
    let (_, writes) = rule::settle(&account.batch([commit().into()]), state);
    assert_eq!((writes.reservations.len(), writes.quotas.len()), (1, 0));
}

#[test]
fn a_commit_writes_the_quota_that_its_hold_did_not_have() {
    let account = TestAccount::with("0");
    let mut used_up = loaded(&account);
    used_up.quotas.values_mut().for_each(|quota| quota.used = quota.total);
    let reserve = Posting::Reserve(account.reserve_of(units(2)));
    let (_, writes) = rule::settle(&account.batch([reserve]), used_up);
    // Another reservation has given its free units back since.
    let mut state = loaded(&account);
    state.balances.extend(writes.balances);
    let reserved = writes.reservations.into_iter().next().unwrap().transaction;
    state.transactions.insert((user(), trace()), reserved);
    let (_, writes) = rule::settle(&account.batch([commit_of(4).into()]), state);
    let quotas = writes.quotas.iter().map(|((_, _, service), quota)| (service.as_str(), quota.used));
    assert_eq!(quotas.collect::<Vec<_>>(), [("units", 4)]);
}
