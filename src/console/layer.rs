//! The layer around all pages: it opens the session of a request, gives its token to the check of users, makes a page
//! of a refusal, and keeps the cookie current.

use std::time::Instant;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
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
    let begun = Instant::now();
    let now = console.calendar.now().utc;
    let is_secure = is_secure(&console, &request);
    let cookies = console.settings.port.cookies(is_secure);
    let sent_session = has_cookie(request.headers(), cookies.session);
    let sent_cookies = sent_session || has_cookie(request.headers(), cookies.visitor);
    // In a block, so that no reference to the request lives while the answer is made.
    let known = {
        let open = |name| cookie(request.headers(), name).and_then(|cookie| console.sessions.open(cookie, now));
        open(cookies.session)
            .filter(|session| session.token.is_some())
            .or_else(|| open(cookies.visitor).filter(|session| session.token.is_none()))
    };
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut is_changed = known.is_none() && is_get;
    let is_known = known.is_some();
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
        is_secure,
        may_lack_cookies: !sent_cookies && is_get && !request.headers().contains_key(&FETCH_SITE),
        begun,
    };
    request.extensions_mut().insert(visit.clone());
    let asked = failure::Asked::of(&request, visit.clone());
    if is_changed && is_from_other_site(request.headers()) {
        // Without the new cookie, which would take the place of one that the browser has and did not send.
        let mut response = failure::come_back(&console, &asked);
        policy::protect(response.headers_mut());
        return response;
    }
    let mut response = failure::as_page(&console, asked, next.run(request).await).await;
    if !is_get && response.status() == StatusCode::FORBIDDEN {
        // Perhaps a form of another site: it changes no cookie.
        policy::protect(response.headers_mut());
        return response;
    }
    if let Some(NewSession(new)) = response.extensions_mut().remove() {
        if new.token.is_none() && sent_session {
            set_cookie(&mut response, (cookies.session, ""), 0, visit.is_secure);
        }
        (session, is_changed) = (new, true);
    }
    let is_due = is_known && console.sessions.is_due(&session, now);
    if (is_changed || is_due)
        && let Ok(value) = console.sessions.cookie(&session, now)
    {
        let seconds = console.sessions.seconds_left(&session, now);
        let name = if session.token.is_some() { cookies.session } else { cookies.visitor };
        set_cookie(&mut response, (name, &value), seconds, visit.is_secure);
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

/// The cookie of that name. A name that occurs twice has none: a page of a neighbouring host may have set the other.
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = cookies_of(headers, name);
    values.next().filter(|_| values.next().is_none())
}

fn has_cookie(headers: &HeaderMap, name: &str) -> bool {
    cookies_of(headers, name).next().is_some()
}

fn cookies_of<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(known, _)| *known == name).map(|(_, value)| value)
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
    let path = if name.starts_with("__Host-") { "/" } else { "/console" };
    let cookie = format!("{name}={value}; Path={path}; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}
