//! The documents against the routes that exist.

use std::collections::BTreeSet;

use billing_service::service::routes::AUTHORIZE_PATH;
use reqwest::Method;
use serde_json::Value;

use super::{documents, operations};
use crate::{
    access::routes_of_the_access_table,
    harness::{Service, Sqlite},
};

/// The access table has every route; a test holds it against the sources.
#[tokio::test]
async fn the_documents_have_the_routes_of_the_access_table() {
    for internal_routes in ["false", "true"] {
        let service = Service::start_with(Sqlite, &[("server.http.internal_routes", internal_routes)]).await;
        let [public, internal] = documents(&service).await.map(|(_, document)| routes(&document));
        // OpenAPI has no word for a path of any length. The entry of the path without it describes it.
        let is_longer = |path: &str| path.starts_with(&format!("{AUTHORIZE_PATH}/"));
        // Pages of the console are for people.
        let mut all = routes_of_the_access_table();
        all.retain(|(_, path)| !is_longer(path) && !path.starts_with("/console"));
        let expected = |begin: &'static str, is_metrics_served: bool| {
            let of_port = move |(_, path): &&(Method, String)| {
                path.starts_with(begin) || !path.contains("/v1/") && (is_metrics_served || path != "/metrics")
            };
            all.iter().filter(of_port).map(shown).collect::<BTreeSet<_>>()
        };
        let mut of_public = expected("/api/", false);
        let of_internal = expected("/internal/", true);
        if internal_routes == "true" {
            let is_shared = |route: &&String| !route.ends_with("/metrics") && !route.ends_with(AUTHORIZE_PATH);
            of_public.extend(of_internal.iter().filter(is_shared).cloned());
        }
        assert_eq!(public, of_public);
        assert_eq!(internal, of_internal);
    }
}

fn shown((method, path): &(Method, String)) -> String {
    format!("{method} {path}")
}

fn routes(document: &Value) -> BTreeSet<String> {
    operations(document).into_iter().map(|(method, path, _)| format!("{method} {path}")).collect()
}

/// A method that a document does not have is refused by its status.
#[tokio::test]
async fn the_ports_serve_the_methods_of_the_documents_and_no_other() {
    let service = Service::start(Sqlite).await;
    for (addr, document) in documents(&service).await {
        let known = routes(&document);
        for (path, entries) in document["paths"].as_object().unwrap() {
            let takes_any = entries["get"]["x-any-method"] == true;
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
                let url = format!("http://{addr}{}", path.replace(['{', '}'], ""));
                let status = service.http.request(method.clone(), url).send().await.unwrap().status();
                let is_known = takes_any || known.contains(&format!("{method} {path}"));
                assert_eq!(status != 405, is_known, "{method} {path}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn the_page_of_a_port_names_each_route_and_loads_nothing() {
    let service = Service::start(Sqlite).await;
    for (addr, document) in documents(&service).await {
        let response = service.http.get(format!("http://{addr}/docs")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        let page = response.text().await.unwrap();
        for (_, path, entry) in operations(&document) {
            assert!(page.contains(&format!("<section id=\"{}\">", entry["operationId"].as_str().unwrap())), "{path}");
        }
        assert!(!page.contains("<pre>"), "a keyboard cannot scroll an example");
        for loading in ["<script", "<link", "<img", " src=", "url(", "@import", "http://", "https://"] {
            let text = page.split("<pre").map(|part| part.split("</pre>").last().unwrap()).collect::<String>();
            assert!(!text.contains(loading), "{addr} has {loading}");
        }
    }
}

#[tokio::test]
async fn the_document_comes_compressed_to_readers_that_ask() {
    let service = Service::start(Sqlite).await;
    let url = format!("http://{}/openapi.json", service.app.http_addr);
    let plain = service.http.get(&url).send().await.unwrap();
    assert_eq!(plain.headers().get("content-encoding"), None);
    let plain = plain.bytes().await.unwrap();
    let gzip = service.http.get(&url).header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(gzip.headers()["content-encoding"], "gzip");
    let gzip = gzip.bytes().await.unwrap();
    assert!(gzip.len() * 4 < plain.len(), "{} {}", gzip.len(), plain.len());
    let mut inflated = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&gzip[..]), &mut inflated).unwrap();
    assert_eq!(inflated, plain);
}

/// The proofs that a document asks for are those of the configuration.
#[tokio::test]
async fn the_security_of_a_document_is_that_of_the_configuration() {
    let open = Service::start(Sqlite).await;
    for (_, document) in documents(&open).await {
        assert_eq!(document["components"]["securitySchemes"], serde_json::json!({}));
        assert!(operations(&document).iter().all(|(_, _, entry)| entry["security"] == serde_json::json!([])));
    }
    let hash = crate::access::sha256("a token of a caller");
    let callers = format!("[{{name: edge, roles: [gateway], token_sha256: ['{hash}']}}]");
    let jwt = "{issuer: i, audience: a, algorithms: [HS256], secret: 'a secret of at least thirty-two bytes'}";
    let changes = [
        ("server.grpc.auth.callers", callers.as_str()),
        ("server.grpc.auth.protect_operations", "true"),
        ("server.http.auth.mode", "jwt"),
        ("server.http.auth.jwt", jwt),
    ];
    let service = Service::start_with(Sqlite, &changes).await;
    let url = |addr| format!("http://{addr}/openapi.json");
    let public: Value = service.http.get(url(service.app.http_addr)).send().await.unwrap().json().await.unwrap();
    assert_eq!(public["paths"]["/api/v1/billing/account"]["get"]["security"][0], serde_json::json!({"user_token": []}));
    let parameter = &public["paths"]["/api/v1/billing/account"]["get"]["parameters"][0];
    assert_eq!((&parameter["name"], &parameter["required"]), (&"user_id".into(), &false.into()), "the token names it");
    let refused = service.http.get(url(service.app.grpc_addr)).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let internal =
        service.http.get(url(service.app.grpc_addr)).bearer_auth("a token of a caller").send().await.unwrap();
    let internal: Value = internal.json().await.unwrap();
    let check = &internal["paths"]["/internal/v1/billing/check"]["post"];
    assert_eq!(check["security"][0], serde_json::json!({"caller_token": []}));
    assert_eq!(check["x-roles"], serde_json::json!(["gateway", "admin"]));
    assert_eq!(internal["paths"]["/openapi.json"]["get"]["security"][0], serde_json::json!({"caller_token": []}));
}

#[tokio::test]
async fn the_document_of_the_style_of_the_front_end_has_its_names() {
    let service = Service::start_with(Sqlite, &[("server.http.style", "devshare")]).await;
    let [(_, public), (_, internal)] = documents(&service).await;
    let answer = "/paths/~1api~1v1~1billing~1account/get/responses/200/content/application~1json/schema";
    assert!(public.pointer(answer).unwrap()["properties"]["data"].is_object());
    assert!(public["components"]["schemas"]["GetAccountReply"]["properties"]["userId"].is_object());
    assert!(public["components"]["schemas"]["Error"]["properties"]["errorCode"].is_object());
    assert!(internal["components"]["schemas"]["Error"]["properties"]["reason"].is_object());
}
