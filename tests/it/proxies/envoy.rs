//! Envoy itself, with the configurations of examples/envoy.

use super::{Answer, Api, TOKEN, guarded, post, proxy};
use crate::harness::{
    Service,
    private_server::{PrivateServer, free_port, needs_installed},
};

/// `make deps` puts it here.
const ENVOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/python/envoy/_bin/envoy");

/// Ids that a client chose. The service gets one of Envoy, which is a UUID.
const CHOSEN: &[(&str, &str)] = &[("x-trace-id", "chosen"), ("x-request-id", "chosen")];

struct Envoy {
    server: PrivateServer,
    port: u16,
    _api: Api,
}

impl Envoy {
    async fn start(file: &str, service: &Service, token: &str) -> Self {
        needs_installed("envoy");
        assert!(std::path::Path::new(ENVOY).exists(), "run `make deps`: it installs Envoy");
        let (api, port) = (Api::start().await, free_port());
        let value = |port: u16| format!("port_value: {port}");
        let token = format!("BILLING_TOKEN={token}");
        let arguments =
            ["env", &token, ENVOY, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warn", "-c"];
        let changes = [
            ("port_value: 10000", value(port)),
            ("port_value: 9107", value(service.app.grpc_addr.port())),
            ("port_value: 8080", value(api.addr.port())),
        ];
        let changes = changes.each_ref().map(|(from, to)| (*from, to.as_str()));
        let server = proxy("envoy", file, &changes, &arguments, port).await;
        Self { server, port, _api: api }
    }

    async fn get(&self, service: &Service, user: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request =
            service.http.get(format!("http://127.0.0.1:{}/assets/1", self.port)).header("x-user-id", user);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::to(request).await
    }
}

#[tokio::test]
async fn envoy_asks_by_the_rate_limit_protocol() {
    let service = guarded().await;
    let envoy = Envoy::start("envoy/ratelimit.yaml", &service, TOKEN).await;
    let passed = envoy.get(&service, "alice", CHOSEN).await;
    assert_eq!((passed.status, passed.body.as_str()), (200, "/assets/1 of alice as 36"), "{}", envoy.server.log());
    assert!(passed.header("ratelimit").starts_with(r#""free-quota";r=2;t="#), "{:?}", passed.headers);
    assert!(passed.header("ratelimit-policy").starts_with(r#""free-quota";q=2;w="#), "{:?}", passed.headers);
    let nobody = Answer::to(service.http.get(format!("http://127.0.0.1:{}/assets/1", envoy.port))).await;
    assert_eq!((nobody.status, nobody.body.as_str()), (401, ""), "a request without a user is not checked");
    post(&service, "deduct", r#"{"user_id":"alice","service_name":"asset","count":2,"trace_id":"t"}"#).await;
    let refused = envoy.get(&service, "alice", &[]).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "10001"), "{}", refused.body);
    assert_eq!(refused.header("x-billing-reason"), "insufficient balance");
    assert_eq!(refused.header("content-type"), "application/json");
    assert!(refused.header("ratelimit").starts_with(r#""free-quota";r=0;t="#), "{:?}", refused.headers);
    assert_eq!(envoy.get(&service, "bob", &[]).await.status, 200, "bob has units left");
}

#[tokio::test]
async fn envoy_asks_by_ext_authz_and_keeps_the_status() {
    let service = guarded().await;
    let envoy = Envoy::start("envoy/ext_authz.yaml", &service, TOKEN).await;
    // The authorization and the billing headers of a client do not reach the service.
    let forged = [
        CHOSEN,
        &[("authorization", "Bearer of-the-client"), ("x-billing-user-id", "bob"), ("x-billing-service", "none")],
    ]
    .concat();
    let passed = envoy.get(&service, "alice", &forged).await;
    assert_eq!((passed.status, passed.body.as_str()), (200, "/assets/1 of alice as 36"), "{}", envoy.server.log());
    assert!(passed.header("ratelimit").starts_with(r#""free-quota";r=2;t="#), "{:?}", passed.headers);
    post(&service, "deduct", r#"{"user_id":"alice","service_name":"asset","count":2,"trace_id":"t"}"#).await;
    let refused = envoy.get(&service, "alice", &forged).await;
    assert_eq!((refused.status, refused.code().as_str()), (402, "10001"), "{}", refused.body);
    assert_eq!(refused.header("x-billing-reason"), "insufficient balance");
    assert_eq!(envoy.get(&service, "bob", &[]).await.status, 200, "bob has units left");
    post(&service, "users/bob/status", r#"{"status":"FROZEN","reason":"r"}"#).await;
    let frozen = envoy.get(&service, "bob", &[]).await;
    assert_eq!((frozen.status, frozen.code().as_str()), (403, "10015"), "{}", frozen.body);
}

#[tokio::test]
async fn envoy_lets_nothing_pass_while_the_service_does_not_answer() {
    for file in ["envoy/ratelimit.yaml", "envoy/ext_authz.yaml"] {
        let service = guarded().await;
        let envoy = Envoy::start(file, &service, TOKEN).await;
        let http = service.http.clone();
        assert_eq!(envoy.get(&service, "alice", &[]).await.status, 200, "{file}");
        service.app.stop().await;
        let url = format!("http://127.0.0.1:{}/assets/1", envoy.port);
        let answer = Answer::to(http.get(url).header("x-user-id", "alice")).await;
        assert_eq!(answer.status, 503, "{file}: {}", answer.body);
    }
}
