//! The limits of load: a peer or a user does not harm others.

use std::net::SocketAddr;

use billing_service::service::proto::{
    BatchDeductQuotaRequest, DeductQuotaRequest, MeterStreamReply, MeterStreamRequest, RechargeRequest,
    ReserveQuotaRequest,
};
use futures_util::{
    future::{Either, join_all, select, select_all},
    stream,
};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic::{Code, codec::CompressionEncoding};

use crate::{
    access::sha256,
    harness::{Database, MySql, Service, Sqlite, charge, code_of, payments::Paying, wait::until},
};

/// A request whose body stops after `sent` of `length` bytes.
async fn begin(addr: SocketAddr, path: &str, length: usize, sent: usize) -> TcpStream {
    begin_with(addr, path, "", length, sent).await
}

/// As [`begin`], with further lines of the head.
pub async fn begin_with(addr: SocketAddr, path: &str, lines: &str, length: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: b\r\n{lines}content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; sent]).await.unwrap();
    stream
}

/// The answer to a request that may be incomplete.
async fn answer(mut stream: TcpStream) -> String {
    let mut answer = vec![0; 4_096];
    let read = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

/// Requests with so many bytes of a body, which do not end.
async fn unfinished_bodies(service: &Service, number: usize, bytes: usize) -> Vec<TcpStream> {
    let mut unfinished = Vec::new();
    for _ in 0..number {
        unfinished.push(begin(service.app.grpc_addr, BATCH, 100_000, bytes).await);
    }
    unfinished
}

const BATCH: &str = "/internal/v1/billing/deduct/batch";

#[tokio::test]
async fn bodies_share_their_memory_and_it_comes_back() {
    let limits = ("server.limits", "{body_bytes: 100000, body_memory: 400000}");
    let service = Service::start_with(Sqlite, &[limits]).await;
    let _other = unfinished_bodies(&service, 2, 90_000).await;
    let whole = json!({"items": [{"user_id": "u", "service_name": "asset", "count": 1}]}).to_string();
    let one = Box::pin(answer(begin(service.app.grpc_addr, BATCH, 100_000, 90_000).await));
    let other = Box::pin(answer(begin(service.app.grpc_addr, BATCH, 100_000, 90_000).await));
    // Both are unfinished, and there is no room for both beside the other two.
    let (Either::Left((refused, unfinished)) | Either::Right((refused, unfinished))) = select(one, other).await;
    assert!(refused.contains("503") && refused.contains("10014"), "{refused}");
    // Small bodies are admitted, and the refused body takes no memory.
    assert_eq!(service.post(BATCH, whole).await.0, 200);
    drop(unfinished);
    until("the memory is free", async || {
        let third = begin(service.app.grpc_addr, BATCH, 100_000, 100_000).await;
        // The body is admitted, and is not JSON.
        answer(third).await.contains("10009")
    })
    .await;
}

/// A small body may be large once it is inflated, or once it is a message.
#[tokio::test]
async fn the_content_and_the_message_of_a_body_take_memory_too() {
    let service = Service::start_with(Sqlite, &[("server.limits", "{body_bytes: 100000, body_memory: 400000}")]).await;
    let items = |number: usize| format!("{{\"items\":[{}]}}", vec!["{}"; number].join(","));
    let padded = gzip(format!("{}{}", items(1), " ".repeat(90_000)).as_bytes());
    let url = format!("http://{}{BATCH}", service.app.grpc_addr);
    let inflated = async || {
        let request = service.http.post(&url).header("content-encoding", "gzip").body(padded.clone());
        request.send().await.unwrap().status().as_u16()
    };
    let over_grpc = async |items: usize| {
        let mut client = service.internal.clone().send_compressed(CompressionEncoding::Gzip);
        let batch = BatchDeductQuotaRequest { items: vec![DeductQuotaRequest::default(); items] };
        client.batch_deduct_quota(batch).await.map_err(|status| code_of(&status).1)
    };
    // Items that are not valid have an error each.
    assert_eq!((inflated().await, service.post(BATCH, items(500)).await.0), (200, 200));
    assert!(over_grpc(500).await.is_ok());
    // Items that need more than all the memory.
    assert_eq!(over_grpc(900).await.unwrap_err(), "10014");
    let unfinished = unfinished_bodies(&service, 3, 85_000).await;
    until("they have arrived", async || inflated().await == 503).await;
    assert_eq!(service.post(BATCH, items(500)).await.0, 503);
    assert_eq!(over_grpc(500).await.unwrap_err(), "10014");
    assert_eq!(service.post(BATCH, items(5)).await.0, 200, "a small one has room");
    drop(unfinished);
    until("the memory is free", async || inflated().await == 200).await;
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, content).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn the_size_limit_of_a_body_depends_on_its_route() {
    let service = Service::start(Sqlite).await;
    let padded = |bytes: usize| format!("{{\"user_id\":\"u\"{}}}", " ".repeat(bytes));
    let refused = async |addr: SocketAddr, path: &str, bytes| {
        let request = service.http.post(format!("http://{addr}{path}")).body(padded(bytes));
        let reply: Value = request.send().await.unwrap().json().await.unwrap();
        reply["metadata"]["field"] == "body"
    };
    for (addr, path, most) in [
        (service.app.http_addr, "/api/v1/billing/recharge", 16 * 1024),
        (service.app.grpc_addr, "/internal/v1/billing/callback", 16 * 1024),
        (service.app.grpc_addr, "/internal/v1/billing/deduct", 64 * 1024),
        (service.app.grpc_addr, BATCH, 1024 * 1024),
    ] {
        assert!(!refused(addr, path, most - 100).await, "{path}");
        assert!(refused(addr, path, most + 100).await, "{path}");
    }
}

/// Another thread parses a large body, with the same answers.
#[tokio::test]
async fn a_large_body_is_read_like_a_small_one() {
    let service = Service::start_with(Sqlite, &[("server.http.unknown_fields", "reject")]).await;
    let items: Vec<Value> = (0..900)
        .map(|number| json!({"user_id": "u", "service_name": "asset", "count": 1, "trace_id": format!("t-{number}")}))
        .collect();
    let (status, reply) = service.post(BATCH, json!({"items": items}).to_string()).await;
    assert_eq!((status, reply["results"].as_array().unwrap().len()), (200, 900));
    assert_eq!(service.state("u").await.1[2], 900);
    let with = |change: Value| {
        let mut items = items.clone();
        items[899] = change;
        json!({"items": items}).to_string()
    };
    let (_, wrong) = service.post(BATCH, with(json!({"user_id": "u", "count": "x"}))).await;
    assert_eq!(wrong["metadata"]["field"], "items[899].count");
    let (_, unknown) = service.post(BATCH, with(json!({"user": {"deep": [[[{}]]]}}))).await;
    assert_eq!(unknown["metadata"]["field"], "items[899].user");
}

/// A payment-service that accepts connections and does not answer.
async fn silent_payment_service(limits: &str) -> (Service, TcpListener) {
    silent_payment_service_with(limits, &[]).await
}

async fn silent_payment_service_with(limits: &str, changes: &[(&str, &str)]) -> (Service, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("'{}'", listener.local_addr().unwrap());
    let own = [
        ("payment_service.grpc_addr", address.as_str()),
        ("payment_service.timeout", "60s"),
        ("payment_service.callback_auth", "none"),
        ("server.limits", limits),
    ];
    let changes = [&own[..], changes].concat();
    (Service::start_on(Database::create(Sqlite).await, &changes).await, listener)
}

fn top_up(user: &str) -> RechargeRequest {
    RechargeRequest { user_id: user.into(), amount: 5.0, payment_method: "alipay".into(), ..Default::default() }
}

/// Starts a top-up that waits for payment-service. Returns when its order exists.
async fn begin_top_up(service: &Service, user: &str) {
    let mut client = service.public.clone();
    let request = top_up(user);
    tokio::spawn(async move { client.recharge(request).await });
    let orders = format!("/api/v1/billing/recharges?user_id={user}");
    until("the order exists", async || service.get(&orders).await.1["total"] == 1).await;
}

#[tokio::test]
async fn top_ups_in_flight_are_limited_for_each_user_and_in_total() {
    let (service, _silent) = silent_payment_service("{recharges: 2, recharges_per_user: 1}").await;
    begin_top_up(&service, "u").await;
    let overloaded = (Code::Unavailable, "10014".to_owned());
    let second = service.public.clone().recharge(top_up("u")).await.unwrap_err();
    assert_eq!(code_of(&second), overloaded);
    assert!(second.message().contains("of this user"), "{}", second.message());
    begin_top_up(&service, "v").await;
    let third = service.public.clone().recharge(top_up("w")).await.unwrap_err();
    assert_eq!(code_of(&third), overloaded);
    assert!(third.message().contains("of all users"), "{}", third.message());
    // Charges go on.
    service.deduct(charge("u", "asset", 1)).await;
}

#[tokio::test]
async fn top_ups_in_flight_are_limited_for_each_address() {
    let (service, _silent) = silent_payment_service("{recharges_per_address: 1}").await;
    begin_top_up(&service, "u").await;
    let second = service.public.clone().recharge(top_up("v")).await.unwrap_err();
    assert!(second.message().contains("from this address"), "{}", second.message());
}

/// The address of a gateway that names the user is nobody's own.
#[tokio::test]
async fn top_ups_through_a_gateway_are_not_those_of_one_address() {
    let callers = format!("[{{name: one, roles: [gateway], token_sha256: ['{}']}}]", sha256(&token("one")));
    let changes = [("server.http.auth.mode", "gateway"), ("server.grpc.auth.callers", callers.as_str())];
    let (service, _silent) = silent_payment_service_with("{recharges_per_address: 1}", &changes).await;
    for user in ["u", "v"] {
        let request = |request: reqwest::RequestBuilder| {
            request.header("x-user-id", user).header("x-gateway-token", token("one"))
        };
        let url = |path: &str| format!("http://{}/api/v1/billing/{path}", service.app.http_addr);
        let body = r#"{"amount":5,"payment_method":"alipay"}"#;
        tokio::spawn(request(service.http.post(url("recharge")).body(body)).send());
        until("the order is there", async || {
            let orders = request(service.http.get(url("recharges"))).send().await.unwrap();
            orders.json::<Value>().await.unwrap()["total"] == 1
        })
        .await;
    }
}

#[tokio::test]
async fn unpaid_top_ups_of_a_user_are_limited_until_one_is_paid() {
    let paying = Paying::start_with(Sqlite, &[("server.limits.open_recharges", "2")]).await;
    let first = paying.recharge("u", 5.0).await;
    paying.recharge("u", 5.0).await;
    let third = paying.try_recharge("u", 5.0).await.unwrap_err();
    assert_eq!(code_of(&third), (Code::ResourceExhausted, "10002".into()));
    assert!(third.message().contains("open top-ups"), "{}", third.message());
    paying.recharge("v", 5.0).await;
    paying.press(&first.payment_url, "SUCCESS").await;
    paying.until_order_is(&first.order_id, "success").await;
    paying.recharge("u", 5.0).await;
}

/// A silent stream does not count against the limit of streams, and ends soon.
#[tokio::test]
async fn a_stream_counts_against_the_limit_after_its_open() {
    let service = Service::start_with(Sqlite, &[("server.limits.streams", "1")]).await;
    let (_keep, messages) = tokio::sync::mpsc::channel::<MeterStreamRequest>(1);
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut silent = service.internal.clone().meter_stream(messages).await.unwrap().into_inner();
    let open = billing_service::service::proto::ReserveQuotaRequest {
        user_id: "u".into(),
        service_name: "asset".into(),
        count: 1,
        trace_id: "t".into(),
        ..Default::default()
    };
    let event = Some(billing_service::service::proto::meter_stream_request::Event::Open(open));
    let first = tokio_stream::once(MeterStreamRequest { event });
    let mut metered = service.internal.clone().meter_stream(first).await.unwrap().into_inner();
    assert!(metered.message().await.unwrap().is_some(), "the stream was not opened");
    assert_eq!(code_of(&silent.message().await.unwrap_err()), (Code::InvalidArgument, "10009".into()));
}

#[tokio::test]
async fn many_scrapes_of_metrics_cost_as_much_as_one() {
    let service = Service::start_with(Sqlite, &[("server.limits.metrics_interval", "1h")]).await;
    let first = service.metrics().await;
    service.deduct(charge("u", "asset", 1)).await;
    assert_eq!(service.metrics().await, first);
}

/// Requests without a proof do not use up the permits and the memory of others.
#[tokio::test]
async fn unfinished_callbacks_take_neither_permits_nor_memory_of_others() {
    let limits = ("server.limits", "{requests: 1, body_bytes: 20000, body_memory: 80000}");
    let changes = [limits, ("payment_service.grpc_addr", "127.0.0.1:9"), ("payment_service.callback_auth", "confirm")];
    let service = Service::start_with(Sqlite, &changes).await;
    let callback = "/internal/v1/billing/callback";
    let mut unfinished = Vec::new();
    for _ in 0..4 {
        unfinished.push(begin(service.app.grpc_addr, callback, 16_000, 15_000).await);
    }
    // The only permit, and most of the memory.
    let body = json!({"items": [{"user_id": "u", "service_name": "asset", "count": 1}]}).to_string();
    assert_eq!(service.post(BATCH, body + &" ".repeat(15_000)).await.0, 200);
    drop(unfinished);
}

#[tokio::test]
async fn requests_that_need_no_proof_are_shared_between_addresses() {
    let limits = ("server.limits.open_requests_per_address", "1");
    let changes = [limits, ("payment_service.grpc_addr", "127.0.0.1:9"), ("payment_service.callback_auth", "confirm")];
    let service = Service::start_with(Sqlite, &changes).await;
    let callback = "/internal/v1/billing/callback";
    let unfinished = begin(service.app.grpc_addr, callback, 1_000, 10).await;
    let body = r#"{"order_id":"o","status":"FAILED"}"#;
    until("its permit is taken", async || {
        let (status, refused) = service.post(callback, body).await;
        status == 503 && refused["message"].as_str().unwrap().contains("requests of this address")
    })
    .await;
    drop(unfinished);
    until("its permit is free", async || service.post(callback, body).await.0 == 404).await;
}

/// One read of an account runs, one waits, and the next one is refused. Reads of another account go on.
#[rstest]
#[tokio::test]
async fn reads_of_an_account_take_turns(
    #[values(
        "records",
        "stats/today",
        "stats/month",
        "stats/summary",
        "usage",
        "recharges",
        "adjustments",
        "statement",
        "statement.csv"
    )]
    path: &str,
) {
    let limits = ("server.limits", "{reads_per_account: 1, waiting_reads_per_account: 1}");
    let service = Service::start_with(MySql, &[limits]).await;
    let mut gate = service.database.mysql().await;
    let lock = "LOCK TABLES billing_record WRITE, usage_daily WRITE, recharge_order WRITE, balance_adjustment WRITE";
    sqlx::raw_sql(lock).execute(&mut gate).await.unwrap();
    let addr = service.app.http_addr;
    let read = |user: &str| {
        let url = format!("http://{addr}/api/v1/billing/{path}?user_id={user}");
        let request = service.http.get(url).send();
        tokio::spawn(async move {
            let reply = request.await.unwrap();
            (reply.status().as_u16(), reply.text().await.unwrap())
        })
    };
    let reads = [read("u"), read("u"), read("u"), read("v")];
    let (refused, _, others) = select_all(reads).await;
    let (status, refused) = refused.unwrap();
    assert!(status == 503 && refused.contains("reads of this account"), "{refused}");
    sqlx::raw_sql("UNLOCK TABLES").execute(&mut gate).await.unwrap();
    for other in join_all(others).await {
        let (status, reply) = other.unwrap();
        assert_eq!(status, 200, "{reply}");
    }
}

/// One caller leaves half of the permits to the others.
#[tokio::test]
async fn a_caller_has_a_share_of_the_permits_and_of_the_streams() {
    let caller = |name: &str| format!("{{name: {name}, roles: [gateway], token_sha256: ['{}']}}", sha256(&token(name)));
    let callers = format!("[{}, {}]", caller("one"), caller("other"));
    let limits = ("server.limits", "{requests: 2, streams: 2}");
    let service = Service::start_with(Sqlite, &[limits, ("server.grpc.auth.callers", &callers)]).await;
    let check = "/internal/v1/billing/check";
    let proof = format!("authorization: Bearer {}\r\n", token("one"));
    let unfinished = begin_with(service.app.grpc_addr, check, &proof, 1_000, 10).await;
    let post = async |name: &str| {
        let url = format!("http://{}{check}", service.app.grpc_addr);
        let body = r#"{"user_id":"u","service_name":"asset","count":1}"#;
        service.http.post(url).bearer_auth(token(name)).body(body).send().await.unwrap().status().as_u16()
    };
    until("its permit is taken", async || post("one").await == 503).await;
    assert_eq!(post("other").await, 200);
    drop(unfinished);
    until("its permit is free", async || post("one").await == 200).await;

    let (_first, first) = metered(&service, "one", "t-1").await;
    first.unwrap();
    let refused = metered(&service, "one", "t-2").await.1.unwrap_err();
    assert!(refused.message().contains("of this caller"), "{}", refused.message());
    metered(&service, "other", "t-3").await.1.unwrap();
}

/// Streams without an open end together, so many of them would be a burst.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_has_a_bounded_number_of_streams_that_do_not_open() {
    let service = Service::start_with(Sqlite, &[("server.limits.unopened_streams_per_caller", "3")]).await;
    let silent = async || {
        let replies = service.internal.clone().meter_stream(stream::pending()).await.unwrap();
        replies.into_inner().message().await.unwrap_err()
    };
    assert_eq!(code_of(&silent().await).1, "10009");
    // On a slow machine the first ones end before the last one begins.
    until("one is refused", async || {
        let ended = join_all((0..5).map(|_| silent())).await;
        let refused = ended.iter().filter(|status| code_of(status).1 == "10014").count();
        assert!(refused <= 2, "three may wait for their open");
        refused > 0
    })
    .await;
}

fn token(caller: &str) -> String {
    format!("the-token-of-caller-{caller}")
}

/// Opens a stream, which stays open as long as the sender is there.
async fn metered(
    service: &Service,
    caller: &str,
    trace_id: &str,
) -> (tokio::sync::mpsc::Sender<MeterStreamRequest>, Result<MeterStreamReply, tonic::Status>) {
    let open = ReserveQuotaRequest {
        user_id: "u".into(),
        service_name: "asset".into(),
        count: 1,
        trace_id: trace_id.into(),
        ..Default::default()
    };
    let event = Some(billing_service::service::proto::meter_stream_request::Event::Open(open));
    let (sender, messages) = tokio::sync::mpsc::channel(1);
    sender.send(MeterStreamRequest { event }).await.unwrap();
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(messages));
    request.metadata_mut().insert("authorization", format!("Bearer {}", token(caller)).parse().unwrap());
    let mut replies = service.internal.clone().meter_stream(request).await.unwrap().into_inner();
    let first = replies.message().await.map(Option::unwrap);
    // The replies go on being taken.
    tokio::spawn(async move { while let Ok(Some(_)) = replies.message().await {} });
    (sender, first)
}

/// tonic takes any method, and reads the body of a GET too.
#[tokio::test]
async fn a_grpc_call_must_be_a_post() {
    let service = Service::start(Sqlite).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for path in [
        "/billing.v1.BillingInternalService/RechargeCallback",
        "/billing.v1.BillingInternalService/DeductQuota",
        "/grpc.health.v1.Health/Check",
    ] {
        let request = client.get(format!("http://{}{path}", service.app.grpc_addr));
        let answer = request.header("content-type", "application/grpc").body(vec![0; 5]).send().await.unwrap();
        assert_eq!(answer.status(), 405, "{path}");
    }
}

/// A service whose user `u` has more records than the buffers of a connection take.
pub async fn with_many_records(stall: &str) -> Service {
    let limits = [("server.limits.exports_per_user", "1"), ("server.limits.export_stall", stall)];
    let service = Service::start_with(Sqlite, &limits).await;
    let records = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 60000) \
        INSERT INTO billing_record \
        (billing_record_id, user_id, service_name, type, amount, count, trace_id, created_at, usage_date) \
        SELECT printf('%036d', n), 'u', 'asset', 2, 0, 1, printf('%0120d', n), 1764000000000000 + n, '2025-11-24' \
        FROM numbers";
    service.database.execute(records).await;
    service
}

async fn begin_export(service: &Service, user: &str) -> reqwest::Response {
    let url = format!("http://{}/api/v1/billing/records.csv?user_id={user}", service.app.http_addr);
    service.http.get(url).send().await.unwrap()
}

#[tokio::test]
async fn an_unread_export_only_counts_against_the_limit_of_its_user() {
    let service = with_many_records("30s").await;
    let unread = begin_export(&service, "u").await;
    assert_eq!(unread.status(), 200);
    let refused = begin_export(&service, "u").await;
    assert_eq!(refused.status(), 503);
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(refused["metadata"]["error_code"], "10014");
    assert_eq!(begin_export(&service, "v").await.status(), 200);
}

#[tokio::test]
async fn an_unread_export_ends_and_its_file_is_incomplete() {
    let service = with_many_records("100ms").await;
    let unread = begin_export(&service, "u").await;
    assert_eq!(unread.status(), 200);
    until("another export is admitted", async || begin_export(&service, "u").await.status() == 200).await;
    assert!(unread.bytes().await.is_err(), "a file that breaks off looks complete");
}
