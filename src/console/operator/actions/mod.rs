//! The actions of operators. Each is an audited rpc with a form, a preview and one confirmation, described by an
//! [`Action`]. The services compute a preview: they are asked to make the change without the consent to it.

mod accounts;
mod action;
mod field;
mod flow;
mod list;
mod payments;
mod prices;

pub(super) use self::flow::{form, send};
pub(in crate::console) use self::{
    accounts::{KEY_QUOTA, OPEN},
    list::OF_ACCOUNT,
    payments::{REFUND, REFUND_TOP_UP, RESOLVE},
    prices::{DELETE as DELETE_PRICE, PUT as PUT_PRICE},
};
pub use self::{action::Action, list::ACTIONS};
