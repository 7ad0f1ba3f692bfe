//! The effect of each switch.

use std::time::{Duration, Instant};

use billing_service::{
    data::payment::proto::{CreatePaymentReply, CreatePaymentRequest, GetPaymentReply, PaymentStatus, RefundStatus},
    sandbox::{Create, Get, GetRefund, PayAtOnce, Refund, Switches},
};
use serde_json::{Value, json};
use tonic::Code;

use super::town::Town;
use crate::harness::wait::soon;

#[tokio::test]
async fn a_refused_or_unavailable_create_opens_no_payment() {
    for (create, code) in [(Create::Refuse, Code::FailedPrecondition), (Create::Unavailable, Code::Unavailable)] {
        let town = Town::new(Switches { create, ..Default::default() }).await;
        assert_eq!(town.try_create(town.order("o")).await.unwrap_err().code(), code);
        assert_eq!(town.get("", "o").await.unwrap_err().code(), Code::NotFound);
        town.sandbox.set_switches(Switches::default());
        town.create("o").await;
    }
}

#[tokio::test]
async fn a_refund_is_made_as_its_switch_says_and_once_for_its_id() {
    let mut town = Town::new(Switches::default()).await;
    town.create_and_pay("o").await;
    town.billing.called().await.answer(200);
    for (number, (refund, answered, found)) in [
        (Refund::Refuse, Err(Code::FailedPrecondition), Err(Code::NotFound)),
        (Refund::Unavailable, Err(Code::Unavailable), Err(Code::NotFound)),
        (Refund::Fail, Ok(RefundStatus::Failed), Ok(RefundStatus::Failed)),
        (Refund::Pending, Ok(RefundStatus::Pending), Ok(RefundStatus::Pending)),
        (Refund::LoseReply, Err(Code::Unavailable), Ok(RefundStatus::Success)),
        (Refund::Normal, Ok(RefundStatus::Success), Ok(RefundStatus::Success)),
    ]
    .into_iter()
    .enumerate()
    {
        town.sandbox.set_switches(Switches { refund, ..Default::default() });
        let id = format!("r-{number}");
        for _ in 0..2 {
            let reply = town.refund("o", &id, 100).await;
            assert_eq!(reply.map(|reply| reply.status()).map_err(|refused| refused.code()), answered, "{refund:?}");
            let refund_of = town.refund_of(&id).await;
            assert_eq!(refund_of.map(|reply| reply.status()).map_err(|refused| refused.code()), found, "{refund:?}");
        }
        if found == Ok(RefundStatus::Success) {
            let call = town.billing.called().await;
            assert_eq!((&call.content["status"], &call.content["refund_id"]), (&json!("REFUNDED"), &json!(id)));
            call.answer(200);
        }
    }
    town.sandbox.set_switches(Switches::default());
    assert_eq!(town.refund("o", "r-5", 99).await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(town.refund("o", "more", 935).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(town.refund("o", "", 1).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(town.refund("nobody", "r", 1).await.unwrap_err().code(), Code::NotFound);
    for (get_refund, code) in
        [(GetRefund::Refuse, Code::FailedPrecondition), (GetRefund::Unavailable, Code::Unavailable)]
    {
        town.sandbox.set_switches(Switches { get_refund, ..Default::default() });
        assert_eq!(town.refund_of("r-5").await.unwrap_err().code(), code);
    }
    assert_eq!(town.answers().await.len(), 3);
}

#[tokio::test]
async fn a_garbage_reply_names_neither_the_payment_nor_its_page() {
    let town = Town::new(Switches { create: Create::GarbageReply, ..Default::default() }).await;
    let reply = town.create("o").await;
    assert_eq!(reply, CreatePaymentReply { status: PaymentStatus::Pending.into(), ..Default::default() });
    assert!(!town.get("", "o").await.unwrap().payment_id.is_empty());
}

#[tokio::test]
async fn a_payment_can_be_paid_before_its_late_reply() {
    let mut town = Town::new(Switches { create_delay_ms: 60_000, ..Default::default() }).await;
    let (mut payments, order) = (town.payments.clone(), town.order("o"));
    let creating = tokio::spawn(async move { payments.create_payment(order).await });
    let payment = soon(async {
        loop {
            if let Ok(payment) = town.get("", "o").await {
                break payment;
            }
        }
    });
    let url = format!("http://{}/pay/{}", town.sandbox.addr, payment.await.payment_id);
    town.submit(&url, "result=SUCCESS").await;
    town.billing.called().await.answer(200);
    assert_eq!(town.status_of("o").await, PaymentStatus::Success);
    assert!(!creating.is_finished());
    creating.abort();
}

#[tokio::test]
async fn late_replies_come_after_their_delay() {
    let delay = Duration::from_millis(150);
    let town = Town::new(Switches { create_delay_ms: 150, get_delay_ms: 150, ..Default::default() }).await;
    let begun = Instant::now();
    town.create("o").await;
    assert!(begun.elapsed() >= delay);
    let begun = Instant::now();
    town.get("", "o").await.unwrap();
    assert!(begun.elapsed() >= delay);
}

#[tokio::test]
async fn the_callback_of_a_payment_paid_at_once_may_come_before_the_reply() {
    for (pay_at_once, status) in [(PayAtOnce::Success, "SUCCESS"), (PayAtOnce::Failed, "FAILED")] {
        let mut town = Town::new(Switches { pay_at_once, create_delay_ms: 60_000, ..Default::default() }).await;
        let (mut payments, order) = (town.payments.clone(), town.order("o"));
        let creating = tokio::spawn(async move { payments.create_payment(order).await });
        let call = town.billing.called().await;
        assert_eq!(call.content["status"], status);
        call.answer(200);
        assert!(!creating.is_finished());
        creating.abort();
    }
}

#[tokio::test]
async fn a_refused_or_unavailable_get_finds_nothing() {
    let town = Town::new(Switches::default()).await;
    town.create("o").await;
    for (get, code) in [("refuse", Code::FailedPrecondition), ("unavailable", Code::Unavailable)] {
        town.sandbox.set_switches(serde_json::from_value(json!({"get": get})).unwrap());
        assert_eq!(town.get("", "o").await.unwrap_err().code(), code);
    }
    town.sandbox.set_switches(Switches::default());
    town.get("", "o").await.unwrap();
}

#[tokio::test]
async fn a_wrong_get_has_one_wrong_field() {
    let town = Town::new(Switches::default()).await;
    town.create("o").await;
    let dollars = CreatePaymentRequest { currency: "USD".into(), ..town.order("dollars") };
    town.try_create(dollars).await.unwrap();
    let right = town.get("", "o").await.unwrap();
    for (get, wrong) in [
        ("normal", right.clone()),
        ("wrong_order", GetPaymentReply { order_id: "not-o".into(), ..right.clone() }),
        ("wrong_amount", GetPaymentReply { amount: 1_235, ..right.clone() }),
        ("wrong_currency", GetPaymentReply { currency: "USD".into(), ..right.clone() }),
    ] {
        town.sandbox.set_switches(serde_json::from_value(json!({"get": get})).unwrap());
        assert_eq!(town.get("", "o").await.unwrap(), wrong, "{get}");
        // The payment itself has not changed.
        town.sandbox.set_switches(Switches::default());
        assert_eq!(town.get("", "o").await.unwrap(), right, "{get}");
    }
    town.sandbox.set_switches(Switches { get: Get::WrongCurrency, ..Default::default() });
    assert_eq!(town.get("", "dollars").await.unwrap().currency, "CNY");
}

#[tokio::test]
async fn a_delayed_callback_comes_late() {
    let mut town = Town::new(Switches { callback_delay_ms: 150, ..Default::default() }).await;
    let payment = town.create("o").await;
    let begun = Instant::now();
    town.submit(&payment.pay_url, "result=SUCCESS").await;
    town.billing.called().await.answer(200);
    assert!(begun.elapsed() >= Duration::from_millis(150));
}

#[tokio::test]
async fn duplicates_are_sent_at_the_same_time_and_each_until_it_is_answered() {
    let mut town = Town::new(Switches { duplicates: 2, ..Default::default() }).await;
    town.create_and_pay("o").await;
    // No duplicate is answered before the last one has arrived.
    let calls = [town.billing.called().await, town.billing.called().await, town.billing.called().await];
    assert!(calls.iter().all(|call| call.message == calls[0].message));
    let [first, second, third] = calls;
    first.answer(200);
    second.answer(400);
    third.answer(503);
    town.billing.called().await.answer(200);
    assert_eq!(town.answers().await.len(), 4);
}

#[tokio::test]
async fn a_lost_callback_is_never_sent() {
    let mut town = Town::new(Switches { lose: true, ..Default::default() }).await;
    town.create_and_pay("o").await;
    assert_eq!(town.answers().await, []);
    assert_eq!(town.status_of("o").await, PaymentStatus::Success);
}

#[tokio::test]
async fn a_reordered_callback_waits_until_the_next_one_is_answered() {
    let mut town = Town::new(Switches { reorder: true, ..Default::default() }).await;
    for order in ["a", "b", "c", "d"] {
        town.create_and_pay(order).await;
    }
    // b and d are sent at once. a and c are sent after the answers to b and d.
    let mut ahead = [town.billing.called().await, town.billing.called().await];
    ahead.sort_by(|one, other| one.order().cmp(other.order()));
    let [b, d] = ahead;
    assert_eq!((b.order(), d.order()), ("b", "d"));
    b.answer(500);
    let b = town.billing.called().await;
    assert_eq!(b.order(), "b");
    b.answer(200);
    let a = town.billing.called().await;
    assert_eq!(a.order(), "a");
    a.answer(200);
    d.answer(200);
    let c = town.billing.called().await;
    assert_eq!(c.order(), "c");
    c.answer(200);
    assert_eq!(town.answers().await.len(), 5);
}

#[tokio::test]
async fn a_held_callback_is_sent_when_the_switch_is_turned_off() {
    let mut town = Town::new(Switches { reorder: true, ..Default::default() }).await;
    town.create_and_pay("o").await;
    town.sandbox.set_switches(Switches::default());
    town.billing.called().await.answer(200);
    assert_eq!(town.answers().await.len(), 1);
}

#[tokio::test]
async fn a_reordered_callback_is_sent_when_the_switch_is_turned_off() {
    let mut town = Town::new(Switches { reorder: true, ..Default::default() }).await;
    town.create_and_pay("first").await;
    town.create_and_pay("second").await;
    let second = town.billing.called().await;
    assert_eq!(second.order(), "second");
    // The callback is not answered yet.
    town.sandbox.set_switches(Switches::default());
    let first = town.billing.called().await;
    assert_eq!(first.order(), "first");
    first.answer(200);
    second.answer(200);
    assert_eq!(town.answers().await.len(), 2);
}

#[tokio::test]
async fn a_switch_turned_on_over_http_holds_callbacks() {
    let mut town = Town::new(Switches::default()).await;
    let url = format!("http://{}/switches", town.sandbox.addr);
    soon(town.browser.put(&url).body(r#"{"reorder":true}"#).send()).await.unwrap();
    town.create_and_pay("first").await;
    town.create_and_pay("second").await;
    for order in ["second", "first"] {
        let call = town.billing.called().await;
        assert_eq!(call.order(), order);
        call.answer(200);
    }
}

#[tokio::test]
async fn a_forged_callback_does_not_verify() {
    let mut town = Town::new(Switches { forge: true, ..Default::default() }).await;
    town.create_and_pay("o").await;
    let call = town.billing.called().await;
    assert_eq!(call.verify(), Err("the signature does not match"));
    call.answer(401);
}

#[tokio::test]
async fn a_wrong_amount_is_a_hundredth_too_much() {
    let mut town = Town::new(Switches { wrong_amount: true, ..Default::default() }).await;
    town.create_and_pay("o").await;
    let call = town.billing.called().await;
    assert_eq!((call.verify(), &call.content["amount"]), (Ok(()), &json!(12.35)));
    call.answer(400);
    assert_eq!(town.get("", "o").await.unwrap().amount, 1_234);
}

#[tokio::test]
async fn switches_are_read_and_changed_over_http() {
    let town = Town::new(Switches::default()).await;
    let url = format!("http://{}/switches", town.sandbox.addr);
    let read = async || -> Value { soon(town.browser.get(&url).send()).await.unwrap().json().await.unwrap() };
    let change = async |body: Value| {
        let response = soon(town.browser.put(&url).body(body.to_string()).send()).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let off = json!({
        "create": "normal", "create_delay_ms": 0, "get": "normal", "get_delay_ms": 0,
        "refund": "normal", "refund_delay_ms": 0, "get_refund": "normal", "pay_at_once": "none",
        "callback_delay_ms": 0, "duplicates": 0, "lose": false, "reorder": false, "forge": false, "wrong_amount": false,
    });
    assert_eq!(read().await, off);
    let (status, now) = change(json!({"create": "garbage_reply", "pay_at_once": "FAILED", "duplicates": 3})).await;
    assert_eq!((status, serde_json::from_str::<Value>(&now).unwrap()), (200, read().await));
    let expected =
        Switches { create: Create::GarbageReply, pay_at_once: PayAtOnce::Failed, duplicates: 3, ..Default::default() };
    assert_eq!(town.sandbox.switches(), expected);
    for (bad, why) in [
        (json!({"loose": true}), "loose"),
        (json!({"create": "maybe"}), "maybe"),
        (json!({"get_delay_ms": 60_001}), "60000"),
        (json!({"duplicates": 101}), "100"),
        (json!([]), "invalid"),
    ] {
        let (status, said) = change(bad).await;
        assert!(status == 400 && said.contains(why), "{status} {said}");
    }
    assert_eq!(town.sandbox.switches(), expected);
    assert_eq!(change(json!({})).await.0, 200);
    assert_eq!(read().await, off);
}
