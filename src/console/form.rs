//! Forms. Each has the proof that this server made it for this session and this user.

use std::collections::BTreeMap;

use axum::{
    Form,
    extract::{FromRequest, Request},
    response::Response,
};

use super::{controls::PROOF, failure, session::Sessions, state::Console, visit::Visit};
use crate::{
    biz::values::{error::Error, invalid::Invalid},
    service::origin::Account,
};

/// The fields of a form that has its proof. It concerns the account of the request, or no account.
pub(super) struct Fields(BTreeMap<String, String>);

impl Fields {
    /// A field without blanks around it; empty if it is absent.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map(|value| value.trim()).unwrap_or_default()
    }
}

/// The account that forms of a request name in their proof. Where nobody proves an account, there is none.
pub(super) fn account_of(request: &http::Extensions) -> &str {
    request.get::<Account>().map(|account| account.user.as_str()).unwrap_or_default()
}

impl FromRequest<Console> for Fields {
    type Rejection = Response;

    async fn from_request(request: Request, console: &Console) -> Result<Self, Response> {
        let asked = failure::Asked::of_page(&request);
        let fail =
            |error: Error| asked.as_ref().map_or_else(failure::no_visit, |asked| failure::page(console, asked, &error));
        let user = account_of(request.extensions()).to_owned();
        let visit = request.extensions().get::<Visit>().cloned();
        let form = Form::<BTreeMap<String, String>>::from_request(request, console).await;
        let Form(fields) = form.map_err(|rejection| fail(Invalid::new("form", rejection.body_text()).into()))?;
        let given = fields.get(PROOF).map(String::as_str).unwrap_or_default();
        let is_proven = |visit: Visit, sessions: &Sessions| sessions.is_form_token(&visit.session, &user, given);
        if !visit.is_some_and(|visit| is_proven(visit, &console.sessions)) {
            return Err(failure::stale_form(console, &asked));
        }
        Ok(Self(fields))
    }
}
