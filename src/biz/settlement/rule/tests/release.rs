//! Releases: the end of a reservation without delivery.

use super::account::{Call, TTL, TestAccount, commit, expire, release, tokens, units};
use crate::biz::limits::key_quota::{Period, QuotaType};

#[test]
fn a_release_frees_the_hold_once() {
    let account = TestAccount::with("5");
    account.reserve(units(6));
    let first = release();
    assert_eq!(account.settle(first.clone()), "released");
    assert_eq!(account.state(), "balance 5, held 0; free 0, held 0");
    assert_eq!(account.settle(first), "released");
    assert_eq!(account.settle(release()), "found: released");
    assert_eq!(account.state(), "balance 5, held 0; free 0, held 0");
    assert_eq!(account.records(), [""; 0]);
}

#[test]
fn a_committed_reservation_is_not_released_and_an_expired_one_is() {
    let mut account = TestAccount::with("5");
    account.reserve(units(6));
    account.settle(commit());
    assert_eq!(account.settle(release()), "refused: trace_id: the reservation was committed");

    account = TestAccount::with("5");
    account.reserve(units(6));
    account.pass(TTL);
    account.settle(expire());
    assert_eq!(account.settle(release()), "released");
    assert_eq!(account.state(), "balance 5, held 0; free 0, held 0");
}

#[test]
fn a_release_returns_the_take_of_the_hold_to_the_api_key_and_the_caps() {
    let account = TestAccount::with("20");
    account.set_daily_cap(1);
    for kind in QuotaType::ALL {
        account.set_key_quota(kind, Period::Total, 99_000_000);
    }
    account.reserve(Call { is_keyed: true, ..tokens(3, 4) });
    account.settle(release());
    assert_eq!(QuotaType::ALL.map(|kind| account.key_used(kind)), [0, 0, 0]);
    assert_eq!(account.books.requests(&super::account::user()).unwrap().used(account.at), (0, 0));
}
