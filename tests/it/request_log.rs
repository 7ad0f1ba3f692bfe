//! The log line of each request, and of each operator's action.

use billing_service::service::proto::{
    AdjustBalanceRequest, DeductQuotaRequest, InitializeUserRequest,
    billing_internal_service_client::BillingInternalServiceClient,
};
use rstest::rstest;
use serde_json::{Value, json};
use tonic::{Request, transport::Channel};

use crate::harness::{
    Database, Sqlite, charge, http_client,
    process::{Log, ServerProcess},
    traced,
};

const TOKEN: &str = "a-token-of-a-gateway-that-no-line-may-show";

const PORTAL_TOKEN: &str = "a-token-of-a-portal-that-opens-accounts-of-users";

struct Logged {
    database: Database,
    server: ServerProcess,
    log: Log,
    internal: BillingInternalServiceClient<Channel>,
}

impl Logged {
    async fn start(changes: &[(&str, &str)]) -> Self {
        let database = Database::create(Sqlite).await;
        let conf = database.config_file(changes);
        let starting = tokio::task::spawn_blocking(move || ServerProcess::start_logged(&conf));
        let (server, log) = starting.await.unwrap();
        let internal = BillingInternalServiceClient::connect(server.grpc.clone()).await.unwrap();
        Self { database, server, log, internal }
    }

    /// The line about the request with this id.
    fn line(&mut self, request_id: &str) -> Value {
        self.log.line(|line| is_of_request(line) && line["request_id"] == request_id)
    }

    async fn deduct(&mut self, id: &str, call: DeductQuotaRequest) -> Result<(), tonic::Status> {
        self.internal.deduct_quota(named(id, call)).await.map(drop)
    }

    async fn adjust(&mut self, id: &str, amount: f64) -> Result<(), tonic::Status> {
        let adjustment = AdjustBalanceRequest {
            user_id: "user-of-the-test".into(),
            amount,
            reason: "a reason that no line may show".into(),
            adjustment_id: id.into(),
            ..Default::default()
        };
        self.internal.adjust_balance(named(id, adjustment)).await.map(drop)
    }
}

const UNKNOWN: &str = "outcome of an operator's call unknown";

fn is_of_request(line: &Value) -> bool {
    ["request answered", "operator acted", UNKNOWN].iter().any(|message| line["message"] == *message)
}

fn named<M>(id: &str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-request-id", id.parse().unwrap());
    prove(&mut request, TOKEN);
    request
}

fn prove<M>(request: &mut Request<M>, token: &str) {
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
}

fn callers() -> String {
    let hash = |token: &str| -> String {
        use sha2::{Digest, Sha256};
        Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let (edge, portal) = (hash(TOKEN), hash(PORTAL_TOKEN));
    format!(
        "[{{name: edge, roles: [gateway, admin], token_sha256: ['{edge}']}}, \
          {{name: portal, roles: [keys], token_sha256: ['{portal}']}}]"
    )
}

fn call(trace: &str, count: i32) -> DeductQuotaRequest {
    traced(trace, charge("user-of-the-test", "asset", count))
}

#[tokio::test]
async fn each_request_has_one_line_that_names_it_and_no_one_else() {
    let callers = callers();
    let mut logged = Logged::start(&[("server.grpc.auth.callers", &callers), ("log.level", "debug")]).await;
    logged.deduct("r-charge", call("call-1", 10)).await.unwrap();
    logged.deduct("r-replay", call("call-1", 10)).await.unwrap();
    logged.deduct("r-refusal", call("call-2", 100_000)).await.unwrap_err();
    logged.adjust("r-adjust", 12.34).await.unwrap();
    let url = format!("{}/internal/v1/billing/check", logged.server.grpc);
    let check = json!({"user_id": "user-of-the-test", "service_name": "asset", "count": 1});
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = http_client().post(url).header("x-request-id", "r-check").header("traceparent", parent);
    request.bearer_auth(TOKEN).body(check.to_string()).send().await.unwrap().error_for_status().unwrap();
    let unknown = named("r-unknown", call("call-3", 1));
    let mut unknown = unknown;
    unknown.metadata_mut().insert("authorization", "Bearer wrong".parse().unwrap());
    logged.internal.deduct_quota(unknown).await.unwrap_err();

    let charged = logged.line("r-charge");
    assert_eq!((charged["message"].as_str(), charged["level"].as_str()), (Some("request answered"), Some("INFO")));
    for (name, value) in [("rpc", "DeductQuota"), ("charge_id", "call-1"), ("caller", "edge")] {
        assert_eq!(charged[name], value, "{charged}");
    }
    assert!(charged["timestamp"].is_string());
    assert_eq!(charged["trace_id"].as_str().unwrap().len(), 32);
    assert_eq!((&charged["fields"]["code"], &charged["fields"]["protocol"]), (&json!("OK"), &json!("grpc")));
    assert_eq!(charged["fields"]["replayed"], false);
    assert!(charged["fields"]["duration_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(logged.line("r-replay")["fields"]["replayed"], true);
    let refused = logged.line("r-refusal");
    assert_eq!(refused["fields"]["code"], "FAILED_PRECONDITION");
    assert_eq!(refused["fields"]["reason"], "INSUFFICIENT_BALANCE");
    let adjusted = logged.line("r-adjust");
    assert_eq!((&adjusted["message"], &adjusted["rpc"]), (&json!("operator acted"), &json!("AdjustBalance")));
    assert_eq!(adjusted["fields"]["role"], "admin");
    let checked = logged.line("r-check");
    assert_eq!((&checked["rpc"], &checked["fields"]["code"]), (&json!("CheckQuota"), &json!("200")));
    assert_eq!(checked["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    let unknown = logged.line("r-unknown");
    assert_eq!((&unknown["fields"]["code"], unknown.get("caller")), (&json!("UNAUTHENTICATED"), None));
    for id in ["r-charge", "r-replay", "r-refusal", "r-adjust", "r-check", "r-unknown"] {
        assert_eq!(logged.log.count(|line| is_of_request(line) && line["request_id"] == id), 1, "{id}");
    }
    // Above debug, no line names the user, the amount, the reason or the token. The token is in no line at all.
    let shows = |line: &Value, text: &str| line.to_string().contains(text);
    for text in ["user-of-the-test", "12.34", "no line may show"] {
        assert_eq!(logged.log.count(|line| line["level"] != "DEBUG" && shows(line, text)), 0, "{text}");
    }
    assert_eq!(logged.log.count(|line| shows(line, TOKEN)), 0);
}

#[rstest]
#[case("errors", ["r-refused"])]
#[case("slow", ["r-end"])]
#[case("none", ["r-end"])]
#[tokio::test]
async fn the_configuration_chooses_the_requests_with_a_line(#[case] mode: &str, #[case] shown: [&str; 1]) {
    let mut logged = Logged::start(&[("log.requests", mode), ("log.slow_request", "1h")]).await;
    logged.deduct("r-paid", call("call-1", 1)).await.unwrap();
    logged.deduct("r-refused", call("call-2", 100_000)).await.unwrap_err();
    // The action of an operator has its line always, and comes last.
    logged.adjust("r-end", 1.0).await.unwrap();
    logged.line("r-end");
    assert_eq!(logged.log.count(|line| is_of_request(line) && line["request_id"] == shown[0]), 1);
    let all = if shown[0] == "r-end" { 1 } else { 2 };
    assert_eq!(logged.log.count(is_of_request), all);
}

#[tokio::test]
async fn an_operators_call_with_an_unknown_outcome_has_its_line_and_a_machines_has_not() {
    let callers = callers();
    let mut logged = Logged::start(&[("server.grpc.auth.callers", &callers), ("log.requests", "none")]).await;
    let mut opening = named("r-portal", InitializeUserRequest { user_id: "u".into() });
    prove(&mut opening, PORTAL_TOKEN);
    logged.internal.initialize_user(opening).await.unwrap();
    // A refusal has changed nothing.
    logged.adjust("r-refused", -1e6).await.unwrap_err();
    logged.database.execute("DROP TABLE user_balance").await;
    let failed = logged.adjust("r-failed", 1.0).await.unwrap_err();
    assert_eq!(failed.code(), tonic::Code::Internal);
    let line = logged.line("r-failed");
    assert_eq!((line["message"].as_str(), line["fields"]["role"].as_str()), (Some(UNKNOWN), Some("admin")));
    assert_eq!((&line["caller"], &line["fields"]["reason"]), (&json!("edge"), &json!("INTERNAL")));
    assert_eq!(logged.log.count(is_of_request), 1);
}

#[tokio::test]
async fn a_slow_request_has_a_line_of_its_own_choice() {
    let mut logged = Logged::start(&[("log.requests", "slow"), ("log.slow_request", "0.000001s")]).await;
    logged.deduct("r-slow", call("call-1", 1)).await.unwrap();
    assert_eq!(logged.line("r-slow")["fields"]["code"], "OK");
}

#[tokio::test]
async fn lines_beyond_the_bound_are_counted_in_a_later_line() {
    let mut logged = Logged::start(&[("log.requests_per_second", "1")]).await;
    const CALLS: u64 = 200;
    for number in 0..CALLS {
        logged.deduct("r", call(&format!("call-{number}"), 1)).await.unwrap();
    }
    logged.deduct("r-refused", call("refused", 100_000)).await.unwrap_err();
    // A refusal has a budget of its own, which the charges have not used up.
    logged.line("r-refused");
    let is_count = |line: &Value| line["message"] == "lines of requests left out";
    loop {
        // Counts may have come before the line of the refusal.
        let left_out = logged.log.sum(is_count, "left_out");
        let shown = logged.log.count(|line| is_of_request(line) && line["request_id"] == "r") as u64;
        assert!(shown + left_out <= CALLS);
        if left_out > 0 && shown + left_out == CALLS {
            break;
        }
        let before = logged.log.count(is_count);
        logged.log.next(is_count, before);
    }
}
