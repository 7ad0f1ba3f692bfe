//! The callbacks of the sandbox: content, signatures and retries.

use std::{io::ErrorKind, time::Duration};

use billing_service::{
    data::payment::proto::{CreatePaymentRequest, payment_client::PaymentClient},
    sandbox::{Answer, Options, PayAtOnce, Sandbox, Switches},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::Instant,
};
use tonic::Code;

use super::town::{Billing, Town};
use crate::harness::wait::soon;

#[tokio::test]
async fn a_callback_is_signed_and_has_the_exact_amount() {
    let mut town = Town::new(Switches::default()).await;
    let payment = town.create("o").await;
    town.submit(&payment.pay_url, "result=SUCCESS").await;
    let call = town.billing.called().await;
    assert_eq!(call.verify(), Ok(()));
    let expected = format!(
        r#"{{"order_id":"o","payment_order_id":"{}","amount":12.34,"status":"SUCCESS","currency":"CNY","refund_id":""}}"#,
        payment.payment_id
    );
    assert_eq!(String::from_utf8_lossy(&call.message), expected);
    call.answer(200);
    assert_eq!(town.answers().await, [Answer::Http(200)]);
}

#[tokio::test]
async fn a_callback_goes_over_grpc_if_the_notify_url_says_so() {
    let mut town = Town::new(Switches::default()).await;
    let notify_url = format!("grpc://{}", town.billing.addr);
    let payment = town.try_create(CreatePaymentRequest { notify_url, ..town.order("o") }).await.unwrap();
    town.submit(&payment.pay_url, "result=FAILED").await;
    for code in [Code::Unavailable, Code::Internal, Code::AlreadyExists] {
        let call = town.billing.called().await;
        assert_eq!(call.verify(), Ok(()));
        assert_eq!((&call.content["status"], &call.content["amount"]), (&"FAILED".into(), &12.34.into()));
        call.answer(code as u16);
    }
    let answers = [Code::Unavailable, Code::Internal, Code::AlreadyExists].map(Answer::Grpc);
    assert_eq!(town.answers().await, answers);
}

#[tokio::test]
async fn a_callback_is_repeated_until_it_is_answered() {
    let mut town = Town::new(Switches::default()).await;
    town.create_and_pay("o").await;
    let statuses = [500, 429, 408, 302, 200];
    let mut messages = Vec::new();
    for status in statuses {
        let call = town.billing.called().await;
        assert_eq!(call.verify(), Ok(()));
        messages.push(call.message.clone());
        call.answer(status);
    }
    assert!(messages.iter().all(|message| *message == messages[0]));
    assert_eq!(town.answers().await, statuses.map(Answer::Http));
    let attempts = town.sandbox.callbacks();
    assert_eq!(attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(attempts.iter().all(|attempt| attempt.order_id == "o" && attempt.status == "SUCCESS"));
}

#[tokio::test]
async fn a_refused_callback_is_not_sent_again() {
    let mut town = Town::new(Switches::default()).await;
    town.create_and_pay("o").await;
    town.billing.called().await.answer(401);
    assert_eq!(town.answers().await, [Answer::Http(401)]);
}

#[tokio::test]
async fn a_callback_reaches_a_billing_service_that_was_down() {
    let mut town = Town::new(Switches::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let notify_url = format!("http://{}/callback", listener.local_addr().unwrap());
    let payment = town.try_create(CreatePaymentRequest { notify_url, ..town.order("o") }).await.unwrap();
    town.submit(&payment.pay_url, "result=SUCCESS").await;
    // The listener closes the first connection.
    drop(soon(listener.accept()).await.unwrap());
    town.billing = Billing::open(listener);
    town.billing.called().await.answer(204);
    let answers = town.answers().await;
    assert!(matches!(answers[..], [Answer::Missing(_), Answer::Http(204)]), "{answers:?}");
}

#[tokio::test]
async fn callbacks_of_different_payments_do_not_wait_for_each_other() {
    let mut town = Town::new(Switches::default()).await;
    town.create_and_pay("slow").await;
    let slow = town.billing.called().await;
    town.create_and_pay("quick").await;
    let quick = town.billing.called().await;
    assert_eq!((slow.order(), quick.order()), ("slow", "quick"));
    quick.answer(200);
    slow.answer(200);
    assert_eq!(town.answers().await.len(), 2);
}

#[tokio::test]
async fn a_silent_destination_does_not_delay_other_callbacks() {
    let mut town = Town::new(Switches { duplicates: 100, ..Default::default() }).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let notify_url = format!("http://{}/callback", silent.local_addr().unwrap());
    // More copies than the sandbox sends at once.
    for number in 0..6 {
        let order = CreatePaymentRequest { notify_url: notify_url.clone(), ..town.order(&format!("silent-{number}")) };
        let payment = town.try_create(order).await.unwrap();
        town.submit(&payment.pay_url, "result=SUCCESS").await;
    }
    town.sandbox.set_switches(Switches::default());
    town.create_and_pay("o").await;
    let call = town.billing.called().await;
    assert_eq!(call.order(), "o");
    // None of the silent callbacks has ended, so this one did not wait for them.
    assert_eq!(town.sandbox.callbacks(), []);
    call.answer(200);
}

#[tokio::test]
async fn a_status_is_an_answer_even_without_a_complete_body() {
    for body in [&b"half"[..], &[b'x'; 100_000]] {
        let town = Town::new(Switches::default()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let notify_url = format!("http://{}/callback", listener.local_addr().unwrap());
        let payment = town.try_create(CreatePaymentRequest { notify_url, ..town.order("o") }).await.unwrap();
        town.submit(&payment.pay_url, "result=SUCCESS").await;
        let (mut stream, _) = soon(listener.accept()).await.unwrap();
        assert!(stream.read(&mut [0; 10_000]).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
        // The rest of the body never comes, and the sandbox does not wait for it.
        let _ = stream.write_all(body).await;
        soon(town.sandbox.idle()).await;
        let answers: Vec<_> = town.sandbox.callbacks().into_iter().map(|attempt| attempt.answer).collect();
        assert_eq!(answers, [Answer::Http(200)]);
        let rest = soon(stream.read_to_end(&mut Vec::new())).await;
        assert!(rest.is_ok() || rest.unwrap_err().kind() == ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn without_a_secret_callbacks_are_not_signed() {
    let mut town = Town::new(Switches::default()).await;
    town.sandbox = Sandbox::start(Options { addr: "127.0.0.1:0".into(), ..Default::default() }).await.unwrap();
    let addr = format!("http://{}", town.sandbox.addr);
    town.payments = PaymentClient::connect(addr).await.unwrap();
    town.create_and_pay("o").await;
    let call = town.billing.called().await;
    assert_eq!(call.signature, None);
    call.answer(200);
}

#[tokio::test]
async fn a_stop_waits_for_neither_replies_nor_callbacks() {
    let late = Switches { create_delay_ms: 60_000, pay_at_once: PayAtOnce::Success, ..Default::default() };
    let mut town = Town::new(late).await;
    let (mut payments, order) = (town.payments.clone(), town.order("o"));
    let creating = tokio::spawn(async move { payments.create_payment(order).await });
    let call = town.billing.called().await;
    // The paused clock stands still while a task runs, and jumps to the next timer.
    tokio::time::pause();
    let begun = Instant::now();
    town.sandbox.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "an attempt takes ten, and the reply sixty");
    drop(call);
    creating.abort();
}
