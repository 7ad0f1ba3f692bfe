//! A page of an account: its account by the rule of the port, its texts, and its frame.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    extract::{FromRequestParts, Query},
    response::Response,
};
use http::{StatusCode, header::HOST, request::Parts};
use maud::Markup;

use super::{
    failure::{self, Asked},
    form::account_of,
    layout::{Frame, Section, Who},
    link::link,
    state::{Console, Port},
    visit::Visit,
};
use crate::{
    biz::values::{
        error::{Error, Result},
        invalid::Invalid,
    },
    service::{
        origin::{Account, Caller, Origin},
        request::RequestId,
    },
    texts::Texts,
};

/// The parameter with an account that is not that of the proof.
const USER_ID: &str = "user_id";

/// The role whose callers read accounts, and not the quotas of API keys.
const SUPPORT: &str = "support";

/// See [`Page::patience`]. A page must come within 100 ms.
const PATIENCE: Duration = Duration::from_millis(30);

/// The request of a page.
pub(super) struct Page {
    pub console: Console,
    pub texts: Texts,
    /// The account. It may be read by the proof of the request.
    pub user: String,
    /// The account, if links must name it.
    named: String,
    /// Whether the proof allows reads alone.
    pub is_read_only: bool,
    /// Whether the reader is an operator who may do the actions.
    pub may_act: bool,
    /// Whether the reader may see quotas of API keys: the user, or a caller that is not of the role support.
    pub sees_key_quotas: bool,
    pub visit: Visit,
    query: BTreeMap<String, String>,
    /// The proof of forms that concern the account.
    pub proof: String,
    asked: Asked,
    /// The origin of the request, for payment-service.
    pub origin: Origin,
    /// The origin of this console for the browser, `https://billing.example.com`; `None` if only the request names it.
    pub own_site: Option<String>,
}

impl Page {
    /// A parameter of the address, without blanks around it.
    pub fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map(|value| value.trim()).unwrap_or_default()
    }

    /// The address of a page of the same account.
    pub fn link(&self, path: &str, parameters: &[(&str, &str)]) -> String {
        link(path, &[parameters, &[(USER_ID, self.named.as_str())]].concat())
    }

    /// The account for a hidden field of a form whose address has parameters; empty if it need not be named.
    pub fn named(&self) -> &str {
        &self.named
    }

    /// The value, or the page of the error.
    #[expect(clippy::result_large_err, reason = "the response of a handler")]
    pub fn ok<T>(&self, result: Result<T>) -> std::result::Result<T, Response> {
        result.map_err(|error| self.fail(&error))
    }

    pub fn fail(&self, error: &Error) -> Response {
        failure::page(&self.console, &self.asked, error)
    }

    /// The time that reads of the page may still take for what is not summed yet, or not found at once. All of them share
    /// it, so that a page of an account of any size comes soon.
    pub fn patience(&self) -> Duration {
        PATIENCE.saturating_sub(self.visit.begun.elapsed())
    }

    /// Whether an operator reads the page.
    pub fn is_for_operators(&self) -> bool {
        self.console.settings.port == Port::Internal
    }

    pub fn request(&self) -> &RequestId {
        self.asked.request()
    }

    pub fn respond(&self, section: Section, title: &str, content: Markup) -> Response {
        self.respond_with(StatusCode::OK, section, title, content)
    }

    pub fn respond_with(&self, status: StatusCode, section: Section, title: &str, content: Markup) -> Response {
        self.frame(section, title, None, |frame| frame.respond(status, content))
    }

    /// As [`Self::respond`]; after some seconds the browser goes on to an address.
    pub fn respond_and_follow(
        &self,
        section: Section,
        title: &str,
        follows: Option<(u32, &str)>,
        content: Markup,
    ) -> Response {
        self.frame(section, title, follows, |frame| frame.respond(StatusCode::OK, content))
    }

    fn frame(
        &self,
        section: Section,
        title: &str,
        follows: Option<(u32, &str)>,
        respond: impl FnOnce(Frame<'_>) -> Response,
    ) -> Response {
        let session = &self.visit.session;
        let frame = Frame {
            texts: self.texts,
            title,
            who: Some(Who { user: &self.user, named: &self.named, section: Some(section) }),
            tools: self.is_for_operators().then_some(None),
            may_act: self.may_act,
            proof: &self.console.sessions.form_token(session, ""),
            address: &self.visit.address,
            has_session: session.token.is_some(),
            follows,
        };
        respond(frame)
    }
}

impl FromRequestParts<Console> for Page {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, console: &Console) -> std::result::Result<Self, Response> {
        let Some(visit) = parts.extensions.get::<Visit>().cloned() else {
            return Err(failure::no_visit());
        };
        let asked = Asked::of_parts(parts, visit.clone());
        let query = Query::<BTreeMap<String, String>>::try_from_uri(&parts.uri);
        let query = query
            .map_err(|rejection| failure::page(console, &asked, &Invalid::new("query", rejection.body_text()).into()));
        let Query(query) = query?;
        let given = query.get(USER_ID).map(|user| user.trim().to_owned()).unwrap_or_default();
        let account = parts.extensions.get::<Account>();
        let (own, user) = match account {
            Some(account) => {
                let user = account.user(Some(&given)).map(str::to_owned);
                (account.user.clone(), user.map_err(|error| failure::page(console, &asked, &error))?)
            }
            None => {
                let demo = &console.settings.demo_user;
                (demo.clone(), if given.is_empty() { demo.clone() } else { given })
            }
        };
        if user.is_empty() {
            return Err(failure::choose_account(console, &asked));
        }
        Ok(Self {
            origin: Origin::of(&parts.headers, &parts.extensions),
            own_site: own_site(console, parts, visit.is_secure),
            texts: Texts(visit.language),
            named: if user == own { String::new() } else { user.clone() },
            user,
            is_read_only: console.settings.port == Port::Internal
                || account.is_some_and(|account| account.is_read_only),
            sees_key_quotas: !account.is_some_and(|account| account.reads_any)
                && parts.extensions.get::<Caller>().is_none_or(|caller| caller.role != SUPPORT || caller.is_admin),
            may_act: console.settings.port == Port::Internal && may_act(&parts.extensions),
            proof: console.sessions.form_token(&visit.session, account_of(&parts.extensions)),
            visit,
            query,
            asked,
            console: console.clone(),
        })
    }
}

/// Whether the caller of a page of operators may do the actions: it has the role of their rpcs. Where no callers are
/// configured, everybody may.
pub(super) fn may_act(extensions: &http::Extensions) -> bool {
    extensions.get::<Caller>().is_none_or(|caller| caller.is_admin)
}

/// The configured origin, or the `Host` if the check of other origins has found it in a list. Payers are led there, so
/// a client may not choose it.
fn own_site(console: &Console, parts: &Parts, is_secure: bool) -> Option<String> {
    let settings = &console.settings;
    let listed = || {
        let header = || parts.headers.get(HOST).and_then(|value| value.to_str().ok());
        let host = parts.uri.authority().map(|authority| authority.as_str()).or_else(header)?;
        Some(format!("{}://{host}", if is_secure { "https" } else { "http" }))
    };
    settings.url.clone().or_else(|| settings.knows_hosts.then(listed).flatten())
}
