//! Streams while the database is blocked, and streams whose reservation ends elsewhere.

use billing_service::service::proto::{CountTokensRequest, StreamFinish, meter_stream_request::Event as Message};
use futures_util::{future::join_all, poll};
use rstest::rstest;
use tonic::Code;

use super::{Gateway, MODELS, models_with, policies::sweep, stream, usage, words};
use crate::harness::{
    Backend, MySql, Service, Sqlite, charge, code_of,
    lock::Lock,
    wait::{soon, until},
};

/// Lanes give up soon, but tolerate a slow database.
const IMPATIENT: (&str, &str) = ("billing.settlement", "{retry_timeout: 3s, max_wait: 20s}");

/// Opens the stream again until it succeeds, because a slow machine may exceed the short retry_timeout.
async fn delivering(on: Backend, (key, value): (&str, &str)) -> (Service, Gateway) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    service.app.stop().await;
    let service = Service::start_on(service.database, &models_with(key, value)).await;
    let mut opened = None;
    until("the stream is open", async || {
        let open = stream("s", "rag", "dear", (3, 20));
        opened = Gateway::try_open(service.internal.clone(), open).await.ok();
        opened.is_some()
    })
    .await;
    let (mut gateway, _) = opened.unwrap();
    gateway.deliver_durably(0, 4).await;
    (service, gateway)
}

/// The finish is charged as sent, although its reply was an unknown outcome.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finish_during_an_outage_is_charged_as_sent(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut gateway) = delivering(on, IMPATIENT).await;
    let lock = Lock::take(&service.database).await;
    let finish = StreamFinish { usage: usage(5, 1, 2), cost: 1.5, ..Default::default() };
    let refused = gateway.finish(finish).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::Unavailable, "10014".into()));
    lock.release().await;
    let made = service.ended("s", "COMMITTED").await;
    assert_eq!((made.amount, made.usage), (1.5, usage(5, 1, 2)));
    assert_eq!(service.account("u").await.balance, 98.5);
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_during_an_outage_is_charged_after_it(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut gateway) = delivering(on, IMPATIENT).await;
    let lock = Lock::take(&service.database).await;
    // The service goes on counting, but the count is not durable.
    let state = gateway.deliver(4, 3).await;
    assert_eq!((state.output_tokens, state.durable_output_tokens), (7, 4));
    drop(gateway);
    // The lane has given up on the first attempts, so only a retry can succeed.
    for _ in 0..2 {
        let refused = service.try_deduct(charge("u", "passport", 1)).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::Unavailable, "10014".into()));
    }
    lock.release().await;
    assert_eq!(service.ended("s", "COMMITTED").await.usage, usage(3, 0, 7));
    service.assert_nothing_is_held("u").await;
}

/// The service can't find out whether the hold can grow.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_cannot_hold_more_is_stopped(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut gateway) = delivering(on, IMPATIENT).await;
    let lock = Lock::take(&service.database).await;
    assert!(!gateway.deliver(4, 12).await.stop, "19 of 23");
    gateway.deliver(16, 4).await;
    gateway.state(|state| state.stop).await;
    lock.release().await;
    gateway.state(|state| !state.stop).await;
    // On a slow machine, the reply may be an unknown outcome.
    let _ = gateway.finish(StreamFinish::default()).await;
    assert_eq!(service.ended("s", "COMMITTED").await.amount, 23.0);
    service.assert_nothing_is_held("u").await;
}

/// Such as after an outage that lasted longer than the hold.
#[rstest]
#[case::released("{rag: {on_expiry: release}}", "1 hold freed, 0 streams charged", "EXPIRED", 8.0)]
#[case::charged("{}", "0 holds freed, 1 stream charged", "COMMITTED", 1.0)]
#[tokio::test]
async fn a_stream_with_an_expired_hold_is_still_charged(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] policy: &'static str,
    #[case] swept: &str,
    #[case] status: &str,
    #[case] charged_here: f64,
) {
    let policy = ("billing.reservations", policy);
    let (service, mut gateway) = delivering(on, policy).await;
    service.database.execute(&service.expired("s")).await;
    assert!(sweep(&service, &models_with(policy.0, policy.1)).await.contains(swept));
    assert_eq!(service.metered("s").await.status, status);
    gateway.output(" hello").await;
    assert_eq!(code_of(&gateway.failure().await), (Code::FailedPrecondition, "10011".into()));
    until("all tokens are charged", async || service.account("u").await.balance == 92.0).await;
    let made = service.metered("s").await;
    assert_eq!((made.status.as_str(), made.amount, made.usage), ("COMMITTED", 8.0, usage(3, 0, 5)));
    let counted = async || service.metric("billing_balance_amount{operation=\"deduct\"}").await;
    until("the charge of the stream is counted", async || counted().await == charged_here).await;
    service.assert_nothing_is_held("u").await;
}

/// The gateway sends output before the reservation is made, and disconnects.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_sent_before_the_reservation_is_charged(
    #[values(MySql, Sqlite)] on: Backend,
    #[values(None, Some(StreamFinish { cost: 1.5, ..Default::default() }))] finish: Option<StreamFinish>,
) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let lock = Lock::take(&service.database).await;
    let gateway = Gateway::call(service.internal.clone()).await;
    gateway.send(Message::Open(stream("s", "rag", "dear", (3, 20)))).await;
    gateway.output(words(4)).await;
    let amount = finish.as_ref().map_or(7.0, |finish| finish.cost);
    if let Some(finish) = finish {
        gateway.send(Message::Finish(finish)).await;
    }
    until("all messages are sent", async || gateway.messages.capacity() == gateway.messages.max_capacity()).await;
    // A later call on the same connection is answered.
    service.internal.clone().count_tokens(CountTokensRequest::default()).await.unwrap_err();
    drop(gateway);
    lock.release().await;
    until("the output is charged", async || service.account("u").await.balance == 100.0 - amount).await;
    assert_eq!(service.metered("s").await.status, "COMMITTED");
    service.assert_nothing_is_held("u").await;
}

/// The sweep runs in the grace period of a broken stream, which renews its hold.
#[rstest]
#[tokio::test]
async fn a_sweep_does_not_end_a_stream_in_its_grace_period(#[values(MySql, Sqlite)] on: Backend) {
    let grace = ("billing.streams", "{progress: 20ms, grace: 60s, idle_timeout: 20s}");
    let release = models_with("billing.reservations", "{rag: {on_expiry: release}}");
    let changes: Vec<_> = release.into_iter().filter(|(key, _)| *key != grace.0).chain([grace]).collect();
    let service = Service::start_with(on, &changes).await;
    service.adjust("u", 100.0).await;
    let (mut gateway, _) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    gateway.deliver_durably(0, 4).await;
    // Without a renewal, the hold would expire now.
    service.database.execute(&service.expired("s")).await;
    drop(gateway);
    let now = chrono::Utc::now().timestamp();
    until("the hold is renewed", async || service.metered("s").await.expires_at.unwrap().seconds > now).await;
    assert!(sweep(&service, &changes).await.contains("0 holds freed, 0 streams charged"));
    assert_eq!(service.metered("s").await.status, "PENDING");
}

/// Each message is a small frame, and h2 ends a connection with too many unread frames.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_streams_do_not_end_their_connection(#[values(MySql, Sqlite)] on: Backend) {
    let patient = models_with("billing.settlement", "{batch: 1, retry_timeout: 60s, max_wait: 60s}");
    let service = Service::start_with(on, &patient).await;
    service.adjust("u", 10_000.0).await;
    let lock = Lock::take(&service.database).await;
    // SQLite waits five seconds for a lock. Earlier charges wait one after another, so that no stream is refused
    // on a slow machine.
    let mut ahead: Vec<_> = (0..6)
        .map(|_| {
            let mut client = service.internal.clone();
            Box::pin(async move { client.deduct_quota(charge("u", "passport", 1)).await })
        })
        .collect();
    for call in &mut ahead {
        assert!(poll!(call).is_pending());
    }
    // Sent last on the same connection: its answer shows that the streams have arrived.
    assert!(service.check("u", "passport", 1).await.allowed);
    // An unread frame counts almost 256 bytes. So 2,200 frames fill half of the default connection
    // window of a megabyte.
    let (streams, messages) = (25, 120);
    let waiting = (0..streams).map(|number| {
        let client = service.internal.clone();
        async move {
            let gateway = Gateway::call(client).await;
            gateway.send(Message::Open(stream(&format!("s{number}"), "rag", "dear", (0, 5)))).await;
            gateway
        }
    });
    let waiting = join_all(waiting).await;
    for _ in 0..messages {
        join_all(waiting.iter().map(|gateway| gateway.output(" hello"))).await;
        // Waits after each message. Otherwise the client would send several messages in one frame.
        for Gateway { messages, .. } in &waiting {
            drop(soon(messages.reserve_many(messages.max_capacity())).await.unwrap());
        }
    }
    assert!(service.check("u", "passport", 1).await.allowed, "the connection serves other calls");
    lock.release().await;
    join_all(ahead).await;
    let finishing = waiting.into_iter().map(async |mut gateway| {
        match gateway.next().await.unwrap() {
            super::Reply::Opened(_) => {}
            other => panic!("{other:?}"),
        }
        gateway.state(|state| state.output_tokens == messages).await;
        gateway.finish(StreamFinish::default()).await.unwrap().amount
    });
    assert_eq!(join_all(finishing).await.iter().sum::<f64>(), f64::from(streams * messages));
    assert_eq!(service.deduct(charge("u", "passport", 1)).await.balance, 10_000.0 - f64::from(streams * messages));
    service.assert_nothing_is_held("u").await;
}
