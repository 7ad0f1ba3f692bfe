//! Top-ups with a repeated idempotency key.

use std::collections::BTreeSet;

use billing_service::service::proto::{RechargeReply, RechargeRequest};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::{Value, json};
use tonic::{Code, Request, Status};

use crate::harness::{
    Backend, MySql, Service, Sqlite, code_of,
    payments::{Paying, settings},
    wait::until,
};

fn keyed(user: &str, key: &str, amount: f64) -> RechargeRequest {
    RechargeRequest {
        user_id: user.into(),
        amount,
        payment_method: "alipay".into(),
        idempotency_key: key.into(),
        ..Default::default()
    }
}

async fn ask(service: &Service, request: impl tonic::IntoRequest<RechargeRequest>) -> Result<RechargeReply, Status> {
    service.public.clone().recharge(request).await.map(|reply| reply.into_inner())
}

/// `POST` of a top-up with its key in the header.
async fn post(service: &Service, header: &str, body: &Value) -> (u16, Value) {
    let url = format!("http://{}/api/v1/billing/recharge", service.app.http_addr);
    let request = service.http.post(url).header("Idempotency-Key", header).body(body.to_string());
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[rstest]
#[tokio::test]
async fn a_repeat_gets_the_first_order_and_its_page_over_every_protocol(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let service = &paying.service;
    let first = ask(service, keyed("u", "k", 5.0)).await.unwrap();
    assert!(!first.payment_url.is_empty());
    assert_eq!(ask(service, keyed("u", "k", 5.0)).await.unwrap(), first);
    // An absent currency means the currency of the account.
    let named = RechargeRequest { currency: "CNY".into(), ..keyed("u", "k", 5.0) };
    assert_eq!(ask(service, named).await.unwrap(), first);
    for value in ["k", "\"k\"", "\"k\";v=1"] {
        let mut request = Request::new(keyed("u", "", 5.0));
        request.metadata_mut().insert("idempotency-key", value.parse().unwrap());
        assert_eq!(ask(service, request).await.unwrap(), first, "{value}");
        let body = json!({"user_id": "u", "amount": 5, "payment_method": "alipay"});
        let (status, reply) = post(service, value, &body).await;
        assert_eq!(
            (status, &reply["order_id"], &reply["payment_url"]),
            (200, &json!(first.order_id), &json!(first.payment_url)),
            "{value}"
        );
    }
    for member in ["idempotency_key", "idempotencyKey"] {
        let body = json!({"user_id": "u", "amount": "5.00", "payment_method": "alipay", member: "k"});
        assert_eq!(post(service, "", &body).await.1["order_id"], first.order_id, "{member}");
    }
    assert_eq!(paying.orders("u").await.len(), 1);
    assert_eq!(paying.counted("repeated").await, 0);

    // After the payment, a repeat still gets the first order. A request without a key makes a new order.
    paying.press(&first.payment_url, "SUCCESS").await;
    paying.until_order_is(&first.order_id, "success").await;
    assert_eq!(ask(service, keyed("u", "k", 5.0)).await.unwrap(), first);
    assert_ne!(ask(service, keyed("u", "", 5.0)).await.unwrap().order_id, first.order_id);
    assert_ne!(ask(service, keyed("u", "", 5.0)).await.unwrap().order_id, first.order_id);
    assert_eq!(paying.orders("u").await.len(), 3);
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn other_content_is_a_conflict_and_other_keys_are_other_orders(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let service = &paying.service;
    let good = keyed("u", "k", 5.0);
    let first = ask(service, good.clone()).await.unwrap();
    for (other, fields) in [
        (RechargeRequest { amount: 5.01, ..good.clone() }, "amount"),
        (RechargeRequest { payment_method: "stripe".into(), ..good.clone() }, "payment_method"),
        (RechargeRequest { currency: "USD".into(), ..good.clone() }, "currency"),
        // Even an invalid top-up is a conflict.
        (
            RechargeRequest { amount: 5_000_000.0, payment_method: "wechat".into(), ..good.clone() },
            "amount, payment_method",
        ),
    ] {
        let conflict = ask(service, other).await.unwrap_err();
        assert_eq!(code_of(&conflict), (Code::AlreadyExists, "10007".into()));
        assert!(conflict.message().starts_with("idempotency_key"), "{conflict:?}");
        assert!(conflict.message().ends_with(&format!("differ: {fields}")), "{conflict:?}");
    }
    for other in [keyed("v", "k", 5.0), keyed("u", "K", 5.0), keyed("u", "k ", 5.0), keyed("u", &"k".repeat(128), 5.0)]
    {
        assert_ne!(ask(service, other).await.unwrap().order_id, first.order_id);
    }
    for bad in ["k".repeat(129), "schlüssel".into(), "a\nb".into()] {
        let refused = ask(service, keyed("u", &bad, 5.0)).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()), "{bad}");
        assert!(refused.message().starts_with("idempotency_key:"), "{refused:?}");
    }
    assert_eq!(paying.orders("u").await.len(), 4);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_repeats_on_two_servers_make_one_order(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let mut beside = crate::cache::processes::servers::beside(&paying.service.database);
    beside.redis = paying.service.database.redis.clone();
    let other = Service::start_on(beside, &settings(&paying.sandbox, &[])).await;
    // Repeats also meet while the payment is being opened.
    paying.switch(json!({"create_delay_ms": 300}));
    for round in 0..5 {
        let key = format!("k{round}");
        let asked = (0..20).map(|n| ask(if n % 2 == 0 { &paying.service } else { &other }, keyed("u", &key, 5.0)));
        let replies: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
        assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
        assert_eq!(paying.orders("u").await.len(), round + 1);
    }
    let payments: BTreeSet<_> = paying.orders("u").await.into_iter().map(|order| order.payment_order_id).collect();
    assert_eq!(payments.len(), 5);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_attempt_the_next_one_makes_an_order_that_can_be_paid(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let service = &paying.service;
    for switches in [json!({"create": "refuse"}), json!({"create": "garbage_reply"})] {
        paying.switch(switches);
        let failed = ask(service, keyed("u", "k", 5.0)).await.unwrap_err();
        assert_eq!(code_of(&failed), (Code::Unavailable, "10006".into()));
    }
    paying.switch(json!({}));
    let opened = ask(service, keyed("u", "k", 5.0)).await.unwrap();
    assert_eq!(ask(service, keyed("u", "k", 5.0)).await.unwrap(), opened);
    let payable: Vec<_> = paying.orders("u").await.into_iter().filter(|order| !order.payment_url.is_empty()).collect();
    assert_eq!((payable.len(), payable[0].order_id.as_str()), (1, opened.order_id.as_str()));
    // Other content is also a conflict with the failed attempt.
    assert_eq!(code_of(&ask(service, keyed("u", "k", 6.0)).await.unwrap_err()).1, "10007");

    // Concurrent repeats of a failing attempt get its error, and open no payment.
    paying.switch(json!({"create": "refuse", "create_delay_ms": 500}));
    let before = paying.orders("u").await.len();
    let twins = join_all((0..10).map(|_| ask(service, keyed("u", "twins", 5.0)))).await;
    assert!(twins.into_iter().all(|twin| code_of(&twin.unwrap_err()).1 == "10006"));
    assert_eq!(paying.orders("u").await.len(), before + 1);
    paying.switch(json!({}));
    // A payment of the first, failed order is still credited.
    let first = paying.orders("u").await.pop().unwrap();
    paying.notify(crate::harness::payments::success(&first.order_id, "p-late", 5.0)).await.unwrap();
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn a_repeat_is_found_after_a_change_of_the_configuration(#[values(MySql, Sqlite)] on: Backend) {
    let Paying { service, sandbox } = Paying::start(on).await;
    let first = ask(&service, keyed("u", "k", 500.0)).await.unwrap();
    let Service { database, app, .. } = service;
    app.stop().await;
    let service = Service::start_on(database, &[("billing.max_recharge", "1")]).await;
    assert_eq!(ask(&service, keyed("u", "k", 500.0)).await.unwrap(), first);
    assert_eq!(code_of(&ask(&service, keyed("u", "new", 1.0)).await.unwrap_err()).1, "10006", "not configured");
    drop(sandbox);
}

#[rstest]
#[tokio::test]
async fn an_attempt_of_a_dead_server_is_replaced(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[("payment_service.timeout", "1s")]).await;
    let service = &paying.service;
    // The state after a server died before it had the payment page.
    paying.legacy_order("recharge_u_1793491200", "u", 5).await;
    let database = &service.database;
    database.execute("UPDATE recharge_order SET idempotency_key = 'k', payment_method = 'alipay'").await;
    let opened = ask(service, keyed("u", "k", 5.0)).await.unwrap();
    assert_ne!(opened.order_id, "recharge_u_1793491200");
    assert_eq!(paying.order("recharge_u_1793491200").await.status, "failed");
    assert_eq!(ask(service, keyed("u", "k", 5.0)).await.unwrap(), opened);

    // A recent attempt may continue on another server, so the repeat waits for it.
    let now = match on {
        MySql => "UTC_TIMESTAMP(6)",
        Sqlite => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
    };
    let young = format!(
        "UPDATE recharge_order SET status = 'pending', idempotency_key = 'young', created_at = {now} \
         WHERE order_id = 'recharge_u_1793491200'"
    );
    database.execute(&young).await;
    let waited = ask(service, keyed("u", "young", 5.0)).await.unwrap_err();
    assert_eq!(code_of(&waited), (Code::Unavailable, "10014".into()));
    let noted = "UPDATE recharge_order SET payment_url = 'https://pay/1' WHERE order_id = 'recharge_u_1793491200'";
    let (asked, ()) = tokio::join!(ask(service, keyed("u", "young", 5.0)), database.execute(noted));
    assert_eq!(asked.unwrap().payment_url, "https://pay/1");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_top_up_beyond_the_largest_balance_is_refused(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[("billing.max_recharge", "999999999.99")]).await;
    let service = &paying.service;
    let refused = async |user: &str, amount: f64| {
        let refused = paying.try_recharge(user, amount).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()));
        assert!(refused.message().starts_with("amount: with all pending top-ups"), "{refused:?}");
    };
    service.adjust("u", 999_999_990.0).await;
    refused("u", 10.0).await;
    let pending = paying.recharge("u", 9.5).await;
    refused("u", 0.5).await;
    paying.recharge("u", 0.49).await;
    // A failed order does not count.
    paying.press(&pending.payment_url, "FAILED").await;
    paying.until_order_is(&pending.order_id, "failed").await;
    let paid = paying.recharge("u", 9.5).await;
    // Held balance counts as balance.
    service.use_up_free_quota("u", "asset").await;
    let hold = json!({"user_id": "u", "service_name": "asset", "count": 1000, "trace_id": "h"});
    assert_eq!(service.post("/internal/v1/billing/reserve", hold.to_string()).await.0, 200);
    refused("u", 10.0).await;
    paying.press(&paid.payment_url, "SUCCESS").await;
    paying.until_order_is(&paid.order_id, "success").await;
    refused("u", 0.02).await;
    // A charge makes room, and a negative balance makes more.
    service.adjust("v", -0.0 + 1.0).await;
    paying.recharge("v", 999_999_998.99).await;
    refused("v", 0.02).await;

    // Two concurrent top-ups of a user without an account.
    for round in 0..5 {
        let user = format!("new-{round}");
        let both = join_all([600_000_000.0; 2].map(|amount| paying.try_recharge(&user, amount))).await;
        let (kept, refused): (Vec<_>, Vec<_>) = both.into_iter().partition(Result::is_ok);
        assert_eq!((kept.len(), refused.len()), (1, 1));
        assert_eq!(code_of(refused[0].as_ref().unwrap_err()).1, "10009");
        assert_eq!(paying.orders(&user).await.len(), 1);
    }
    paying.until_reported().await;
    service.assert_audit_is_clean().await;
    until("the hold exists", async || service.account("u").await.held > 0.0).await;
}
