//! The actions of operators. Each is an audited rpc with a form, a preview and one confirmation, described by an
//! [`Action`]. The services compute a preview: they are asked to make the change without the consent to it.

mod accounts;
mod field;
mod flow;
mod payments;
mod prices;

use futures_util::future::BoxFuture;

pub use self::field::Field;
use self::field::Values;
pub(super) use self::flow::{form, send};
use crate::{
    biz::{audit_trail::Intent, values::error::Result},
    service::{Api, origin::Origin},
};

/// An action: a form over an audited rpc.
pub struct Action {
    /// The last part of its address, and its word in the catalogues.
    pub name: &'static str,
    /// The rpc, whose roles may do it.
    pub rpc: &'static str,
    pub fields: &'static [Field],
    /// Whether the account must exist. It keeps a slip in a user id from opening an account.
    needs_account: bool,
    /// Fills the form with the state that it would replace.
    current: Option<Current>,
    perform: Perform,
}

/// Calls the rpc. Its reply is in the audit event.
type Perform = for<'a> fn(&'a Api, &'a Values, Attempt) -> BoxFuture<'a, Result<()>>;
type Current = for<'a> fn(&'a Api, &'a mut Values) -> BoxFuture<'a, Result<()>>;

/// One call of the rpc.
struct Attempt {
    intent: Intent,
    origin: Origin,
}

impl Attempt {
    /// The idempotency id of the call, for an rpc that takes one. It is that of the form.
    fn id(&self) -> String {
        format!("console-{}", self.intent.event)
    }
}

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

fn find(name: &str) -> Option<&'static Action> {
    ACTIONS.into_iter().find(|action| action.name == name)
}

impl Action {
    /// The address of its form.
    pub(in crate::console) fn path(&self) -> String {
        format!("/console/actions/{}", self.name)
    }
}
