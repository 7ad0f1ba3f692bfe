//! The layer around all pages: it opens the session of a request, gives its token to the check of users, makes a page
//! of a refusal, and keeps the cookie current.

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{ACCEPT_LANGUAGE, AUTHORIZATION, COOKIE, SET_COOKIE},
};

use super::{
    failure, policy,
    state::Console,
    visit::{NewLanguage, NewSession, Visit},
};
use crate::{service::origin::Peer, texts::Language};

/// The cookie of the chosen language.
const LANGUAGE: &str = "billing_console_language";
/// The time for which a browser remembers the language.
const YEAR_SECONDS: i64 = 365 * 24 * 3_600;
/// Browsers name the site of the page that led to a request.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Adds the layer to `routes`. It lies outside the check of users.
pub fn within_session(routes: Router, console: Console) -> Router {
    routes.route_layer(middleware::from_fn_with_state(console, visit))
}

async fn visit(State(console): State<Console>, mut request: Request, next: Next) -> Response {
    let now = console.calendar.now().utc;
    let known =
        cookie(request.headers(), console.settings.port.cookie()).and_then(|cookie| console.sessions.open(cookie, now));
    let mut is_changed = known.is_none();
    let mut session = match known.map_or_else(|| console.sessions.begin(now, None), Ok) {
        Ok(session) => session,
        Err(error) => return failure::without_session(&request, &error),
    };
    if console.settings.signs_in
        && !request.headers().contains_key(AUTHORIZATION)
        && let Some(bearer) = session.token.as_deref().and_then(bearer)
    {
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    let visit = Visit {
        language: language(request.headers()),
        session: session.clone(),
        address: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        is_secure: is_secure(&console, &request),
    };
    request.extensions_mut().insert(visit.clone());
    let asked = failure::Asked::of(&request, visit.clone());
    if is_changed && request.method() == Method::GET && is_from_other_site(request.headers()) {
        // Without the new cookie, which would take the place of one that the browser has and did not send.
        let mut response = failure::come_back(&console, &asked);
        policy::protect(response.headers_mut());
        return response;
    }
    let mut response = failure::as_page(&console, asked, next.run(request).await).await;
    if let Some(NewSession(new)) = response.extensions_mut().remove() {
        (session, is_changed) = (new, true);
    }
    if (is_changed || console.sessions.is_due(&session, now))
        && let Ok(value) = console.sessions.cookie(&session, now)
    {
        let seconds = console.sessions.seconds_left(&session, now);
        set_cookie(&mut response, (console.settings.port.cookie(), &value), seconds, visit.is_secure);
    }
    if let Some(NewLanguage(language)) = response.extensions_mut().remove() {
        set_cookie(&mut response, (LANGUAGE, language.tag()), YEAR_SECONDS, visit.is_secure);
    }
    policy::protect(response.headers_mut());
    response
}

fn is_from_other_site(headers: &HeaderMap) -> bool {
    headers.get(&FETCH_SITE).is_some_and(|site| site == "cross-site")
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn language(headers: &HeaderMap) -> Language {
    let accepted = || headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let chosen = cookie(headers, LANGUAGE).and_then(Language::of_tag);
    chosen.unwrap_or_else(|| Language::preferred(accepted()))
}

/// The first cookie of that name.
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).next()
}

/// Whether the browser came over TLS, to this port or to a proxy that is trusted.
fn is_secure(console: &Console, request: &Request) -> bool {
    let peer = request.extensions().get::<Peer>().map(|Peer(address)| address.ip());
    let is_https = || request.headers().get(&FORWARDED_PROTO).is_some_and(|value| value == "https");
    console.settings.is_tls || (peer.is_some_and(|peer| console.settings.forwarding.is_trusted(peer)) && is_https())
}

/// Scripts do not see the cookie, and other sites do not cause it to be sent.
fn set_cookie(response: &mut Response, (name, value): (&str, &str), seconds: i64, is_secure: bool) {
    let secure = if is_secure { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; Path=/console; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}
