//! Streams that break on either side are charged once for the delivered tokens.

use billing_service::service::proto::{
    CommitReservationRequest, ListRecordsRequest, ReleaseReservationRequest, StreamFinish,
    billing_internal_service_client,
};
use rstest::rstest;
use serde_json::json;
use tonic::Code;

use super::{Gateway, MODELS, models_with, stream, usage, words};
use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, code_of,
    process::{CRON, ServerProcess, run},
    wait::until,
};

const SHORT_GRACE: &str = "{progress: 20ms, grace: 50ms, idle_timeout: 20s}";
const LONG_GRACE: &str = "{progress: 20ms, grace: 60s, idle_timeout: 20s}";
const IMPATIENT: &str = "{progress: 20ms, grace: 50ms, idle_timeout: 3s}";

/// A user with 100 yuan, and a stream that has delivered 4 tokens at 1 yuan each and 3 of input.
async fn delivering(on: Backend, streams: &str) -> (Service, Gateway) {
    let service = Service::start_with(on, &models_with("billing.streams", streams)).await;
    service.adjust("u", 100.0).await;
    let (mut gateway, _) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    gateway.deliver(0, 4).await;
    (service, gateway)
}

async fn assert_charged_once(service: &Service) {
    let made = service.ended("s", "COMMITTED").await;
    assert_eq!((made.amount, made.usage), (7.0, usage(3, 0, 4)));
    assert_eq!(service.account("u").await.balance, 93.0);
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test]
async fn a_stream_of_a_lost_gateway_is_charged_for_its_delivered_tokens(#[values(MySql, Sqlite)] on: Backend) {
    let (service, gateway) = delivering(on, SHORT_GRACE).await;
    drop(gateway);
    assert_charged_once(&service).await;
}

#[rstest]
#[tokio::test]
async fn a_stream_that_ends_without_a_finish_gets_an_error_and_is_charged(#[values(MySql, Sqlite)] on: Backend) {
    let (service, gateway) = delivering(on, SHORT_GRACE).await;
    let Gateway { messages, mut replies } = gateway;
    drop(messages);
    let failed = loop {
        match replies.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without an error"),
            Err(status) => break status,
        }
    };
    assert_eq!(code_of(&failed), (Code::InvalidArgument, "10009".into()));
    assert_charged_once(&service).await;
}

#[rstest]
#[tokio::test]
async fn a_silent_stream_gets_an_error_and_is_charged(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut gateway) = delivering(on, IMPATIENT).await;
    assert_eq!(code_of(&gateway.failure().await), (Code::InvalidArgument, "10009".into()));
    assert_charged_once(&service).await;
}

#[rstest]
#[tokio::test]
async fn an_invalid_message_breaks_the_stream(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut gateway) = delivering(on, SHORT_GRACE).await;
    gateway.heartbeat(usage(1, 2, 3)).await;
    let failed = gateway.failure().await;
    assert!(failed.message().contains("usage.cached_input_tokens"), "{failed}");
    assert_charged_once(&service).await;
}

#[rstest]
#[tokio::test]
async fn an_incomplete_character_counts_as_a_replacement_character(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut gateway) = delivering(on, SHORT_GRACE).await;
    gateway.output([b" x", &"额".as_bytes()[..2]].concat()).await;
    gateway.state(|state| state.output_tokens == 5).await;
    drop(gateway);
    let made = service.ended("s", "COMMITTED").await;
    let text = json!({ "text": format!("{} x\u{fffd}", words(4)) }).to_string();
    let seen = service.post("/internal/v1/billing/tokens/count", text).await.1;
    assert_eq!(seen["tokens"], made.usage.unwrap().output_tokens);
    assert!(seen["tokens"].as_i64().unwrap() > 5);
}

#[rstest]
#[tokio::test]
async fn a_stream_that_delivered_nothing_costs_nothing(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let (gateway, _) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    drop(gateway);
    assert_eq!(service.ended("s", "EXPIRED").await.amount, 0.0);
    assert_eq!(service.account("u").await.balance, 100.0);
    service.assert_nothing_is_held("u").await;
}

/// A gateway that always sends a usage, even if the vendor has reported no tokens.
#[rstest]
#[tokio::test]
async fn a_usage_of_no_tokens_delivers_nothing(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let (gateway, _) = Gateway::open(&service, stream("beats", "rag", "dear", (3, 20))).await;
    gateway.heartbeat(usage(0, 0, 0)).await;
    drop(gateway);
    assert_eq!(service.ended("beats", "EXPIRED").await.amount, 0.0);
    // A finish confirms the call, so its input is charged.
    let (mut gateway, _) = Gateway::open(&service, stream("finishes", "rag", "dear", (3, 20))).await;
    let finish = StreamFinish { usage: usage(0, 0, 0), ..Default::default() };
    assert_eq!(gateway.finish(finish).await.unwrap().amount, 3.0);
    let (mut gateway, _) = Gateway::open(&service, stream("empty", "rag", "dear", (0, 20))).await;
    let refused = gateway.finish(StreamFinish::default()).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()));
    assert_eq!(service.ended("empty", "EXPIRED").await.amount, 0.0);
    service.assert_nothing_is_held("u").await;
}

/// The vendor's count of input tokens survives the break of a stream.
#[rstest]
#[tokio::test]
async fn a_reopened_stream_keeps_the_usage_of_the_vendor(#[values(MySql, Sqlite)] on: Backend) {
    let (service, gateway) = delivering(on, LONG_GRACE).await;
    gateway.heartbeat(usage(30, 10, 0)).await;
    until("the usage is durable", async || service.metered("s").await.usage == usage(30, 10, 4)).await;
    drop(gateway);
    let (mut gateway, opened) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    assert!(opened.replayed);
    assert_eq!(gateway.deliver(0, 6).await.cost, 36.0);
    assert_eq!(gateway.finish(StreamFinish::default()).await.unwrap().amount, 36.0);
    assert_eq!(service.metered("s").await.usage, usage(30, 10, 6));
    service.assert_nothing_is_held("u").await;
}

/// Rate limits apply to new streams, and not to streams that are reopened.
#[rstest]
#[tokio::test]
async fn a_stream_is_reopened_above_the_rate_limit(#[values(MySql, Sqlite)] on: Backend) {
    let rates = ("billing.rate_limits", "{user: {hour: 1}}");
    let service = Service::start_with(on, &[models_with("billing.streams", LONG_GRACE), vec![rates]].concat()).await;
    service.adjust("u", 100.0).await;
    let (mut old, _) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    old.deliver(0, 4).await;
    let refused = Gateway::try_open(service.internal.clone(), stream("new", "rag", "dear", (3, 20))).await;
    assert_eq!(code_of(&refused.err().unwrap()).1, "10002");
    let (mut again, opened) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    assert!(opened.replayed);
    again.deliver(0, 4).await;
    again.finish(StreamFinish::default()).await.unwrap();
    let refused = Gateway::try_open(service.internal.clone(), stream("s", "rag", "dear", (3, 20))).await;
    assert_eq!(code_of(&refused.err().unwrap()).1, "10002", "an ended stream counts as a new one");
    assert_charged_once(&service).await;
}

#[rstest]
#[tokio::test]
async fn a_reopened_stream_is_charged_once(#[values(MySql, Sqlite)] on: Backend) {
    let (service, gateway) = delivering(on, LONG_GRACE).await;
    drop(gateway);
    until("the delivered tokens are durable", async || service.metered("s").await.usage == usage(3, 0, 4)).await;

    let (mut gateway, opened) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    assert!(opened.replayed && opened.status == "PENDING", "{opened:?}");
    // The reported usage stays, while the output is sent again.
    gateway.output(words(2)).await;
    assert_eq!(gateway.state(|_| true).await.output_tokens, 4);
    gateway.output(words(4)).await;
    gateway.state(|state| state.output_tokens == 6).await;
    assert_eq!(gateway.finish(StreamFinish::default()).await.unwrap().amount, 9.0);
    assert_eq!(service.account("u").await.balance, 91.0);
    service.assert_nothing_is_held("u").await;
}

/// The gateway has lost a connection, and the service has not noticed yet.
#[rstest]
#[tokio::test]
async fn a_newer_stream_replaces_an_older_one(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut old) = delivering(on, SHORT_GRACE).await;
    let (mut new, opened) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    assert!(opened.replayed);
    new.deliver_durably(0, 6).await;
    old.output(words(1)).await;
    assert_eq!(code_of(&old.failure().await), (Code::FailedPrecondition, "10011".into()));
    assert_eq!(service.metered("s").await.status, "PENDING", "the older stream does not end the reservation");
    new.deliver(6, 1).await;
    drop(new);
    assert_eq!(service.ended("s", "COMMITTED").await.usage, usage(3, 0, 7));
    service.assert_nothing_is_held("u").await;
}

/// The last messages of the older stream do not count.
#[rstest]
#[tokio::test]
async fn a_replaced_stream_cannot_finish(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut old) = delivering(on, SHORT_GRACE).await;
    until("the usage is durable", async || service.metered("s").await.usage == usage(3, 0, 4)).await;
    let (mut new, _) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    let refused = old.finish(StreamFinish { usage: usage(3, 0, 4), ..Default::default() }).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::FailedPrecondition, "10011".into()));
    new.deliver(0, 6).await;
    assert_eq!(new.finish(StreamFinish::default()).await.unwrap().amount, 9.0);
    assert_eq!(service.account("u").await.balance, 91.0);
    service.assert_nothing_is_held("u").await;
}

/// Not all output is text, so the reported usage stays, whether the stream has ended or not.
#[rstest]
#[case::while_it_waits(LONG_GRACE, "PENDING")]
#[case::when_it_is_charged(SHORT_GRACE, "COMMITTED")]
#[tokio::test]
async fn a_text_does_not_replace_the_usage_of_the_vendor(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] streams: &str,
    #[case] status: &str,
) {
    let (service, gateway) = delivering(on, streams).await;
    gateway.heartbeat(usage(3, 0, 40)).await;
    until("the usage is durable", async || service.metered("s").await.usage == usage(3, 0, 40)).await;
    drop(gateway);
    until("the stream is broken", async || service.metered("s").await.status == status).await;
    let commit = CommitReservationRequest {
        user_id: "u".into(),
        trace_id: "s".into(),
        output_text: Some(words(5)),
        ..Default::default()
    };
    for _ in 0..2 {
        let charged = service.internal.clone().commit_reservation(commit.clone()).await.unwrap().into_inner();
        assert_eq!((charged.amount, charged.balance), (43.0, 57.0));
    }
    assert_eq!(service.metered("s").await.usage, usage(3, 0, 40));
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test]
async fn another_stream_with_the_same_id_is_a_conflict(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut gateway) = delivering(on, SHORT_GRACE).await;
    let other = stream("s", "rag", "dear", (3, 21));
    let refused = Gateway::try_open(service.internal.clone(), other).await.err().unwrap();
    assert_eq!(code_of(&refused), (Code::AlreadyExists, "10007".into()));
    gateway.finish(StreamFinish::default()).await.unwrap();
    let refused = Gateway::try_open(service.internal.clone(), stream("s", "rag", "dear", (3, 20))).await.err().unwrap();
    assert_eq!(code_of(&refused), (Code::FailedPrecondition, "10011".into()));
    assert_charged_once(&service).await;
}

#[rstest]
#[tokio::test]
async fn a_stream_ends_if_its_reservation_is_committed_or_released(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut gateway) = delivering(on, SHORT_GRACE).await;
    let (user_id, trace_id) = ("u".to_owned(), "s".to_owned());
    let commit =
        CommitReservationRequest { user_id: user_id.clone(), trace_id, usage: usage(3, 0, 4), ..Default::default() };
    service.internal.clone().commit_reservation(commit).await.unwrap();
    gateway.output(words(1)).await;
    assert_eq!(code_of(&gateway.failure().await), (Code::FailedPrecondition, "10011".into()));
    assert_charged_once(&service).await;

    let (mut gateway, _) = Gateway::open(&service, stream("other", "rag", "dear", (3, 20))).await;
    let release = ReleaseReservationRequest { user_id, trace_id: "other".into() };
    service.internal.clone().release_reservation(release).await.unwrap();
    gateway.output(words(1)).await;
    assert_eq!(code_of(&gateway.failure().await), (Code::FailedPrecondition, "10011".into()));
    assert_eq!(service.metered("other").await.status, "RELEASED");
    assert_charged_once(&service).await;
}

#[rstest]
#[tokio::test]
async fn a_finish_with_an_invalid_usage_is_charged_as_counted(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut gateway) = delivering(on, SHORT_GRACE).await;
    let finish = StreamFinish { usage: usage(0, 0, i32::MAX), ..Default::default() };
    let refused = gateway.finish(finish).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()));
    assert_charged_once(&service).await;
}

/// The gateway comes back after the grace period with the final count.
#[rstest]
#[tokio::test]
async fn a_commit_after_a_break_charges_the_rest(#[values(MySql, Sqlite)] on: Backend) {
    let (service, gateway) = delivering(on, SHORT_GRACE).await;
    drop(gateway);
    let broken = service.ended("s", "COMMITTED").await;
    assert_eq!(broken.amount, 7.0);
    let late = |tokens| CommitReservationRequest {
        user_id: "u".into(),
        trace_id: "s".into(),
        usage: usage(3, 0, tokens),
        ..Default::default()
    };
    let mut client = service.internal.clone();
    let charged = client.commit_reservation(late(9)).await.unwrap().into_inner();
    assert_eq!((charged.amount, charged.balance, charged.replayed), (12.0, 88.0, true));
    assert_eq!(client.commit_reservation(late(9)).await.unwrap().into_inner(), charged);
    let made = service.metered("s").await;
    assert_eq!((made.amount, made.usage, made.record_id), (12.0, usage(3, 0, 9), broken.record_id));
    let request = ListRecordsRequest { user_id: "u".into(), ..Default::default() };
    let mut amounts: Vec<f64> = service.records(request).await.records.iter().map(|record| record.amount).collect();
    amounts.sort_by(f64::total_cmp);
    assert_eq!(amounts, [5.0, 7.0]);
    // The charge of the rest is final.
    let refused = client.commit_reservation(late(10)).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::AlreadyExists, "10007".into()));
    service.assert_nothing_is_held("u").await;
}

/// The charge for the tokens up to the break stays.
#[rstest]
#[tokio::test]
async fn a_commit_of_less_after_a_break_keeps_the_charge(#[values(MySql, Sqlite)] on: Backend) {
    let (service, gateway) = delivering(on, SHORT_GRACE).await;
    drop(gateway);
    service.ended("s", "COMMITTED").await;
    let late = |tokens| CommitReservationRequest {
        user_id: "u".into(),
        trace_id: "s".into(),
        usage: usage(3, 0, tokens),
        ..Default::default()
    };
    for _ in 0..2 {
        let charged = service.internal.clone().commit_reservation(late(2)).await.unwrap().into_inner();
        assert_eq!((charged.amount, charged.balance, charged.replayed), (7.0, 93.0, true));
    }
    assert_charged_once(&service).await;
    // A commit without a charge is not final.
    let charged = service.internal.clone().commit_reservation(late(5)).await.unwrap().into_inner();
    assert_eq!((charged.amount, charged.balance), (8.0, 92.0));
    service.assert_nothing_is_held("u").await;
}

/// A text has no count of input tokens, but the vendor has reported one before.
#[rstest]
#[tokio::test]
async fn the_text_of_a_broken_stream_is_charged_with_the_reported_input(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut gateway) = delivering(on, SHORT_GRACE).await;
    gateway.heartbeat(usage(30, 10, 0)).await;
    gateway.state(|state| state.cost == 34.0).await;
    drop(gateway);
    assert_eq!(service.ended("s", "COMMITTED").await.amount, 34.0);
    let late = CommitReservationRequest {
        user_id: "u".into(),
        trace_id: "s".into(),
        output_text: Some(words(9)),
        ..Default::default()
    };
    for _ in 0..2 {
        let charged = service.internal.clone().commit_reservation(late.clone()).await.unwrap().into_inner();
        assert_eq!((charged.amount, charged.balance), (39.0, 61.0));
    }
    assert_eq!(service.metered("s").await.usage, usage(30, 10, 9));
    service.assert_nothing_is_held("u").await;
}

/// The service is killed and restarted. Either the sweep charges the durable tokens, or the gateway reopens
/// the stream and loses nothing.
#[rstest]
#[tokio::test]
async fn the_durable_tokens_of_a_killed_service_are_charged(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let short = [models_with("billing.streams", SHORT_GRACE), vec![("billing.reservation_ttl", "2s")]].concat();
    let conf = database.config_file(&short);
    let mut process = ServerProcess::start_beside(&conf).await;
    let client = billing_internal_service_client::BillingInternalServiceClient::connect(process.grpc.clone());
    let client = client.await.unwrap();
    let service = Service::start_on(database, &short).await;
    service.adjust("u", 100.0).await;

    let (mut left, _) = Gateway::try_open(client.clone(), stream("left", "rag", "dear", (3, 20))).await.unwrap();
    let (mut again, _) = Gateway::try_open(client.clone(), stream("again", "rag", "dear", (3, 20))).await.unwrap();
    let durable = left.deliver_durably(0, 4).await.durable_output_tokens;
    again.deliver_durably(0, 4).await;
    left.output(words(1)).await;
    process.kill();

    let (mut again, opened) = Gateway::open(&service, stream("again", "rag", "dear", (3, 20))).await;
    assert!(opened.replayed);
    again.deliver(0, 6).await;
    assert_eq!(again.finish(StreamFinish::default()).await.unwrap().amount, 9.0);

    // The hold stays open until no report has renewed it for its whole time to live.
    until("the sweep has charged it", async || {
        let conf = conf.to_str().unwrap();
        let swept = run(CRON, &["-conf", conf, "--once", "expire-reservations"], &[]);
        assert!(swept.status.success());
        service.metered("left").await.status == "COMMITTED"
    })
    .await;
    let charged = service.metered("left").await.usage.unwrap().output_tokens;
    assert!((durable..=5).contains(&charged), "{charged}");
    assert_eq!(service.account("u").await.balance, 100.0 - 9.0 - 3.0 - f64::from(charged));
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test]
async fn a_stopping_service_sends_its_streams_to_another_one(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let changes = models_with("billing.streams", LONG_GRACE);
    let process = ServerProcess::start_beside(&database.config_file(&changes)).await;
    let client = billing_internal_service_client::BillingInternalServiceClient::connect(process.grpc.clone());
    let service = Service::start_on(database, &changes).await;
    service.adjust("u", 100.0).await;
    let open = stream("s", "rag", "dear", (3, 20));
    let (mut gateway, _) = Gateway::try_open(client.await.unwrap(), open.clone()).await.unwrap();
    gateway.deliver(0, 4).await;
    process.terminate();
    assert_eq!(code_of(&gateway.failure().await), (Code::Unavailable, "10014".into()));
    assert_eq!(tokio::task::spawn_blocking(move || process.wait()).await.unwrap(), Some(0));
    assert_eq!(service.metered("s").await.usage, usage(3, 0, 4), "all tokens are durable");
    let (mut gateway, opened) = Gateway::open(&service, open).await;
    assert!(opened.replayed);
    gateway.deliver(0, 5).await;
    assert_eq!(gateway.finish(StreamFinish::default()).await.unwrap().amount, 8.0);
    service.assert_nothing_is_held("u").await;
}
