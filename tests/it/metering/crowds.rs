//! Many streams on one balance.

use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

use billing_service::service::proto::{ReserveQuotaRequest, StreamFinish};
use futures_util::future::join_all;
use rstest::rstest;

use super::{Gateway, MODELS, stream, usage, words};
use crate::harness::{Backend, MySql, Service, Sqlite, code_of, wait::until};

const STREAMS: usize = 100;

/// Delivers some tokens on the stream `number`, and returns the number of tokens. Each stream may deliver
/// 5 tokens at 1 yuan. Some streams finish, some break, and some finish with the count of the vendor.
async fn deliver(service: &Service, number: usize, mut gateway: Gateway) -> i32 {
    let tokens = 1 + (number % 5) as i32;
    gateway.deliver(0, tokens).await;
    match number % 3 {
        0 => drop(gateway),
        1 => assert_eq!(gateway.finish(StreamFinish::default()).await.unwrap().amount, f64::from(tokens)),
        _ => {
            let finish = StreamFinish { usage: usage(0, 0, tokens), ..Default::default() };
            assert_eq!(gateway.finish(finish).await.unwrap().amount, f64::from(tokens));
        }
    }
    service.ended(&format!("s{number}"), "COMMITTED").await;
    tokens
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balance_for_twenty_streams_admits_twenty(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let opening = (0..STREAMS).map(|number| {
        let open = stream(&format!("s{number}"), "rag", "dear", (0, 5));
        let client = service.internal.clone();
        async move { (number, Gateway::try_open(client, open).await) }
    });
    let mut admitted = Vec::new();
    for (number, opened) in join_all(opening).await {
        match opened {
            Ok((gateway, _)) => admitted.push((number, gateway)),
            Err(refused) => assert_eq!(code_of(&refused).1, "10001"),
        }
    }
    assert_eq!(admitted.len(), 20);
    assert_eq!(service.account("u").await.held, 100.0);
    let delivered = join_all(admitted.into_iter().map(|(number, gateway)| deliver(&service, number, gateway))).await;
    assert_eq!(service.account("u").await.balance, 100.0 - f64::from(delivered.iter().sum::<i32>()));
    service.assert_nothing_is_held("u").await;
}

/// Each stream holds one token at first, and holds more while it goes on. Together they use up the balance.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growing_streams_share_the_balance(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 150.0).await;
    let delivered = AtomicI32::new(0);
    let streaming = (0..STREAMS).map(|number| {
        let open = stream(&format!("s{number}"), "rag", "dear", (0, 1));
        let (service, delivered) = (&service, &delivered);
        async move {
            let (mut gateway, _) = match Gateway::try_open(service.internal.clone(), open).await {
                Ok(opened) => opened,
                Err(refused) => return assert_eq!(code_of(&refused).1, "10001"),
            };
            let mut tokens = 0;
            loop {
                tokens += 1;
                gateway.output(words(1)).await;
                let state = gateway.state(|state| state.durable_output_tokens == tokens).await;
                assert!(state.held >= f64::from(tokens) || state.stop, "{state:?}");
                if state.stop {
                    break;
                }
            }
            delivered.fetch_add(tokens, SeqCst);
            if number % 2 == 0 {
                gateway.finish(StreamFinish::default()).await.unwrap();
            }
        }
    });
    join_all(streaming).await;
    until("all streams are charged", async || service.account("u").await.held == 0.0).await;
    let delivered = delivered.into_inner();
    assert_eq!(service.account("u").await.balance, 150.0 - f64::from(delivered));
    // Each stream may have delivered its last token beyond the balance.
    assert!((150..=150 + STREAMS as i32).contains(&delivered), "{delivered}");
    service.assert_nothing_is_held("u").await;
}

/// Streams of the same user do not block its lane.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_many_keys_and_users_do_not_mix(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    let users: Vec<String> = (0..10).map(|user| format!("user{user}")).collect();
    for user in &users {
        service.adjust(user, 1_000.0).await;
    }
    let streaming = (0..STREAMS).map(|number| {
        let user_id = users[number % users.len()].clone();
        let open = ReserveQuotaRequest { user_id, ..stream(&format!("s{number}"), "rag", "dear", (0, 5)) };
        let client = service.internal.clone();
        async move {
            let (mut gateway, _) = Gateway::try_open(client, open).await.unwrap();
            gateway.deliver(0, number as i32 % 7 + 1).await;
            gateway.finish(StreamFinish::default()).await.unwrap().amount
        }
    });
    let amounts = join_all(streaming).await;
    for (index, user) in users.iter().enumerate() {
        let taken: f64 = amounts.iter().skip(index).step_by(users.len()).sum();
        assert_eq!(service.account(user).await.balance, 1_000.0 - taken, "{user}");
    }
    service.assert_audit_is_clean().await;
}
