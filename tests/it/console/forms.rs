//! Forms need the proof of their session and their user, and come from a page of the console.

use reqwest::Method;

use super::{signing_in, token, visitor::Visitor};
use crate::{
    access::pages_of_the_access_table,
    harness::{Service, Sqlite, payments::Paying},
};

#[tokio::test]
async fn no_form_is_taken_without_its_proof() {
    let paying = Paying::start_with(Sqlite, &signing_in()).await;
    let [one, other] = [Visitor::of(&paying.service), Visitor::of(&paying.service)];
    one.sign_in(&token("u")).await;
    other.sign_in(&token("u")).await;
    let page = one.get("/console/top-up").await;
    let (of_account, of_none) = (page.hidden("/console/top-up"), page.hidden("/console/language"));
    let mut checked = 0;
    for page in
        pages_of_the_access_table().into_iter().filter(|page| page.method == Method::POST && page.public.is_some())
    {
        let (path, is_open) = (&page.path, page.public.as_deref() == Some("everyone"));
        let right = if is_open { &of_none["form_token"] } else { &of_account["form_token"] };
        let swapped = if is_open { &of_account["form_token"] } else { &of_none["form_token"] };
        let fields = |proof| {
            [
                ("amount", "5"),
                ("method", "alipay"),
                ("key", "k"),
                ("token", "x"),
                ("language", "zh"),
                ("form_token", proof),
            ]
        };
        for (sender, proof) in [(&one, ""), (&one, "x"), (&one, swapped), (&other, right)] {
            let refused = sender.post(path, &fields(proof)).await;
            assert_eq!(refused.status, 403, "{path} {proof}");
            assert!(refused.text().contains("Nothing was changed"), "{}", refused.html);
        }
        let missing = one.post(path, &[("amount", "5"), ("method", "alipay")]).await;
        assert_eq!(missing.status, 403, "{path}");
        checked += 1;
    }
    assert_eq!(checked, 4);
    assert_eq!(one.cookie("billing_console_language"), None);
    assert_eq!(paying.orders("u").await.len(), 0);
    assert_eq!(one.get("/console").await.status, 200, "nobody was signed out");
    let fields =
        [("amount", "5"), ("method", "alipay"), ("key", "k"), ("form_token", of_account["form_token"].as_str())];
    assert_eq!(one.post("/console/top-up", &fields).await.status, 303);
    assert_eq!(paying.orders("u").await.len(), 1);
}

#[tokio::test]
async fn a_form_of_a_page_of_another_origin_is_refused() {
    let service = Service::start_with(Sqlite, &signing_in()).await;
    let visitor = Visitor::of(&service);
    visitor.sign_in(&token("u")).await;
    let proof = visitor.get("/console").await.hidden("/console/sign-out")["form_token"].clone();
    let url = format!("http://{}/console/sign-out", service.app.http_addr);
    let cookie = format!("billing_console={}", visitor.cookie("billing_console").unwrap());
    for origin in ["https://evil.example", "null"] {
        let sent = service.http.post(&url).header("origin", origin).header("cookie", &cookie);
        let sent = sent.header("content-type", "application/x-www-form-urlencoded").body(format!("form_token={proof}"));
        let refused = sent.send().await.unwrap();
        assert_eq!(refused.status(), 403, "{origin}");
        let page = refused.text().await.unwrap();
        assert!(page.contains("<!DOCTYPE html>") && page.contains("10013 PERMISSION_DENIED"), "{page}");
    }
}

#[tokio::test]
async fn the_language_is_that_of_the_browser_until_the_user_chooses_another() {
    let service = super::open(Sqlite).await;
    let visitor = Visitor::of(&service).with("accept-language", "zh-CN,zh;q=0.9,en;q=0.8");
    let chinese = visitor.get("/console").await;
    assert!(chinese.html.contains("<html lang=\"zh-CN\">") && chinese.text().contains("概览"), "{}", chinese.html);
    let changed = visitor.submit("/console/usage?by=model", "/console/language", &[("language", "en")]).await;
    assert_eq!((changed.status, changed.header("location")), (303, "/console/usage?by=model"));
    let english = visitor.get("/console").await;
    assert!(english.html.contains("<html lang=\"en\">") && english.text().contains("Overview"));
    let away = visitor.submit("/console", "/console/language", &[("language", "zh"), ("back", "//evil.example")]).await;
    assert_eq!(away.header("location"), "/console");
    let refused = visitor.get("/console/records?service=unheard").await;
    assert!(refused.text().contains("请求有误"), "{}", refused.text());
}

#[tokio::test]
async fn a_form_beyond_its_size_is_refused() {
    let service = super::open(Sqlite).await;
    let large = "x".repeat(20_000);
    let refused = Visitor::of(&service).post("/console/language", &[("language", &large)]).await;
    assert_eq!(refused.status, 400, "{}", refused.html);
}
