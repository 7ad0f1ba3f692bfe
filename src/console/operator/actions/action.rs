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
    /// The facts that a preview shows beside its figures, for a change that replaces nothing. They are read after the
    /// fingerprint of the change was made, and the fingerprint has the rows that they come from.
    pub(super) context: Option<ContextOf>,
    pub(super) perform: Perform,
}

/// Calls the rpc. Its reply is left out: the page of the audit event shows the change, and the status of a refund.
pub(super) type Perform = for<'a> fn(&'a Api, &'a Values, Attempt) -> BoxFuture<'a, Result<()>>;
pub(super) type ContextOf = for<'a> fn(&'a Api, &'a Values) -> BoxFuture<'a, Result<Context>>;
pub(super) type Current = for<'a> fn(&'a Api, &'a mut Values) -> BoxFuture<'a, Result<()>>;

/// The surroundings of a preview.
#[derive(Default)]
pub(super) struct Context {
    /// Fields with their values in force and to come.
    pub fields: Vec<(&'static str, String, String)>,
    /// Further facts. Each has its word in the catalogues, and its value.
    pub facts: Vec<(&'static str, String)>,
}

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
    /// An action that may concern no account, and whose form begins empty.
    pub(super) const fn new(name: &'static str, rpc: &'static str, fields: &'static [Field], perform: Perform) -> Self {
        Self { name, rpc, fields, needs_account: false, current: None, context: None, perform }
    }

    /// An action whose account must exist.
    pub(super) const fn of_account(
        name: &'static str,
        rpc: &'static str,
        fields: &'static [Field],
        perform: Perform,
    ) -> Self {
        Self { needs_account: true, ..Self::new(name, rpc, fields, perform) }
    }

    /// The address of its form.
    pub(in crate::console) fn path(&self) -> String {
        format!("/console/actions/{}", self.name)
    }
}
