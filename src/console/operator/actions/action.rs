//! The description of an action.

use futures_util::future::BoxFuture;

use super::field::{Field, Values};
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
    pub(super) needs_account: bool,
    /// Fills the form with the state that it would replace.
    pub(super) current: Option<Current>,
    /// Further facts of the preview, beside its figures.
    pub(super) facts: Option<Facts>,
    /// The values of a preview beside those in force, for a change that replaces none.
    pub(super) beside: Option<Beside>,
    /// The state that a preview is compared with beyond the change itself. A confirmation after another state shows the
    /// preview anew.
    pub(super) base: Option<Base>,
    pub(super) perform: Perform,
}

/// Calls the rpc. Its reply is left out: the page of the audit event shows the change, and the status of a refund.
pub(super) type Perform = for<'a> fn(&'a Api, &'a Values, Attempt) -> BoxFuture<'a, Result<()>>;
/// Each has its word in the catalogues, and its value.
pub(super) type Facts = for<'a> fn(&'a Api, &'a Values) -> BoxFuture<'a, Result<Vec<(&'static str, String)>>>;
/// Fields with their values in force and to come.
pub(super) type Beside = for<'a> fn(&'a Api, &'a Values) -> BoxFuture<'a, Result<Vec<(&'static str, String, String)>>>;
/// A short text that differs if the state differs.
pub(super) type Base = for<'a> fn(&'a Api, &'a Values) -> BoxFuture<'a, Result<String>>;
pub(super) type Current = for<'a> fn(&'a Api, &'a mut Values) -> BoxFuture<'a, Result<()>>;

/// One call of the rpc.
pub(super) struct Attempt {
    pub intent: Intent,
    pub origin: Origin,
}

impl Attempt {
    /// The idempotency id of the call, for an rpc that takes one. It is that of the preview.
    pub fn id(&self) -> String {
        format!("console-{}", self.intent.event)
    }
}

impl Action {
    /// The address of its form.
    pub(in crate::console) fn path(&self) -> String {
        format!("/console/actions/{}", self.name)
    }
}
