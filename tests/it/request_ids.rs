//! The id of a request: each of its log lines names its rpc, the trace id of its charge and its
//! request id. An internal error names the same request id in its reply.

use billing_service::service::proto::{
    BatchDeductQuotaRequest, CheckQuotaRequest, DeductQuotaRequest, GetTransactionRequest, MeterStreamRequest,
    RechargeCallbackRequest, ReserveQuotaRequest, billing_internal_service_client::BillingInternalServiceClient,
    meter_stream_request::Event,
};
use reqwest::header::HeaderMap;
use rstest::rstest;
use serde_json::{Value, json};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, charge, http_client,
    process::{Log, ServerProcess},
    traced,
};

/// A server on a database without the table of transactions.
struct Broken {
    _database: Database,
    _server: ServerProcess,
    log: Log,
    /// The URLs of both ports.
    http: String,
    grpc: String,
    internal: BillingInternalServiceClient<Channel>,
}

impl Broken {
    async fn start(backend: Backend) -> Self {
        let database = Database::create(backend).await;
        let (server, mut log) =
            ServerProcess::start_logged(&database.config_file(&[("server.http.internal_routes", "true")]));
        let serving = log.line(|line| line["fields"]["message"] == "serving");
        let http = format!("http://{}", serving["fields"]["http_addr"].as_str().unwrap());
        let internal = BillingInternalServiceClient::connect(server.grpc.clone()).await.unwrap();
        database.execute("DROP TABLE billing_transaction").await;
        let grpc = server.grpc.clone();
        Self { _database: database, _server: server, log, http, grpc, internal }
    }

    /// The facts of the request in the log line of an internal error.
    fn internal_error(&mut self, request_id: &str) -> Value {
        let line = self
            .log
            .line(|line| line["fields"]["message"] == "internal error" && line["fields"]["request_id"] == request_id);
        assert_eq!(line["level"], "ERROR");
        assert!(line["fields"]["why"].as_str().unwrap().contains("billing_transaction"), "{line}");
        facts(&line)
    }
}

async fn post(port: &str, path: &str, headers: &[(&'static str, &str)], body: Value) -> reqwest::Response {
    let headers: HeaderMap =
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let request = http_client().post(format!("{port}{path}")).headers(headers);
    request.body(body.to_string()).send().await.unwrap()
}

fn id_of(response: &reqwest::Response) -> String {
    response.headers()["x-request-id"].to_str().unwrap().to_owned()
}

fn with_id<M>(id: &str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-request-id", id.parse().unwrap());
    request
}

/// The request id in the details of an internal error. It equals the one in the metadata.
fn request_id_of(status: &Status) -> String {
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    let details = status.get_error_details();
    let id = details.error_info().unwrap().metadata["request_id"].clone();
    assert_eq!(status.metadata().get("x-request-id").unwrap(), id.as_str());
    id
}

/// The members of a line that name its request, without the id of its W3C trace, which each line has.
fn facts(line: &Value) -> Value {
    assert_eq!(line["trace_id"].as_str().unwrap().len(), 32, "{line}");
    let names = ["rpc", "charge_id", "request_id"];
    names.into_iter().filter_map(|name| Some((name.to_owned(), line.get(name)?.clone()))).collect()
}

fn named(rpc: &str, charge_id: &str, request_id: &str) -> Value {
    json!({"rpc": rpc, "charge_id": charge_id, "request_id": request_id})
}

#[rstest]
#[tokio::test]
async fn an_internal_error_over_grpc_and_its_log_line_name_the_same_request(#[values(MySql, Sqlite)] on: Backend) {
    let mut broken = Broken::start(on).await;
    // Each request has another user, because an account with a failure is quarantined.
    let deduct = |trace: &str| traced(trace, charge(&format!("u-{trace}"), "asset", 1));

    let failed = broken.internal.deduct_quota(with_id("r-1", deduct("t-1"))).await.unwrap_err();
    assert_eq!(request_id_of(&failed), "r-1");
    assert_eq!(broken.internal_error("r-1"), named("DeductQuota", "t-1", "r-1"));

    let mut by_header = with_id("r-2", charge("u-2", "asset", 1));
    by_header.metadata_mut().insert("x-trace-id", "t-2".parse().unwrap());
    let failed = broken.internal.deduct_quota(by_header).await.unwrap_err();
    assert_eq!(request_id_of(&failed), "r-2");
    assert_eq!(broken.internal_error("r-2"), named("DeductQuota", "t-2", "r-2"));

    let get = GetTransactionRequest { user_id: "u".into(), trace_id: "t-3".into() };
    let failed = broken.internal.get_transaction(with_id("r-3", get)).await.unwrap_err();
    assert_eq!(request_id_of(&failed), "r-3");
    assert_eq!(broken.internal_error("r-3"), named("GetTransaction", "t-3", "r-3"));

    // Without an id of the caller, the server makes one.
    let failed = broken.internal.deduct_quota(deduct("t-4")).await.unwrap_err();
    let made = request_id_of(&failed);
    assert_eq!(made.len(), 32, "{made}");
    assert_eq!(broken.internal_error(&made), named("DeductQuota", "t-4", &made));
}

#[rstest]
#[tokio::test]
async fn internal_errors_of_streams_and_of_items_name_their_request(#[values(MySql, Sqlite)] on: Backend) {
    let mut broken = Broken::start(on).await;
    let open = ReserveQuotaRequest {
        user_id: "u".into(),
        service_name: "asset".into(),
        count: 1,
        trace_id: "t-1".into(),
        ..Default::default()
    };
    let opens = tokio_stream::iter([MeterStreamRequest { event: Some(Event::Open(open)) }]);
    let replies = broken.internal.meter_stream(with_id("r-1", opens)).await.unwrap();
    assert_eq!(replies.metadata().get("x-request-id").unwrap(), "r-1");
    let failed = replies.into_inner().message().await.unwrap_err();
    let details = failed.get_error_details();
    assert_eq!(details.error_info().unwrap().metadata["request_id"], "r-1");
    assert_eq!(broken.internal_error("r-1"), named("MeterStream", "t-1", "r-1"));

    let items = vec![traced("t-2", charge("u-2", "asset", 1))];
    let reply = broken.internal.batch_deduct_quota(with_id("r-2", BatchDeductQuotaRequest { items })).await.unwrap();
    assert_eq!(reply.metadata().get("x-request-id").unwrap(), "r-2");
    assert_eq!(reply.into_inner().results[0].error.as_ref().unwrap().error_code, "10099");
    assert_eq!(broken.internal_error("r-2"), json!({"rpc": "BatchDeductQuota", "request_id": "r-2"}));
}

#[rstest]
#[tokio::test]
async fn an_internal_error_over_rest_and_its_log_line_name_the_same_request(#[values(MySql, Sqlite)] on: Backend) {
    let mut broken = Broken::start(on).await;
    // Each request has another user, because an account with a failure is quarantined.
    let body = |user: &str, more: Value| {
        let mut body = json!({"user_id": user, "service_name": "asset", "count": 1});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let deduct = "/internal/v1/billing/deduct";
    for (number, port) in [broken.grpc.clone(), broken.http.clone()].into_iter().enumerate() {
        let cases = [
            (json!({"trace_id": format!("snake-{number}")}), None, format!("snake-{number}")),
            (json!({"traceId": format!("camel-{number}")}), None, format!("camel-{number}")),
            (json!({}), Some(format!("header-{number}")), format!("header-{number}")),
        ];
        for (more, header, trace_id) in cases {
            let request_id = format!("request-{trace_id}");
            let mut headers = vec![("x-request-id", request_id.as_str())];
            headers.extend(header.as_deref().map(|header| ("x-trace-id", header)));
            let response = post(&port, deduct, &headers, body(&trace_id, more)).await;
            assert_eq!((response.status().as_u16(), id_of(&response)), (500, request_id.clone()));
            let reply: Value = response.json().await.unwrap();
            assert_eq!(
                reply["metadata"],
                json!({"error_code": "10099", "request_id": request_id, "trace_id": trace_id})
            );
            let logged = broken.internal_error(&request_id);
            assert_eq!(logged, named("DeductQuota", &trace_id, &request_id));
        }
    }
    let get = format!("{}/internal/v1/billing/transactions/u/t-9", broken.http);
    let response = reqwest::get(get).await.unwrap();
    let made = id_of(&response);
    let reply: Value = response.json().await.unwrap();
    assert_eq!(reply["metadata"]["request_id"], made);
    assert_eq!(broken.internal_error(&made), named("GetTransaction", "t-9", &made));
}

/// The log line of a refused callback is an example of the other log lines of a request.
#[tokio::test]
async fn other_log_lines_of_a_request_name_it_too() {
    let mut broken = Broken::start(Sqlite).await;
    let mut refused = |id: &str| {
        let of_request = |line: &Value| line["request_id"] == id;
        facts(&broken.log.line(|line| line["fields"]["message"] == "payment callback refused" && of_request(line)))
    };
    let mut request = with_id("r-1", RechargeCallbackRequest::default());
    request.metadata_mut().insert("x-trace-id", "t-1".parse().unwrap());
    broken.internal.recharge_callback(request).await.unwrap_err();
    assert_eq!(refused("r-1"), named("RechargeCallback", "t-1", "r-1"));

    let headers = [("x-request-id", "r-2"), ("x-trace-id", "t-2")];
    for port in [&broken.grpc, &broken.http] {
        let response = post(port, "/internal/v1/billing/callback", &headers, json!({})).await;
        assert_eq!(response.status(), 400);
    }
    assert_eq!(refused("r-2"), named("RechargeCallback", "t-2", "r-2"));
}

#[rstest]
#[tokio::test]
async fn every_reply_names_its_request(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let check =
        || CheckQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: 1, ..Default::default() };
    let reply = service.internal.clone().check_quota(with_id("r-1", check())).await.unwrap();
    assert_eq!(reply.metadata().get("x-request-id").unwrap(), "r-1");
    let refused = DeductQuotaRequest::default();
    let refused = service.internal.clone().deduct_quota(with_id("r-2", refused)).await.unwrap_err();
    assert_eq!(refused.metadata().get("x-request-id").unwrap(), "r-2");
    assert!(!refused.get_error_details().error_info().unwrap().metadata.contains_key("request_id"));

    for (addr, path, status) in [
        (service.app.http_addr, "/api/v1/billing/account?user_id=u", 200),
        (service.app.grpc_addr, "/internal/v1/billing/transactions/u/t", 404),
        (service.app.http_addr, "/nowhere", 404),
        (service.app.http_addr, "/api/v1/billing/recharge", 405),
        (service.app.grpc_addr, "/health", 200),
    ] {
        let get = |id: &str| service.http.get(format!("http://{addr}{path}")).header("x-request-id", id).send();
        let response = get("r 3~").await.unwrap();
        assert_eq!((response.status().as_u16(), id_of(&response).as_str()), (status, "r 3~"), "{path}");
        for invalid in ["", &"x".repeat(129)] {
            let response = get(invalid).await.unwrap();
            assert_eq!(id_of(&response).len(), 32, "{path}");
        }
    }
}
