//! The console over HTTP: its pages against the answers of REST, sign-in, forms, and the rights of its readers.

mod actions;
mod browser;
mod charges;
mod demo;
mod forms;
mod operators;
mod pages;
mod pictures;
mod policy;
mod prices;
mod rights;
mod sessions;
mod strangers;
mod tasks;
mod tools;
mod top_ups;
mod visitor;
mod webhooks;
#[path = "../../../examples/demo.rs"]
#[expect(dead_code, reason = "its main is for the command line")]
mod year;

use billing_service::service::proto::{
    DeductQuotaRequest, GetUsageRequest, SetApiKeyQuotaRequest, SetUserLimitsRequest, Usage,
};

use crate::{
    access::issuer::{AUDIENCE, ISSUER, claims},
    harness::{Backend, Service, charge, wait::until},
};

/// The pages of an account.
const PAGES: [&str; 6] =
    ["/console", "/console/usage", "/console/records", "/console/top-up", "/console/top-ups", "/console/statement"];

const SECRET: &str = "a-secret-of-thirty-two-characters";
const KEY: &str = "a-key-of-at-least-thirty-two-characters";

/// A console whose readers need no proof, with a service that is priced by model.
const OPEN: [(&str, &str); 4] = [
    ("console", "{enabled: true, demo_user: u}"),
    ("billing.model_services", "{llm: calls}"),
    ("billing.models", "{gpt-4.1: {input: 2, output: 8}, tiny: {input: 1, output: 1}}"),
    ("billing.free_quotas", "{passport: 30, payment: 1000, asset: 100, llm: 2}"),
];

async fn open(on: Backend) -> Service {
    Service::start_with(on, &OPEN).await
}

/// The settings of a console whose users sign in.
fn signing_in() -> Vec<(&'static str, &'static str)> {
    let mut settings = OPEN.to_vec();
    settings.retain(|(key, _)| *key != "console");
    settings.extend([
        ("console.enabled", "true"),
        ("console.key", KEY),
        ("server.http.auth.mode", "jwt"),
        ("server.http.auth.jwt.issuer", ISSUER),
        ("server.http.auth.jwt.audience", AUDIENCE),
        ("server.http.auth.jwt.algorithms", "[HS256]"),
        ("server.http.auth.jwt.secret", SECRET),
    ]);
    settings
}

fn sign(claims: &serde_json::Value) -> String {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes()).unwrap()).unwrap()
}

fn token(user: &str) -> String {
    sign(&claims(user))
}

/// Money, charges of each kind, caps and a quota of an API key.
async fn history(service: &Service, user: &str) {
    service.adjust(user, 1_234.5).await;
    service.deduct(DeductQuotaRequest { trace_id: "call-1".into(), ..charge(user, "passport", 40) }).await;
    service.deduct(DeductQuotaRequest { trace_id: "call-2".into(), ..charge(user, "asset", 7) }).await;
    for (index, model) in ["gpt-4.1", "tiny", "gpt-4.1", "gpt-4.1"].into_iter().enumerate() {
        let usage = Usage { input_tokens: 3_001, output_tokens: 777, ..Default::default() };
        let call = DeductQuotaRequest {
            trace_id: format!("llm-{index}"),
            model: model.into(),
            usage: Some(usage),
            api_key_id: "key <1>".into(),
            ..charge(user, "llm", 1)
        };
        service.deduct(call).await;
    }
    let caps = SetUserLimitsRequest { user_id: user.into(), daily_limit: Some(500), monthly_limit: None };
    service.internal.clone().set_user_limits(caps).await.unwrap();
    let quota = SetApiKeyQuotaRequest {
        api_key_id: "key <1>".into(),
        quota_type: "requests".into(),
        period: "month".into(),
        limit: Some(77.0),
    };
    service.internal.clone().set_api_key_quota(quota).await.unwrap();
    summed(service, user).await;
}

/// Waits until the use of a user is summed by model and API key. Pages wait only a little for it.
async fn summed(service: &Service, user: &str) {
    let request = GetUsageRequest { user_id: user.into(), group_by: "model".into(), ..Default::default() };
    until("all use is summed up", async || {
        service.public.clone().get_usage(request.clone()).await.unwrap().into_inner().pending_records == 0
    })
    .await;
}
