//! The readers of a page are those of the access table, with each kind of proof.

use reqwest::Method;
use serde_json::json;

use super::{PAGES, history, sign, signing_in, token, visitor::Visitor};
use crate::{
    access::{issuer, pages_of_the_access_table, sha256},
    harness::{Service, Sqlite, payments::Paying},
};

#[tokio::test]
async fn each_page_of_the_access_table_admits_its_readers_and_no_other() {
    let service = Service::start_with(Sqlite, &signing_in()).await;
    let own = issuer::claims("u");
    let (reads, supports) = (json!("billing:read"), json!("billing:support"));
    // For each proof: the status of reads of the accounts u and v.
    let proofs = [
        ("none", None, [401, 401]),
        ("garbage", Some("x.y.z".to_owned()), [401, 401]),
        ("expired", Some(sign(&issuer::with(&own, "exp", json!(issuer::now() - 120)))), [401, 401]),
        ("other audience", Some(sign(&issuer::with(&own, "aud", json!("mail")))), [401, 401]),
        ("own", Some(token("u")), [200, 403]),
        ("other user", Some(token("v")), [403, 200]),
        ("reads alone", Some(sign(&issuer::with(&own, "scope", reads))), [200, 403]),
        ("support", Some(sign(&issuer::with(&own, "scope", supports))), [200, 200]),
    ];
    let (mut wrong, mut cells) = (Vec::new(), 0);
    for page in pages_of_the_access_table().into_iter().filter(|page| page.method == Method::GET) {
        let route = &page.path;
        for (who, proof, expected) in &proofs {
            // By the cookie of a session, and by the header.
            let session = Visitor::of(&service);
            let mut header = Visitor::of(&service);
            if let Some(proof) = proof {
                session.sign_in(proof).await;
                header = header.with("authorization", &format!("Bearer {proof}"));
            }
            for (visitor, way) in [(&session, "session"), (&header, "header")] {
                for (user, expected) in ["u", "v"].into_iter().zip(expected) {
                    let path = route.replace("{order_id}", "o").replace("{file}", "f");
                    let status = visitor.get(&format!("{path}?user_id={user}")).await.status;
                    // There is no such order, and no such file.
                    let expected = match (page.public.as_deref(), route.contains('{'), *expected) {
                        // It leads to the first page.
                        _ if route == "/console/" => 303,
                        (None | Some("everyone"), _, _) | (_, true, 200) => 404,
                        (_, _, expected) => expected,
                    };
                    cells += 1;
                    if status != expected {
                        wrong.push(format!("{route} of {user} as {who} by {way}: {status}, not {expected}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(cells > 300, "only {cells} cells");
}

#[tokio::test]
async fn pages_show_nothing_of_another_account() {
    let paying = Paying::start_with(Sqlite, &signing_in()).await;
    let service = &paying.service;
    history(service, "victim").await;
    let order = paying.recharge("victim", 12.0).await.order_id;
    let visitor = Visitor::of(service);
    visitor.sign_in(&token("u")).await;
    for path in PAGES.map(|page| format!("{page}?user_id=victim")) {
        let refused = visitor.get(&path).await;
        assert_eq!(refused.status, 403, "{path}");
        assert!(refused.text().contains("10013 PERMISSION_DENIED"), "{}", refused.html);
    }
    for path in [format!("/console/top-ups/{order}"), format!("/console/top-ups/{order}/pay")] {
        let refused = visitor.get(&path).await;
        assert_eq!(refused.status, 404, "{path}");
        assert!(!refused.html.contains("12.00"), "{}", refused.html);
    }
    let started = visitor.submit("/console/top-up", "/console/top-up", &[("amount", "5"), ("method", "alipay")]).await;
    assert_eq!(started.status, 303);
    let hidden = visitor.get("/console/top-up").await.hidden("/console/top-up");
    let fields = [
        ("amount", "5"),
        ("method", "alipay"),
        ("user_id", "victim"),
        ("form_token", &hidden["form_token"]),
        ("key", "k"),
    ];
    assert_eq!(visitor.post("/console/top-up?user_id=victim", &fields).await.status, 403);
    // A field of the form names no account: the top-up is the user's own.
    assert_eq!(visitor.post("/console/top-up", &fields).await.status, 303);
    assert_eq!(paying.orders("victim").await.len(), 1);
    assert_eq!(paying.orders("u").await.len(), 2);
}

#[tokio::test]
async fn who_may_only_read_sees_no_form_that_changes_something() {
    let paying = Paying::start_with(Sqlite, &signing_in()).await;
    let claims = issuer::with(&issuer::claims("u"), "scope", json!("billing:read"));
    let visitor = Visitor::of(&paying.service);
    let shown = visitor.sign_in(&sign(&claims)).await;
    assert!(shown.text().contains("Your sign-in may read") && !shown.html.contains("href=\"/console/top-up\""));
    let page = visitor.get("/console/top-up").await;
    assert!(!page.html.contains("action=\"/console/top-up"), "{}", page.html);
    assert!(page.text().contains("Your sign-in may read") && !page.text().contains("This account is"));
    let refused = visitor.post("/console/top-up", &[("amount", "5")]).await;
    assert_eq!((refused.status, refused.text().contains("10013")), (403, true));
    // The forms that concern no account are there.
    assert_eq!(visitor.submit("/console", "/console/sign-out", &[]).await.status, 303);
}

#[tokio::test]
async fn only_the_user_sees_the_quotas_of_api_keys() {
    let service = Service::start_with(Sqlite, &signing_in()).await;
    history(&service, "u").await;
    let support = sign(&issuer::with(&issuer::claims("s"), "scope", json!("billing:support")));
    for (proof, sees) in [(token("u"), true), (support, false)] {
        let visitor = Visitor::of(&service).with("authorization", &format!("Bearer {proof}"));
        let shown = visitor.get("/console?user_id=u").await;
        assert_eq!((shown.status, shown.text().contains("Quotas of API keys")), (200, sees));
    }
}

#[tokio::test]
async fn behind_a_gateway_the_page_is_that_of_the_named_user() {
    let hash = sha256("a token of the gateway");
    let callers = format!("[{{name: edge, roles: [gateway], token_sha256: ['{hash}']}}]");
    let changes = [
        ("console.enabled", "true"),
        ("server.http.auth.mode", "gateway"),
        ("server.grpc.auth.callers", callers.as_str()),
    ];
    let service = Service::start_with(Sqlite, &changes).await;
    let named =
        |user: &str| Visitor::of(&service).with("x-gateway-token", "a token of the gateway").with("x-user-id", user);
    let shown = named("alice").get("/console").await;
    assert!(shown.text().contains("Account alice") && !shown.html.contains("sign-out"), "{}", shown.html);
    assert_eq!(named("alice").get("/console?user_id=bob").await.status, 403);
    let forged = Visitor::of(&service).with("x-user-id", "alice").get("/console").await;
    assert_eq!((forged.status, forged.html.contains("/console/sign-in")), (401, false), "{}", forged.html);
}
