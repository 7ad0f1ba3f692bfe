//! Services that are not configured any more: old charges can be repeated and read, and old reservations
//! can be ended. New charges are refused.

use billing_service::service::proto::{
    BatchDeductQuotaRequest, CommitReservationRequest, DeductQuotaReply, DeductQuotaRequest, GetUsageRequest,
    ListRecordsRequest, MeterStreamRequest, ReleaseReservationRequest, ReserveQuotaReply, ReserveQuotaRequest,
    StreamFinish, meter_stream_reply::Event as Reply, meter_stream_request::Event as Message,
};
use rstest::rstest;
use serde_json::json;
use tokio_stream::wrappers::ReceiverStream;

use super::{MODELS, call, delivered, hold, tokens, with};
use crate::harness::{Backend, MySql, Service, Sqlite, charge, code_of, traced, wait::soon};

/// Without `payment`, and without services that are priced by model.
const RETIRED: &[(&str, &str)] =
    &[("billing.prices", "{passport: 0.01, asset: 0.05}"), ("billing.free_quotas", "{passport: 10000, asset: 1000}")];

async fn restarted(service: Service, changes: &[(&str, &str)]) -> Service {
    service.app.stop().await;
    Service::start_on(service.database, changes).await
}

fn of_payment(trace: &str) -> ReserveQuotaRequest {
    hold(trace, "payment", "", (0, 0))
}

#[rstest]
#[tokio::test]
async fn charges_of_a_retired_service_are_repeated_and_its_holds_end(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &with("billing.streams", MODELS[2].1)).await;
    service.adjust("u", 100.0).await;
    service.use_up_free_quota("u", "payment").await;
    let paid = traced("paid", charge("u", "payment", 3));
    let by_model = traced("model", call("llm", "gpt-4.1", tokens(1_000, 100)));
    let first = [service.deduct(paid.clone()).await, service.deduct(by_model.clone()).await];
    let mut internal = service.internal.clone();
    let held = internal.reserve_quota(of_payment("commit")).await.unwrap().into_inner();
    internal.reserve_quota(of_payment("release")).await.unwrap();
    internal.reserve_quota(hold("stream", "llm", "gpt-4.1", (10, 10))).await.unwrap();

    let service = restarted(service, RETIRED).await;
    for (request, first) in [paid.clone(), by_model].into_iter().zip(first) {
        assert_eq!(service.deduct(request).await, DeductQuotaReply { replayed: true, ..first });
    }
    let body = json!({"user_id": "u", "service_name": "payment", "count": 3, "trace_id": "paid"});
    let (status, reply) = service.post("/internal/v1/billing/deduct", body.to_string()).await;
    assert_eq!((status, &reply["replayed"]), (200, &json!(true)), "{reply}");
    let other = service.try_deduct(DeductQuotaRequest { count: 4, ..paid.clone() }).await.unwrap_err();
    assert_eq!(code_of(&other).1, "10007");
    for trace in ["", "new"] {
        let new = traced(trace, charge("stranger", "payment", 1));
        assert_eq!(code_of(&service.try_deduct(new).await.unwrap_err()).1, "10008", "{trace:?}");
        let new = ReserveQuotaRequest { user_id: "stranger".into(), ..of_payment(trace) };
        let refused = service.internal.clone().reserve_quota(new).await.unwrap_err();
        assert_eq!(code_of(&refused).1, "10008", "{trace:?}");
    }
    let strangers = service.database.rows(&["user_id"], "FROM user_balance WHERE user_id = 'stranger'").await;
    assert_eq!(strangers, Vec::<Vec<String>>::new(), "a refusal opens no account");
    let items = vec![paid, traced("another", charge("u", "payment", 1))];
    let batch = service.internal.clone().batch_deduct_quota(BatchDeductQuotaRequest { items }).await.unwrap();
    let [repeated, refused] = &batch.into_inner().results[..] else { panic!("two items were sent") };
    assert!(repeated.reply.as_ref().unwrap().replayed);
    assert_eq!(refused.error.as_ref().unwrap().error_code, "10008");

    let mut internal = service.internal.clone();
    let again = internal.reserve_quota(of_payment("commit")).await.unwrap().into_inner();
    assert_eq!(again, ReserveQuotaReply { replayed: true, ..held });
    let commit = CommitReservationRequest { count: Some(2), ..delivered("commit") };
    for replayed in [false, true] {
        let committed = internal.commit_reservation(commit.clone()).await.unwrap().into_inner();
        assert_eq!((committed.amount, committed.replayed), (0.2, replayed));
        let release = ReleaseReservationRequest { user_id: "u".into(), trace_id: "release".into() };
        assert_eq!(internal.release_reservation(release).await.unwrap().into_inner().replayed, replayed);
    }
    assert_eq!(stream_again(&service, hold("stream", "llm", "gpt-4.1", (10, 10))).await, 0.00015);
    service.assert_audit_is_clean().await;
}

/// Reopens the stream of a reservation, and finishes it without output. Returns the amount.
async fn stream_again(service: &Service, open: ReserveQuotaRequest) -> f64 {
    let (messages, sent) = tokio::sync::mpsc::channel(2);
    let send = async |event| messages.send(MeterStreamRequest { event: Some(event) }).await.unwrap();
    let mut replies = service.internal.clone().meter_stream(ReceiverStream::new(sent)).await.unwrap().into_inner();
    send(Message::Open(open)).await;
    let opened = soon(replies.message()).await.unwrap().unwrap().event.unwrap();
    assert!(matches!(&opened, Reply::Opened(opened) if opened.replayed), "{opened:?}");
    send(Message::Finish(StreamFinish { usage: tokens(10, 0), ..Default::default() })).await;
    loop {
        match soon(replies.message()).await.unwrap().unwrap().event.unwrap() {
            Reply::Finished(finished) => return finished.amount,
            Reply::State(_) => {}
            other => panic!("not finished: {other:?}"),
        }
    }
}

/// A repeat needs no price, so it needs neither usage nor a model.
#[rstest]
#[tokio::test]
async fn charges_can_be_repeated_after_their_service_changed_its_prices(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let request = traced("t", charge("u", "payment", 1_000));
    let first = service.deduct(request.clone()).await;
    let by_model: &[_] = &[
        ("billing.prices", "{passport: 0.01}"),
        ("billing.model_services", "{payment: tokens}"),
        ("billing.models", "{m: {input: 1, output: 1}}"),
        ("billing.free_quotas", "{passport: 1}"),
    ];
    let dear: &[_] = &[("billing.prices", "{passport: 0.01, payment: 999999999, asset: 1}")];
    let mut service = service;
    for changes in [by_model, dear] {
        service = restarted(service, changes).await;
        assert_eq!(service.deduct(request.clone()).await, DeductQuotaReply { replayed: true, ..first.clone() });
        let new = service.try_deduct(traced("new", charge("u", "payment", 1_000))).await.unwrap_err();
        assert_eq!(code_of(&new).1, "10009");
    }
}

#[rstest]
#[tokio::test]
async fn reads_show_a_retired_service_that_the_user_has_used(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.deduct(charge("u", "payment", 7)).await;
    service.deduct(charge("u", "asset", 1)).await;
    service.deduct(charge("v", "asset", 1)).await;
    let service = restarted(service, RETIRED).await;

    let query = |user: &str, name: &str| format!("user_id={user}&service_name={name}");
    for path in ["stats/today", "stats/month"] {
        let (status, stats) = service.get(&format!("/api/v1/billing/{path}?{}", query("u", "payment"))).await;
        assert_eq!((status, &stats["total_count"], &stats["free_count"]), (200, &json!(7), &json!(7)), "{path}");
    }
    let (_, records) = service.get(&format!("/api/v1/billing/records?{}", query("u", "payment"))).await;
    assert_eq!((&records["total"], &records["records"][0]["count"]), (&json!(1), &json!(7)));
    let filter =
        |name: &str| ListRecordsRequest { user_id: "u".into(), service_name: name.into(), ..Default::default() };
    assert_eq!(service.records(filter("payment")).await.records.len(), 1);
    let csv = async |user: &str, name: &str| {
        let url = format!("http://{}/api/v1/billing/records.csv?{}", service.app.http_addr, query(user, name));
        let response = service.http.get(url).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (status, lines) = csv("u", "payment").await;
    assert_eq!((status, lines.lines().count()), (200, 2), "{lines}");
    let (_, usage) = service.get(&format!("/api/v1/billing/usage?{}", query("u", "payment"))).await;
    assert_eq!(usage["series"].as_array().unwrap().len(), 1);
    assert_eq!(usage["series"][0]["days"].as_array().unwrap().last().unwrap()["free_count"], json!(7));
    let request = GetUsageRequest { user_id: "u".into(), service_name: "payment".into(), ..Default::default() };
    let series = service.public.clone().get_usage(request).await.unwrap().into_inner().series;
    assert_eq!(series[0].service_name, "payment");

    // A retired service that the user has never used is unknown, like a misspelt one.
    for (user, name) in [("v", "payment"), ("u", "paymen"), ("u", "Payment"), ("u", &"x".repeat(500))] {
        for path in ["stats/today", "stats/month", "records", "usage"] {
            let (status, error) = service.get(&format!("/api/v1/billing/{path}?{}", query(user, name))).await;
            assert_eq!((status, &error["metadata"]["error_code"]), (400, &json!("10008")), "{path} {name}");
        }
        assert_eq!(csv(user, name).await.0, 400);
    }
}
