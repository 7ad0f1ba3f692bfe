//! Streams while the database holds everything up, or their reservation ends without them.

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

/// Lanes give up soon, though not on a database that is only slow.
const IMPATIENT: (&str, &str) = ("billing.settlement", "{retry_timeout: 3s, max_wait: 20s}");

/// Whatever a slow machine makes of the retry_timeout of lanes before the outage.
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

/// What the gateway said last is charged, though it was told that nobody knows.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finish_that_meets_an_outage_is_charged_as_it_was_said(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut gateway) = delivering(on, IMPATIENT).await;
    let lock = Lock::take(&service.database).await;
    let finish = StreamFinish { usage: usage(5, 1, 2), cost: 1.5, ..Default::default() };
    let told = gateway.finish(finish).await.unwrap_err();
    assert_eq!(code_of(&told), (Code::Unavailable, "10014".into()));
    lock.release().await;
    let made = service.ended("s", "COMMITTED").await;
    assert_eq!((made.amount, made.usage), (1.5, usage(5, 1, 2)));
    assert_eq!(service.account("u").await.balance, 98.5);
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_in_an_outage_is_charged_after_it(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut gateway) = delivering(on, IMPATIENT).await;
    let lock = Lock::take(&service.database).await;
    // Counting goes on; nothing of it is durable.
    let state = gateway.deliver(4, 3).await;
    assert_eq!((state.output_tokens, state.durable_output_tokens), (7, 4));
    drop(gateway);
    // The lane has given up on what came with the second or before: only who tries again can still pass.
    for _ in 0..2 {
        let refused = service.try_deduct(charge("u", "passport", 1)).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::Unavailable, "10014".into()));
    }
    lock.release().await;
    assert_eq!(service.ended("s", "COMMITTED").await.usage, usage(3, 0, 7));
    service.assert_nothing_is_held("u").await;
}

/// Nobody knows whether there is more to be held.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_can_not_hold_more_is_told_to_stop(#[values(MySql, Sqlite)] on: Backend) {
    let (service, mut gateway) = delivering(on, IMPATIENT).await;
    let lock = Lock::take(&service.database).await;
    assert!(!gateway.deliver(4, 12).await.stop, "19 of 23");
    gateway.deliver(16, 4).await;
    gateway.state(|state| state.stop).await;
    lock.release().await;
    gateway.state(|state| !state.stop).await;
    // On a slow machine it may be told that nobody knows.
    let _ = gateway.finish(StreamFinish::default()).await;
    assert_eq!(service.ended("s", "COMMITTED").await.amount, 23.0);
    service.assert_nothing_is_held("u").await;
}

/// As after an outage that lasted longer than the hold, or by another server's clock.
#[rstest]
#[case::released("{rag: {on_expiry: release}}", "1 holds freed, 0 streams charged", "EXPIRED", 8.0)]
#[case::charged("{}", "0 holds freed, 1 streams charged", "COMMITTED", 1.0)]
#[tokio::test]
async fn a_stream_whose_hold_ran_out_is_charged_all_the_same(
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
    until("all of it is charged", async || service.account("u").await.balance == 92.0).await;
    let made = service.metered("s").await;
    assert_eq!((made.status.as_str(), made.amount, made.usage), ("COMMITTED", 8.0, usage(3, 0, 5)));
    let counted = async || service.metric("billing_balance_amount{operation=\"deduct\"}").await;
    until("what it charged itself is counted", async || counted().await == charged_here).await;
    service.assert_nothing_is_held("u").await;
}

/// A gateway that does not wait for its reservation, and is gone before it is made.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_before_a_reservation_was_made_is_charged(
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
    until("all of it is sent", async || gateway.messages.capacity() == gateway.messages.max_capacity()).await;
    // What comes after it on the same connection is answered.
    service.internal.clone().count_tokens(CountTokensRequest::default()).await.unwrap_err();
    drop(gateway);
    lock.release().await;
    until("it is charged", async || service.account("u").await.balance == 100.0 - amount).await;
    assert_eq!(service.metered("s").await.status, "COMMITTED");
    service.assert_nothing_is_held("u").await;
}

/// The sweep comes while a stream waits to be opened again: its hold is as good as any.
#[rstest]
#[tokio::test]
async fn a_sweep_does_not_end_a_stream_that_waits(#[values(MySql, Sqlite)] on: Backend) {
    let grace = ("billing.streams", "{progress: 20ms, grace: 60s, idle_timeout: 20s}");
    let release = models_with("billing.reservations", "{rag: {on_expiry: release}}");
    let changes: Vec<_> = release.into_iter().filter(|(key, _)| *key != grace.0).chain([grace]).collect();
    let service = Service::start_with(on, &changes).await;
    service.adjust("u", 100.0).await;
    let (mut gateway, _) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    gateway.deliver_durably(0, 4).await;
    // Its hold would run out now.
    service.database.execute(&service.expired("s")).await;
    drop(gateway);
    let now = chrono::Utc::now().timestamp();
    until("it is renewed", async || service.metered("s").await.expires_at.unwrap().seconds > now).await;
    assert!(sweep(&service, &changes).await.contains("0 holds freed, 0 streams charged"));
    assert_eq!(service.metered("s").await.status, "PENDING");
}

/// Each of their messages is a small frame, and h2 ends a connection on which too many wait.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_wait_do_not_end_their_connection(#[values(MySql, Sqlite)] on: Backend) {
    let patient = models_with("billing.settlement", "{batch: 1, retry_timeout: 60s, max_wait: 60s}");
    let service = Service::start_with(on, &patient).await;
    service.adjust("u", 10_000.0).await;
    let lock = Lock::take(&service.database).await;
    // SQLite waits five seconds for a lock. Charges that are ahead of the streams wait one after
    // another, so that none of the streams is refused on a slow machine.
    let mut ahead: Vec<_> = (0..6)
        .map(|_| {
            let mut client = service.internal.clone();
            Box::pin(async move { client.deduct_quota(charge("u", "passport", 1)).await })
        })
        .collect();
    for call in &mut ahead {
        assert!(poll!(call).is_pending());
    }
    // Sent behind them on the same connection: when it is answered, they have arrived.
    assert!(service.check("u", "passport", 1).await.allowed);
    // An unread frame counts a little under 256 bytes: 2,200 of them fill half of the window
    // of a megabyte that a connection has by default.
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
        // When each is taken, or the client would send several at once, as one frame.
        for Gateway { messages, .. } in &waiting {
            drop(soon(messages.reserve_many(messages.max_capacity())).await.unwrap());
        }
    }
    assert!(service.check("u", "passport", 1).await.allowed, "their connection serves others");
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
