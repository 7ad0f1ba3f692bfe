//! Pages in place of the wanted one: an error, the sign-in, the choice of an account. A refusal of the transport is an
//! error in JSON, and becomes a page here.

use axum::{
    body::to_bytes,
    extract::Request,
    response::{IntoResponse, Redirect, Response},
};
use http::{
    Method, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    request::Parts,
};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    controls::{PROOF, hidden},
    layout::Frame,
    link::is_own,
    session::MAX_TOKEN,
    state::{Console, Port},
    visit::{NewSession, Visit},
};
use crate::{
    biz::values::{error::Error, invalid::Invalid},
    service::{
        error_texts::message_in,
        errors::{self, ErrorBody},
        request::RequestId,
        rest::Denied,
    },
    texts::Texts,
};

/// Most bytes of an error of the transport.
const MAX_REFUSAL: usize = 64 * 1024;

/// The parameter of an address to which a page without cookies has led.
const LED: &str = "led=1";

/// The request of a page that may fail.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    visit: Visit,
    request: RequestId,
    is_get: bool,
}

impl Asked {
    pub fn of(request: &Request, visit: Visit) -> Self {
        Self::new(request.method(), RequestId::beside(request.extensions()), visit)
    }

    /// Of a request within the layer of visits.
    pub fn of_page(request: &Request) -> Option<Self> {
        request.extensions().get::<Visit>().map(|visit| Self::of(request, visit.clone()))
    }

    pub fn of_parts(parts: &Parts, visit: Visit) -> Self {
        Self::new(&parts.method, RequestId::beside(&parts.extensions), visit)
    }

    fn new(method: &Method, request: RequestId, visit: Visit) -> Self {
        Self { visit, request, is_get: matches!(*method, Method::GET | Method::HEAD) }
    }

    pub fn request(&self) -> &RequestId {
        &self.request
    }

    fn respond(&self, console: &Console, status: StatusCode, title: &str, content: Markup) -> Response {
        self.respond_and_follow(console, (status, None), title, content)
    }

    fn respond_and_follow(
        &self,
        console: &Console,
        (status, follows): (StatusCode, Option<(u32, &str)>),
        title: &str,
        content: Markup,
    ) -> Response {
        let session = &self.visit.session;
        let frame = Frame {
            texts: Texts(self.visit.language),
            title,
            who: None,
            may_act: false,
            tools: (is_for_operators(console) && status != StatusCode::UNAUTHORIZED).then_some(None),
            proof: &console.sessions.form_token(session, ""),
            address: self.back(),
            has_session: session.token.is_some() && status != StatusCode::UNAUTHORIZED,
            follows,
        };
        frame.respond(status, content)
    }

    /// The address of the page with the mark that it was led to; `None` if the address has the mark.
    fn again(&self) -> Option<String> {
        let address = self.back();
        let mark = if address.contains('?') { '&' } else { '?' };
        (!address.ends_with(LED)).then(|| format!("{address}{mark}{LED}"))
    }

    /// The page to go on with after a sign-in or a change of the language.
    pub(super) fn back(&self) -> &str {
        if self.is_get && is_own(&self.visit.address) { &self.visit.address } else { "/console" }
    }
}

/// The message of an error in the language of the page, which counts more than the header. A field has the name that it
/// has in forms.
pub(super) fn message(texts: Texts, error: &Error) -> String {
    match error {
        Error::Invalid(Invalid { field, why }) => {
            let label = texts.find_word("field", field).unwrap_or(field);
            texts.with("error.invalid", &[("field", &label), ("why", why)])
        }
        other => message_in(other, texts.0),
    }
}

/// An error of a service, as a page. Logs it if the page does not explain it.
pub(super) fn page(console: &Console, asked: &Asked, error: &Error) -> Response {
    errors::log(error, &asked.request);
    let body = ErrorBody::new(error, &asked.request);
    let shown = Shown {
        reason: body.reason.to_owned(),
        message: message(Texts(asked.visit.language), error),
        code: body.metadata.get("error_code").cloned().unwrap_or_default(),
    };
    let mut response = shown.page(console, asked, errors::kind(error).http);
    if matches!(error, Error::PermissionDenied(_)) {
        response.extensions_mut().insert(Denied);
    }
    response
}

/// The page of an address that has no page.
pub(super) fn not_found(console: &Console, asked: &Asked) -> Response {
    let texts = Texts(asked.visit.language);
    let message = texts.get("failure.no_page").to_owned();
    Shown { reason: String::new(), message, code: String::new() }.page(console, asked, StatusCode::NOT_FOUND)
}

/// The page in place of an error in JSON. Other responses stay as they are.
pub(super) async fn as_page(console: &Console, asked: Asked, response: Response) -> Response {
    let is_json =
        response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !is_json || response.status().is_success() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let body = to_bytes(body, MAX_REFUSAL).await.unwrap_or_default();
    let shown = serde_json::from_slice::<Refusal>(&body).unwrap_or_default().shown();
    let page = if parts.status == StatusCode::UNAUTHORIZED && console.settings.signs_in {
        sign_in(console, &asked, &shown.message)
    } else {
        shown.page(console, &asked, parts.status)
    };
    let (new, body) = page.into_parts();
    // Facts for outer layers stay, such as the pace of refusals.
    parts.status = new.status;
    parts.extensions.extend(new.extensions);
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.extend(new.headers);
    Response::from_parts(parts, body)
}

/// The form that turns a token into a session. A token that was refused ends its session.
fn sign_in(console: &Console, asked: &Asked, why: &str) -> Response {
    let texts = Texts(asked.visit.language);
    let had_token = asked.visit.session.token.is_some();
    let fresh = console.sessions.begin(console.calendar.now().utc, None);
    let Ok(fresh) = fresh else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let asked = Asked { visit: Visit { session: fresh.clone(), ..asked.visit.clone() }, ..asked.clone() };
    let title = texts.get("sign_in.title");
    let about = match console.settings.port {
        Port::Public => texts.get("sign_in.about"),
        Port::Internal => texts.get("sign_in.about_operators"),
    };
    let content = html! {
        section.narrow.card {
            h1 { (title) }
            @if had_token {
                p.notice.bad role="alert" { (texts.with("sign_in.refused", &[("why", &why)])) }
            }
            p.quiet { (about) }
            form.stack method="post" action="/console/sign-in" {
                (hidden(PROOF, &console.sessions.form_token(&fresh, ""))) (hidden("back", asked.back()))
                label { span { (texts.get("sign_in.token")) }
                    textarea name="token" rows="5" required autocomplete="off" spellcheck="false"
                        maxlength=(MAX_TOKEN) {}
                }
                button.primary { (texts.get("sign_in.submit")) }
            }
        }
    };
    // The same page once more, to which the browser sends its cookies.
    let again = asked.again().filter(|_| asked.visit.may_lack_cookies);
    let follows = again.as_deref().map(|address| (0, address));
    let mut response = asked.respond_and_follow(console, (StatusCode::UNAUTHORIZED, follows), title, content);
    response.extensions_mut().insert(NewSession(fresh));
    response
}

/// A page of another site led here, such as the pay page, so the browser did not send the cookie of a session. It does
/// when this page leads on.
pub(super) fn come_back(console: &Console, asked: &Asked) -> Response {
    let texts = Texts(asked.visit.language);
    let (title, address) = (texts.get("come_back.title"), asked.back());
    let content = html! {
        section.narrow.card {
            h1 { (title) }
            p { a.button href=(address) { (texts.get("come_back.go")) } }
        }
    };
    asked.respond_and_follow(console, (StatusCode::OK, Some((0, address))), title, content)
}

fn is_for_operators(console: &Console) -> bool {
    console.settings.port == Port::Internal
}

/// The form that asks for an account, where nobody proves one. Operators have more ways to one.
pub(super) fn choose_account(console: &Console, asked: &Asked) -> Response {
    if is_for_operators(console) {
        return Redirect::to("/console/find").into_response();
    }
    let texts = Texts(asked.visit.language);
    let title = texts.get("account.choose");
    let content = html! {
        section.narrow.card {
            h1 { (title) }
            form.stack method="get" action="/console" {
                label { span { (texts.get("account.id")) }
                    input name="user_id" required maxlength="36" autocomplete="off";
                }
                button.primary { (texts.get("account.show")) }
            }
        }
    };
    asked.respond(console, StatusCode::OK, title, content)
}

/// A form of another session, of another user, or without a proof.
pub(super) fn stale_form(console: &Console, asked: &Option<Asked>) -> Response {
    let Some(asked) = asked else { return no_visit() };
    let texts = Texts(asked.visit.language);
    let content = html! {
        section.narrow.card {
            h1 { (texts.get("form.stale")) }
            p { (texts.get("form.stale_about")) }
            p { a.button href=(asked.back()) { (texts.get("form.again")) } }
        }
    };
    asked.respond(console, StatusCode::FORBIDDEN, texts.get("form.stale"), content)
}

/// An error in JSON, in either style of the port.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    reason: String,
    message: String,
    metadata: Metadata,
    #[serde(rename = "errorCode")]
    error_code: String,
    #[serde(rename = "errorMessage")]
    error_message: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    error_code: String,
}

impl Refusal {
    fn shown(self) -> Shown {
        let or = |one: String, other| if one.is_empty() { other } else { one };
        Shown {
            reason: self.reason,
            message: or(self.message, self.error_message),
            code: or(self.metadata.error_code, self.error_code),
        }
    }
}

/// An error as its page shows it.
struct Shown {
    reason: String,
    message: String,
    code: String,
}

impl Shown {
    fn page(&self, console: &Console, asked: &Asked, status: StatusCode) -> Response {
        let texts = Texts(asked.visit.language);
        let title = texts.word("failure", status.as_str());
        let title = if title == status.as_str() { texts.get("failure.other") } else { title };
        let content = html! {
            section.narrow.card {
                h1 { (title) }
                p { (self.message) }
                dl.facts {
                    @if !self.code.is_empty() {
                        dt { (texts.get("failure_facts.code")) } dd { (self.code) " " (self.reason) }
                    }
                    dt { (texts.get("failure_facts.request")) } dd { code { (asked.request.as_str()) } }
                }
                p { a.button href="/console" { (texts.get("failure_facts.home")) } }
            }
        };
        asked.respond(console, status, title, content)
    }
}

/// Without random numbers there is no session, and so no form.
pub(super) fn without_session(request: &Request, error: &anyhow::Error) -> Response {
    errors::log(&Error::Internal(error.to_string()), &RequestId::beside(request.extensions()));
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

/// A route that lies outside of the layer of visits, which is a defect.
pub(super) fn no_visit() -> Response {
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}
