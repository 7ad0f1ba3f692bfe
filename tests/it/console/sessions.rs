//! Sign-in, sign-out, and the ends of sessions.

use chrono::TimeDelta;
use serde_json::json;

use super::{KEY, sign, signing_in, token, visitor::Visitor};
use crate::{
    access::issuer::{self, claims, with},
    harness::{Database, Service, Sqlite},
};

const SESSION: &str = "billing_console";

#[tokio::test]
async fn a_token_becomes_a_session_that_ends_with_the_sign_out() {
    let service = Service::start_with(Sqlite, &signing_in()).await;
    let visitor = Visitor::of(&service);
    let asked = visitor.get("/console/usage").await;
    assert_eq!(asked.status, 401);
    assert_eq!(asked.hidden("/console/sign-in")["back"], "/console/usage", "the page that was asked for follows");
    let shown = visitor.sign_in(&token("alice")).await;
    assert!(shown.status == 200 && shown.text().contains("Account alice"), "{}", shown.html);
    let cookie = visitor.cookie(SESSION).unwrap();
    assert!(!cookie.contains(&token("alice")));
    assert_eq!(visitor.submit("/console", "/console/sign-out", &[]).await.status, 303);
    assert_eq!(visitor.get("/console").await.status, 401);
}

#[tokio::test]
async fn a_refused_token_begins_no_session_and_the_form_says_so() {
    let service = Service::start_with(Sqlite, &signing_in()).await;
    let expired = sign(&with(&claims("u"), "exp", json!(issuer::now() - 120)));
    for (wrong, why) in [("x.y.z", "not valid"), ("no token", "not valid"), (expired.as_str(), "has expired")] {
        let visitor = Visitor::of(&service);
        let asked = visitor.sign_in(wrong).await;
        assert_eq!(asked.status, 401, "{wrong}");
        assert!(asked.text().contains(why) && asked.html.contains("role=\"alert\""), "{}", asked.text());
        // The session has no token any more, so the next page only asks.
        assert!(!visitor.get("/console").await.html.contains("role=\"alert\""));
    }
}

#[tokio::test]
async fn a_session_ends_when_it_is_idle_when_it_is_old_and_when_its_token_expires() {
    let changes = [signing_in(), vec![("console.idle_timeout", "10m"), ("console.max_age", "1h")]].concat();
    let service = Service::start_with(Sqlite, &changes).await;
    let visitor = Visitor::of(&service);
    let token = sign(&with(&claims("u"), "exp", json!(issuer::now() + 100_000)));
    visitor.sign_in(&token).await;
    for _ in 0..6 {
        service.clock.advance(TimeDelta::minutes(9));
        assert_eq!(visitor.get("/console").await.status, 200, "a page keeps the session");
    }
    service.clock.advance(TimeDelta::minutes(7));
    assert_eq!(visitor.get("/console").await.status, 401, "an hour after the sign-in");
    visitor.sign_in(&token).await;
    service.clock.advance(TimeDelta::minutes(10));
    assert_eq!(visitor.get("/console").await.status, 401, "ten minutes without a page");

    let short = sign(&with(&claims("u"), "exp", json!(issuer::now() - 59)));
    visitor.sign_in(&short).await;
    crate::harness::wait::until("the token has expired", async || visitor.get("/console").await.status == 401).await;
}

#[tokio::test]
async fn a_session_ends_when_the_key_of_its_token_is_gone() {
    use jsonwebtoken::Algorithm;

    let (gone, stays) =
        (issuer::SigningKey::new("gone", Algorithm::ES256), issuer::SigningKey::new("stays", Algorithm::ES256));
    let both = issuer::file(&[gone.clone(), stays.clone()]);
    let rest = issuer::file(std::slice::from_ref(&stays));
    let settings = |file: &tempfile::NamedTempFile| {
        let mut settings = signing_in();
        settings.retain(|(key, _)| !key.ends_with(".secret") && !key.ends_with(".algorithms"));
        let path: &'static str = file.path().to_str().unwrap().to_owned().leak();
        settings.extend([("server.http.auth.jwt.algorithms", "[ES256]"), ("server.http.auth.jwt.jwks_file", path)]);
        settings
    };
    let before = Service::start_with(Sqlite, &settings(&both)).await;
    let (one, other) = (Visitor::of(&before), Visitor::of(&before));
    one.sign_in(&gone.sign(&claims("u"))).await;
    other.sign_in(&stays.sign(&claims("u"))).await;
    let after = Service::start_with(Sqlite, &settings(&rest)).await;
    assert_eq!(one.at(&after).get("/console").await.status, 401);
    assert_eq!(other.at(&after).get("/console").await.status, 200);
}

#[tokio::test]
async fn servers_with_the_same_key_know_each_others_sessions() {
    let (one, two) =
        (Service::start_with(Sqlite, &signing_in()).await, Service::start_with(Sqlite, &signing_in()).await);
    let own_key = |key: &'static str| {
        let mut settings = signing_in();
        settings.retain(|(name, _)| *name != "console.key");
        settings.extend((!key.is_empty()).then_some(("console.key", key)));
        settings
    };
    let stranger = Service::start_with(Sqlite, &own_key("another-key-of-thirty-two-characters")).await;
    let random = Service::start_with(Sqlite, &own_key("")).await;
    let visitor = Visitor::of(&one);
    visitor.sign_in(&token("u")).await;
    assert_eq!(visitor.at(&two).get("/console").await.status, 200);
    assert_eq!(visitor.at(&stranger).get("/console").await.status, 401);
    assert_eq!(visitor.at(&random).get("/console").await.status, 401);
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), format!("{KEY}\n")).unwrap();
    let database = Database::create(Sqlite).await;
    let mut from_file = own_key("");
    from_file.push(("console.key_file", key.path().to_str().unwrap()));
    let from_file = Service::start_on(database, &from_file).await;
    assert_eq!(visitor.at(&from_file).get("/console").await.status, 200);
}

#[tokio::test]
async fn a_page_of_another_site_leads_back_to_the_session() {
    let service = Service::start_with(Sqlite, &signing_in()).await;
    let visitor = Visitor::of(&service);
    visitor.sign_in(&token("u")).await;
    let cookie = visitor.cookie(SESSION);
    let page = visitor.get_from_elsewhere("/console/top-ups/o?wait=1").await;
    assert_eq!(page.attributes("content").last().unwrap(), "0;url=/console/top-ups/o?wait=1", "{}", page.html);
    assert_eq!(visitor.cookie(SESSION), cookie, "the session is not replaced");
    assert_eq!(visitor.get("/console").await.status, 200);
}

#[tokio::test]
async fn a_cookie_is_for_tls_alone_where_the_browser_came_over_tls() {
    let changes = [signing_in(), vec![("server.trusted_proxies", "[127.0.0.1]")]].concat();
    let service = Service::start_with(Sqlite, &changes).await;
    let cookie = async |proto: &str| {
        let url = format!("http://{}/console", service.app.http_addr);
        let reply = service.http.get(url).header("x-forwarded-proto", proto).send().await.unwrap();
        reply.headers()["set-cookie"].to_str().unwrap().to_owned()
    };
    let secure = cookie("https").await;
    assert!(secure.starts_with("__Host-billing_console") && secure.ends_with("; Secure"), "{secure}");
    assert!(secure.contains("; Path=/;"), "{secure}");
    assert!(!cookie("http").await.contains("Secure"));
}

#[tokio::test]
async fn a_cookie_that_a_neighbouring_host_set_beside_the_session_signs_nobody_in() {
    let service = Service::start_with(Sqlite, &signing_in()).await;
    let [own, other] = [Visitor::of(&service), Visitor::of(&service)];
    own.sign_in(&token("u")).await;
    other.sign_in(&token("attacker")).await;
    let [own, other] = [own, other].map(|visitor| format!("{SESSION}={}", visitor.cookie(SESSION).unwrap()));
    let url = format!("http://{}/console", service.app.http_addr);
    for (cookies, status) in [(own.clone(), 200), (format!("{other}; {own}"), 401), (format!("{own}; {other}"), 401)] {
        let reply = service.http.get(&url).header("cookie", cookies).send().await.unwrap();
        assert_eq!(reply.status(), status);
    }
}

#[tokio::test]
async fn a_form_of_another_site_leaves_the_cookies_of_a_visitor() {
    let service = Service::start_with(Sqlite, &signing_in()).await;
    let url = |path: &str| format!("http://{}{path}", service.app.http_addr);
    for path in ["/console/language", "/console/sign-out", "/console/sign-in", "/console/top-up"] {
        let sent = service.http.post(url(path)).header("origin", "https://evil.example");
        let sent =
            sent.header("sec-fetch-site", "cross-site").header("content-type", "application/x-www-form-urlencoded");
        let refused = sent.body("language=zh").send().await.unwrap();
        assert_eq!(refused.status(), 403, "{path}");
        assert!(!refused.headers().contains_key("set-cookie"), "{path}");
    }
    let first = service.http.get(url("/console")).send().await.unwrap();
    let cookies: Vec<_> = first.headers().get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap()).collect();
    assert!(cookies.iter().all(|cookie| !cookie.starts_with("billing_console=")), "{cookies:?}");
}

#[tokio::test]
async fn a_page_without_cookies_and_without_the_name_of_a_site_leads_on_once() {
    let service = Service::start_with(Sqlite, &signing_in()).await;
    let page = Visitor::of(&service).get("/console/top-ups/o?wait=1").await;
    let next = "/console/top-ups/o?wait=1&led=1";
    assert_eq!(page.attributes("content").last().unwrap(), &format!("0;url={next}"), "{}", page.html);
    let again = Visitor::of(&service).get(next).await;
    assert!(again.status == 401 && !again.html.contains("http-equiv"), "{}", again.html);
}
