//! All actions.

use super::{accounts, action::Action, payments, prices};

/// All actions.
pub static ACTIONS: [&Action; 12] = [
    &accounts::STATUS,
    &accounts::ADJUST,
    &accounts::LIMITS,
    &accounts::PLAN,
    &accounts::ALERTS,
    &accounts::KEY_QUOTA,
    &accounts::OPEN,
    &payments::REFUND,
    &payments::REFUND_TOP_UP,
    &payments::RESOLVE,
    &prices::PUT,
    &prices::DELETE,
];

/// The actions that a page of an account offers.
pub(in crate::console) static OF_ACCOUNT: [&Action; 6] =
    [&accounts::STATUS, &accounts::ADJUST, &accounts::LIMITS, &accounts::PLAN, &accounts::ALERTS, &accounts::KEY_QUOTA];

pub(super) fn find(name: &str) -> Option<&'static Action> {
    ACTIONS.into_iter().find(|action| action.name == name)
}
