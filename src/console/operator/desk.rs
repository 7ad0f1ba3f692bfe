//! A page of an operator that concerns no single account.

use std::collections::BTreeMap;

use axum::{
    extract::{FromRequestParts, Query},
    response::Response,
};
use http::{StatusCode, request::Parts};
use maud::Markup;

use crate::{
    biz::{
        audit_trail::Actor,
        values::{error::Result, invalid::Invalid},
    },
    console::{
        failure::{self, Asked},
        form::account_of,
        layout::{Frame, Tool},
        state::Console,
        visit::Visit,
    },
    service::{
        origin::{self, Caller, Origin},
        request::RequestId,
    },
    texts::Texts,
};

/// The role whose callers change nothing.
const SUPPORT: &str = "support";

/// The request of such a page.
pub(super) struct Desk {
    pub console: Console,
    pub texts: Texts,
    visit: Visit,
    query: BTreeMap<String, String>,
    asked: Asked,
    /// The proof of forms.
    pub proof: String,
    pub actor: Actor,
    pub origin: Origin,
    /// Whether the page has forms of changes. The access table decides about the changes themselves.
    pub may_act: bool,
}

impl Desk {
    /// A parameter of the address, without blanks around it.
    pub fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map(|value| value.trim()).unwrap_or_default()
    }

    /// The value, or the page of the error.
    #[expect(clippy::result_large_err, reason = "the response of a handler")]
    pub fn ok<T>(&self, result: Result<T>) -> std::result::Result<T, Response> {
        result.map_err(|error| failure::page(&self.console, &self.asked, &error))
    }

    pub fn request(&self) -> &RequestId {
        self.asked.request()
    }

    pub fn respond(&self, tool: Tool, title: &str, content: Markup) -> Response {
        self.respond_with(StatusCode::OK, tool, title, content)
    }

    pub fn respond_with(&self, status: StatusCode, tool: Tool, title: &str, content: Markup) -> Response {
        let session = &self.visit.session;
        let frame = Frame {
            texts: self.texts,
            title,
            who: None,
            tools: Some(Some(tool)),
            proof: &self.console.sessions.form_token(session, ""),
            address: &self.visit.address,
            has_session: session.token.is_some(),
            follows: None,
        };
        frame.respond(status, content)
    }
}

impl FromRequestParts<Console> for Desk {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, console: &Console) -> std::result::Result<Self, Response> {
        let Some(visit) = parts.extensions.get::<Visit>().cloned() else {
            return Err(failure::no_visit());
        };
        let asked = Asked::of_parts(parts, visit.clone());
        match Query::<BTreeMap<String, String>>::try_from_uri(&parts.uri) {
            Ok(Query(query)) => Ok(Self {
                console: console.clone(),
                texts: Texts(visit.language),
                proof: console.sessions.form_token(&visit.session, account_of(&parts.extensions)),
                visit,
                query,
                asked,
                actor: origin::actor(&parts.extensions),
                origin: Origin::of(&parts.headers, &parts.extensions),
                may_act: parts.extensions.get::<Caller>().is_none_or(|caller| caller.role != SUPPORT),
            }),
            Err(rejection) => Err(failure::page(console, &asked, &Invalid::new("query", rejection.body_text()).into())),
        }
    }
}
