//! The rate limit service of Envoy: descriptors, answers and bounds.

use billing_service::service::envoy::{
    Code, Entry, RateLimitDescriptor, RateLimitRequest, RateLimitResponse, Unit,
    rate_limit_service_client::RateLimitServiceClient,
};
use rstest::rstest;
use serde_json::Value;
use tonic::{Code as Grpc, Status, transport::Channel};

use crate::harness::{Backend, MySql, Service, Sqlite, charge, code_of};

fn descriptor(entries: &[(&str, &str)]) -> RateLimitDescriptor {
    let entries = entries.iter().map(|(key, value)| Entry { key: (*key).into(), value: (*value).into() });
    RateLimitDescriptor { entries: entries.collect(), hits_addend: None }
}

/// The descriptor of a call to `asset`.
fn asset(user: &str) -> RateLimitDescriptor {
    descriptor(&[("user_id", user), ("service", "asset")])
}

fn units(units: &str) -> RateLimitDescriptor {
    descriptor(&[("user_id", "u"), ("service", "asset"), ("hits_addend", units)])
}

async fn channel(service: &Service) -> Channel {
    Channel::from_shared(format!("http://{}", service.app.grpc_addr)).unwrap().connect().await.unwrap()
}

async fn ask(
    service: &Service,
    hits_addend: u32,
    descriptors: Vec<RateLimitDescriptor>,
) -> Result<RateLimitResponse, Status> {
    let mut client = RateLimitServiceClient::new(channel(service).await);
    let request = RateLimitRequest { domain: "billing".into(), descriptors, hits_addend };
    client.should_rate_limit(request).await.map(|response| response.into_inner())
}

fn codes(response: &RateLimitResponse) -> (Code, Vec<Code>) {
    (response.overall_code(), response.statuses.iter().map(|status| status.code()).collect())
}

fn header<'r>(response: &'r RateLimitResponse, name: &str) -> &'r str {
    let found = response.response_headers_to_add.iter().find(|header| header.key == name);
    found.map_or("", |header| &header.value)
}

#[rstest]
#[tokio::test]
async fn a_descriptor_is_answered_as_check_quota_answers(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-20T04:00:00Z");
    let allowed = ask(&service, 0, vec![asset("u")]).await.unwrap();
    assert_eq!(codes(&allowed), (Code::Ok, vec![Code::Ok]));
    assert_eq!(header(&allowed, "ratelimit-policy"), r#""free-quota";q=1000;w=2592000"#);
    assert!(header(&allowed, "ratelimit").starts_with(r#""free-quota";r=1000;t="#), "{allowed:?}");
    let limit = allowed.statuses[0].current_limit.as_ref().unwrap();
    assert_eq!((limit.requests_per_unit, limit.unit(), limit.name.as_str()), (1000, Unit::Month, "free-quota"));
    assert_eq!(allowed.statuses[0].limit_remaining, 1000);
    assert!(allowed.raw_body.is_empty() && allowed.statuses[0].duration_until_reset.is_some());

    let refused = ask(&service, 1001, vec![asset("u")]).await.unwrap();
    assert_eq!(codes(&refused), (Code::OverLimit, vec![Code::OverLimit]));
    assert_eq!(header(&refused, "x-billing-reason"), "insufficient balance");
    assert_eq!(header(&refused, "x-billing-error-code"), "10001");
    assert_eq!(header(&refused, "content-type"), "application/json");
    let body: Value = serde_json::from_slice(&refused.raw_body).unwrap();
    assert_eq!((&body["code"], &body["reason"]), (&429.into(), &"INSUFFICIENT_BALANCE".into()));

    service.adjust("u", 5.0).await;
    let paid = ask(&service, 1001, vec![asset("u")]).await.unwrap();
    assert_eq!(codes(&paid).0, Code::Ok);
    assert_eq!(header(&paid, "ratelimit"), "", "the balance pays after the free quota: {paid:?}");
    assert_eq!(service.state("u").await, (5.0, [0, 0, 0]), "a check charges nothing");
    let metrics = service.metrics().await;
    let counted = r#"billing_requests_total{code="OK",protocol="grpc",rpc="ShouldRateLimit"} 3"#;
    assert!(metrics.contains(counted), "{metrics}");
    let counted = r#"billing_quota_check_total{result="insufficient_balance",service="asset"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn one_refused_descriptor_refuses_the_request() {
    let service = Service::start(Sqlite).await;
    service.use_up_free_quota("poor", "asset").await;
    let foreign = descriptor(&[("remote_address", "192.0.2.1")]);
    let response = ask(&service, 0, vec![asset("rich"), asset("poor"), foreign]).await.unwrap();
    assert_eq!(codes(&response), (Code::OverLimit, vec![Code::Ok, Code::OverLimit, Code::Ok]));
    assert!(header(&response, "ratelimit").starts_with(r#""free-quota";r=0;"#), "{response:?}");
    assert_eq!(header(&response, "x-billing-error-code"), "10001");
}

#[tokio::test]
async fn the_units_are_those_of_the_entry_then_of_the_descriptor_then_of_the_request() {
    let service = Service::start(Sqlite).await;
    let own = |hits_addend| RateLimitDescriptor { hits_addend: Some(hits_addend), ..asset("u") };
    let entry = RateLimitDescriptor { hits_addend: Some(1001), ..units("1000") };
    for (of_request, descriptor, code) in [
        (1000, asset("u"), Code::Ok),
        (1001, asset("u"), Code::OverLimit),
        (1, own(1001), Code::OverLimit),
        (1001, own(1000), Code::Ok),
        (1001, own(0), Code::Ok),
        (1001, entry, Code::Ok),
        (1, units("1001"), Code::OverLimit),
    ] {
        let shown = format!("{of_request} {descriptor:?}");
        assert_eq!(codes(&ask(&service, of_request, vec![descriptor]).await.unwrap()).0, code, "{shown}");
    }
}

#[tokio::test]
async fn a_cap_and_a_quota_of_the_api_key_refuse() {
    let service = Service::start(Sqlite).await;
    service.clock.set("2026-11-20T04:00:00Z");
    service.post("/internal/v1/billing/users/u/limits", r#"{"daily_limit":2}"#).await;
    let quota = r#"{"quota_type":"requests","period":"total","limit":0}"#;
    let (status, reply) = service.post("/internal/v1/billing/api-keys/k/quota", quota).await;
    assert_eq!(status, 200, "{reply}");
    service.adjust("u", 5.0).await;
    let capped = ask(&service, 0, vec![asset("u")]).await.unwrap();
    assert!(header(&capped, "ratelimit").starts_with(r#""daily";r=2;t="#), "{capped:?}");
    assert_eq!(header(&capped, "ratelimit-policy"), r#""daily";q=2;w=86400"#);
    let limit = capped.statuses[0].current_limit.as_ref().unwrap();
    assert_eq!((limit.requests_per_unit, limit.unit()), (2, Unit::Day));
    let with_key = descriptor(&[("user_id", "u"), ("service", "asset"), ("api_key", "k")]);
    let refused = ask(&service, 0, vec![with_key]).await.unwrap();
    assert_eq!(header(&refused, "x-billing-reason"), "api key quota");
    assert!(header(&refused, "ratelimit").ends_with(r#", "api-key";r=0"#), "{refused:?}");
    assert_eq!((refused.statuses[0].limit_remaining, &refused.statuses[0].current_limit), (0, &None));
    for _ in 0..2 {
        service.deduct(charge("u", "asset", 1)).await;
    }
    let refused = ask(&service, 0, vec![asset("u")]).await.unwrap();
    assert_eq!(header(&refused, "x-billing-reason"), "daily limit");
    let limit = refused.statuses[0].current_limit.as_ref().unwrap();
    assert_eq!((limit.name.as_str(), refused.statuses[0].limit_remaining), ("daily", 0));
}

#[tokio::test]
async fn a_rate_limit_names_the_time_until_a_retry() {
    let service = Service::start_with(Sqlite, &[("billing.rate_limits.user.hour", "1")]).await;
    assert_eq!(codes(&ask(&service, 0, vec![asset("u")]).await.unwrap()).0, Code::Ok);
    let refused = ask(&service, 0, vec![asset("u")]).await.unwrap();
    assert_eq!(header(&refused, "x-billing-reason"), "rate limit");
    let after: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((3_000..=3_600).contains(&after), "{after}");
    assert!(header(&refused, "ratelimit").contains(&format!(r#""rate";r=0;t={after}"#)), "{refused:?}");
    assert_eq!(refused.statuses[0].current_limit, None, "the free quota did not refuse it");
    let reset = refused.statuses[0].duration_until_reset.as_ref().unwrap();
    assert!((3_000..=3_600).contains(&reset.seconds), "{reset:?}");
}

#[tokio::test]
async fn a_descriptor_of_other_keys_passes_unless_unknown_names_are_refused() {
    let other = || descriptor(&[("user_id", "u"), ("service", "asset"), ("route", "x")]);
    let foreign = || descriptor(&[("userid", "u")]);
    let service = Service::start(Sqlite).await;
    let passed = ask(&service, 0, vec![foreign(), other()]).await.unwrap();
    assert_eq!(codes(&passed), (Code::Ok, vec![Code::Ok, Code::Ok]));
    assert!(header(&passed, "ratelimit").starts_with(r#""free-quota";r=1000"#), "the checked one: {passed:?}");
    let metrics = service.metrics().await;
    let counted = r#"billing_unknown_fields_total{route="ShouldRateLimit"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
    let strict = Service::start_with(Sqlite, &[("server.http.unknown_fields", "reject")]).await;
    for refused in [foreign(), other()] {
        let status = ask(&strict, 0, vec![refused]).await.unwrap_err();
        assert_eq!(code_of(&status), (Grpc::InvalidArgument, "10009".into()));
        assert!(status.message().starts_with("descriptors."), "{status:?}");
    }
    assert_eq!(codes(&ask(&strict, 0, vec![asset("u")]).await.unwrap()).0, Code::Ok);
}

#[tokio::test]
async fn an_incomplete_or_large_request_is_refused_by_its_field() {
    let service = Service::start(Sqlite).await;
    let many: Vec<_> = (0..33).map(|number| (format!("k{number}"), "v")).collect();
    let many: Vec<_> = many.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let unknown = descriptor(&[("user_id", "u"), ("service", "none")]);
    for (descriptors, code, begin) in [
        (vec![], "10009", "descriptors:"),
        (vec![asset("u"); 17], "10009", "descriptors:"),
        (vec![descriptor(&many)], "10009", "entries:"),
        (vec![descriptor(&[("user_id", "u")])], "10009", "service_name:"),
        (vec![descriptor(&[("service", "asset")])], "10009", "user_id:"),
        (vec![descriptor(&[("api_key", "k")])], "10009", "user_id:"),
        (vec![descriptor(&[("user_id", "u"), ("user_id", "v")])], "10009", "user_id:"),
        (vec![units("0")], "10009", "count:"),
        (vec![units("-1")], "10009", "count:"),
        (vec![units("many")], "10009", "count:"),
        (vec![RateLimitDescriptor { hits_addend: Some(u64::MAX), ..asset("u") }], "10009", "count:"),
        (vec![unknown], "10008", ""),
        (vec![descriptor(&[("user_id", &"u".repeat(20_000))])], "10009", "body:"),
    ] {
        let shown = format!("{descriptors:?}");
        let status = ask(&service, 0, descriptors).await.unwrap_err();
        assert_eq!(code_of(&status), (Grpc::InvalidArgument, code.into()), "{status:?} to {shown:.200}");
        assert!(status.message().starts_with(begin), "{status:?} to {shown:.200}");
    }
    assert_eq!(codes(&ask(&service, 0, vec![asset("u"); 16]).await.unwrap()).1.len(), 16);
}
