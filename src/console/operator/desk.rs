//! A page of an operator: one that concerns no account, or an action.

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
        values::{
            error::{Error, Result},
            ids::UserId,
            invalid::Invalid,
        },
    },
    console::{
        failure::{self, Asked},
        form::account_of,
        layout::{Frame, Tool, Who},
        page::may_act,
        state::Console,
        visit::Visit,
    },
    service::{
        origin::{self, Origin},
        request::RequestId,
    },
    texts::Texts,
};

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
    /// The origin of the request, for payment-service.
    pub origin: Origin,
    /// Whether the reader may do the actions.
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
        result.map_err(|error| self.fail(&error))
    }

    pub fn fail(&self, error: &Error) -> Response {
        failure::page(&self.console, &self.asked, error)
    }

    /// The page of an address without a page.
    pub fn not_found(&self) -> Response {
        failure::not_found(&self.console, &self.asked)
    }

    pub fn request(&self) -> &RequestId {
        self.asked.request()
    }

    pub fn respond(&self, tool: Tool, title: &str, content: Markup) -> Response {
        self.respond_about(Some(tool), "", title, content)
    }

    /// As [`Self::respond`], beside the pages of an account. A text that is no user id stands for none.
    pub fn respond_about(&self, tool: Option<Tool>, user: &str, title: &str, content: Markup) -> Response {
        self.respond_with(StatusCode::OK, tool, user, title, content)
    }

    pub fn respond_with(
        &self,
        status: StatusCode,
        tool: Option<Tool>,
        user: &str,
        title: &str,
        content: Markup,
    ) -> Response {
        let session = &self.visit.session;
        let is_user = UserId::parse("user_id", user).is_ok();
        let frame = Frame {
            texts: self.texts,
            title,
            who: is_user.then_some(Who { user, named: user, section: None }),
            tools: Some(tool),
            may_act: self.may_act,
            proof: &self.console.sessions.form_token(session, ""),
            address: self.asked.back(),
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
                may_act: may_act(&parts.extensions),
            }),
            Err(rejection) => Err(failure::page(console, &asked, &Invalid::new("query", rejection.body_text()).into())),
        }
    }
}
