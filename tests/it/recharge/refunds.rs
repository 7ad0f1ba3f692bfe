//! Top-ups that go back, over the sandbox: payment-service refuses, fails, loses its answer, and reports
//! on its own.

use billing_service::{
    app::App,
    biz::recharge::reconcile::ReconciledOrders,
    service::proto::{ListAuditEventsRequest, RechargeCallbackRequest, RefundRechargeReply, RefundRechargeRequest},
};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;
use tonic::{Code, Status};

use super::reconcile::{NEXT_DAY, reconcile_with};
use crate::harness::{
    Backend, MySql, Sqlite,
    caller::Client,
    charge, code_of,
    payments::{Paying, press, settings, submit, success},
};

/// A user with a top-up over 20, which the sandbox knows, and the pay page of it.
pub(super) struct Paid {
    pub paying: Paying,
    pub order: String,
    pub page: String,
}

impl Paid {
    pub async fn start(on: Backend) -> Self {
        Self::start_with(on, &[]).await
    }

    pub async fn start_with(on: Backend, changes: &[(&str, &str)]) -> Self {
        let paying = Paying::start_with(on, changes).await;
        let reply = paying.recharge("u", 20.0).await;
        paying.press(&reply.payment_url, "SUCCESS").await;
        paying.until_order_is(&reply.order_id, "success").await;
        paying.until_reported().await;
        Self { paying, order: reply.order_id, page: reply.payment_url }
    }

    fn request(&self, id: &str, amount: f64) -> RefundRechargeRequest {
        RefundRechargeRequest {
            order_id: self.order.clone(),
            refund_id: id.into(),
            amount,
            reason: "asked for it".into(),
            force: false,
        }
    }

    async fn try_refund(&self, request: RefundRechargeRequest) -> Result<RefundRechargeReply, Status> {
        self.paying.service.internal.clone().refund_recharge(request).await.map(|reply| reply.into_inner())
    }

    pub async fn refund(&self, id: &str, amount: f64) -> RefundRechargeReply {
        self.try_refund(self.request(id, amount)).await.unwrap()
    }

    /// Balance, hold and refunded amount, after an audit.
    pub async fn state(&self) -> (f64, f64, f64) {
        self.paying.service.assert_audit_is_clean().await;
        let account = self.paying.service.account("u").await;
        (account.balance, account.held, self.paying.order(&self.order).await.refunded_amount)
    }

    pub fn returned(&self, status: &str, id: &str, amount: f64, payment: &str) -> RechargeCallbackRequest {
        RechargeCallbackRequest { status: status.into(), refund_id: id.into(), ..success(&self.order, payment, amount) }
    }

    pub async fn payment(&self) -> String {
        self.paying.order(&self.order).await.payment_order_id
    }
}

/// A second server on the database of a service, with the same payment-service and clock.
pub(super) async fn second_server(paying: &Paying) -> (App, Client) {
    let config = paying.service.database.config(&settings(&paying.sandbox, &[]));
    let other = App::start_with_clock(config, paying.service.clock.clone()).await.unwrap();
    let client = Client::connect(format!("http://{}", other.grpc_addr)).await.unwrap();
    (other, client)
}

#[rstest]
#[tokio::test]
async fn a_top_up_goes_back_in_parts_and_says_so(#[values(MySql, Sqlite)] on: Backend) {
    let paid = Paid::start(on).await;
    let service = &paid.paying.service;
    let url = format!("http://{}/internal/v1/billing/recharge/{}/refund", service.app.grpc_addr, paid.order);
    let body = json!({"amount": "5.5", "reason": "asked for it"}).to_string();
    let request = || service.http.post(&url).header("idempotency-key", "r-1").body(body.clone());
    let first: serde_json::Value = request().send().await.unwrap().json().await.unwrap();
    assert_eq!(
        first,
        json!({"success": true, "refund_id": "r-1", "status": "success", "amount": 5.5, "balance": 14.5,
            "refunded_amount": 5.5, "replayed": false})
    );
    let again: serde_json::Value = request().send().await.unwrap().json().await.unwrap();
    assert_eq!((&again["status"], &again["replayed"]), (&json!("success"), &json!(true)));
    // The callback of the sandbox about the refund changes nothing more.
    paid.paying.until_reported().await;
    assert_eq!(paid.state().await, (14.5, 0.0, 5.5));

    let rest = paid.refund("r-2", 0.0).await;
    assert_eq!((rest.amount, rest.balance, rest.refunded_amount), (14.5, 0.0, 20.0));
    paid.paying.until_reported().await;
    assert_eq!(paid.paying.order(&paid.order).await.status, "refunded");
    assert_eq!(paid.state().await, (0.0, 0.0, 20.0));
    for id in ["r-3", "unapplied_p_1"] {
        let none = paid.try_refund(paid.request(id, 0.0)).await.unwrap_err();
        assert_eq!(code_of(&none), (Code::InvalidArgument, "10009".into()), "{id}");
    }
    // The payment is still that of the order.
    let payment = paid.payment().await;
    paid.paying.notify(success(&paid.order, &payment, 20.0)).await.unwrap();
    assert_eq!(paid.state().await, (0.0, 0.0, 20.0));

    let (_, list) = service.get("/api/v1/billing/recharges?user_id=u&status=refunded").await;
    assert_eq!((&list["total"], &list["orders"][0]["refunded_amount"]), (&json!(1), &json!(20.0)));
    let events = ListAuditEventsRequest { rpc: "RefundRecharge".into(), ..Default::default() };
    let events = service.internal.clone().list_audit_events(events).await.unwrap().into_inner().events;
    let of: Vec<_> = events.iter().map(|event| (event.user_id.as_str(), event.reason.as_str())).collect();
    assert_eq!(of, [("u", "asked for it"); 2]);
    let metrics = service.metrics().await;
    for line in [
        r#"billing_balance_total{operation="recharge_refund"} 2"#,
        r#"billing_balance_amount{operation="recharge_refund"} 20"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
}

#[rstest]
#[tokio::test]
async fn a_refund_that_is_refused_or_fails_frees_its_amount(#[values(MySql, Sqlite)] on: Backend) {
    let paid = Paid::start(on).await;
    for (number, switch) in ["refuse", "fail"].into_iter().enumerate() {
        paid.paying.switch(json!({"refund": switch}));
        let id = format!("r-{number}");
        let failed = paid.refund(&id, 5.0).await;
        assert_eq!((failed.success, failed.status.as_str(), failed.balance), (false, "failed", 20.0));
        paid.paying.switch(json!({}));
        assert_eq!(paid.refund(&id, 5.0).await.status, "failed", "an id is decided once");
        assert_eq!(paid.state().await, (20.0, 0.0, 0.0));
    }
    assert_eq!(paid.refund("another", 5.0).await.status, "success");
}

/// The answer is lost after the refund, and again before it.
#[rstest]
#[tokio::test]
async fn without_an_answer_the_amount_is_held_and_the_refund_is_made_once(#[values(MySql, Sqlite)] on: Backend) {
    let paid = Paid::start(on).await;
    paid.paying.switch(json!({"refund": "lose_reply", "get_refund": "unavailable", "lose": true}));
    let lost = paid.refund("lost", 5.0).await;
    assert_eq!((lost.success, lost.status.as_str(), lost.balance), (true, "pending", 20.0));
    paid.paying.switch(json!({"refund": "unavailable", "lose": true}));
    assert_eq!(paid.refund("unsent", 7.0).await.status, "pending");
    assert_eq!(paid.state().await, (20.0, 12.0, 0.0));
    // The held amount can't be spent or refunded twice.
    paid.paying.service.use_up_free_quota("u", "asset").await;
    let refused = paid.paying.service.try_deduct(charge("u", "asset", 161)).await.unwrap_err();
    assert_eq!(code_of(&refused).1, "10001");
    let refused = paid.try_refund(paid.request("more", 8.01)).await.unwrap_err();
    assert_eq!(code_of(&refused).1, "10009");

    // A repeat asks by the id before anything else.
    paid.paying.switch(json!({"refund": "refuse", "lose": true}));
    let found = paid.refund("lost", 5.0).await;
    assert_eq!((found.status.as_str(), found.replayed), ("success", true));
    // The first request of the other may still be under way, so a repeat does not make another one.
    assert_eq!(paid.refund("unsent", 7.0).await.status, "pending");
    assert_eq!(paid.state().await, (15.0, 7.0, 5.0));

    paid.paying.switch(json!({"lose": true}));
    let reconciled = reconcile_with(&paid.paying, NEXT_DAY, &[]).await.unwrap();
    assert_eq!(reconciled, ReconciledOrders { refunded: 1, ..Default::default() });
    assert_eq!(reconcile_with(&paid.paying, NEXT_DAY, &[]).await.unwrap(), ReconciledOrders::default());
    assert_eq!(paid.state().await, (8.0, 0.0, 12.0));
}

#[rstest]
#[tokio::test]
async fn a_slow_refund_is_settled_by_a_callback_or_by_the_job(#[values(MySql, Sqlite)] on: Backend) {
    let paid = Paid::start(on).await;
    paid.paying.switch(json!({"refund": "pending"}));
    for id in ["done", "failed", "open"] {
        assert_eq!(paid.refund(id, 5.0).await.status, "pending");
    }
    assert_eq!(paid.state().await, (20.0, 15.0, 0.0));
    let page = paid.paying.service.http.get(&paid.page).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("Refund done: 5.00, pending"), "{page}");
    for (id, result) in [("done", "REFUND_SUCCESS"), ("failed", "REFUND_FAILED")] {
        let pressed = submit(&paid.paying.service.http, &paid.page, &format!("result={result}&refund_id={id}")).await;
        assert_eq!(pressed.status(), 200);
    }
    paid.paying.until_reported().await;
    assert_eq!(paid.state().await, (15.0, 10.0, 5.0));
    let reconciled = reconcile_with(&paid.paying, NEXT_DAY, &[]).await.unwrap();
    assert_eq!(reconciled, ReconciledOrders { not_refunded: 1, refunds_left: 1, ..Default::default() });
    assert_eq!(paid.state().await, (15.0, 5.0, 5.0));
    // The money of the failed one went back after all, and its report is late.
    let payment = paid.payment().await;
    paid.paying.notify(paid.returned("REFUNDED", "failed", 5.0, &payment)).await.unwrap();
    assert_eq!(paid.state().await, (10.0, 5.0, 10.0));
}

#[rstest]
#[tokio::test]
async fn two_operators_at_once_give_back_no_more_than_the_order(#[values(MySql, Sqlite)] on: Backend) {
    let paid = Paid::start(on).await;
    let equal = join_all((0..20).map(|_| paid.refund("same", 4.0))).await;
    assert_eq!(equal.iter().filter(|reply| !reply.replayed).count(), 1);
    paid.paying.until_reported().await;
    let ids: Vec<String> = (0..20).map(|number| format!("r-{number}")).collect();
    let answers = join_all(ids.iter().map(|id| paid.try_refund(paid.request(id, 5.0)))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (3, 17));
    let codes = refused.into_iter().map(|refused| code_of(&refused.unwrap_err()).1);
    assert!(codes.into_iter().all(|code| ["10009", "10001"].contains(&code.as_str())));
    paid.paying.until_reported().await;
    assert_eq!(paid.state().await, (1.0, 0.0, 19.0));
}

#[rstest]
#[tokio::test]
async fn operators_on_two_servers_give_back_no_more_than_the_order(#[values(MySql, Sqlite)] on: Backend) {
    let paid = Paid::start(on).await;
    let (other, second) = second_server(&paid.paying).await;
    let try_refund = |number: usize, request: RefundRechargeRequest| {
        let mut client = if number.is_multiple_of(2) { paid.paying.service.internal.clone() } else { second.clone() };
        async move { client.refund_recharge(request).await.map(|reply| reply.into_inner()) }
    };
    let equal = join_all((0..20).map(|number| try_refund(number, paid.request("same", 4.0)))).await;
    assert_eq!(equal.iter().filter(|reply| !reply.as_ref().unwrap().replayed).count(), 1);
    paid.paying.until_reported().await;
    let answers = (0..20).map(|number| try_refund(number, paid.request(&format!("r-{number}"), 5.0)));
    let (made, refused): (Vec<_>, Vec<_>) = join_all(answers).await.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (3, 17));
    let codes = refused.into_iter().map(|refused| code_of(&refused.unwrap_err()).1);
    assert!(codes.into_iter().all(|code| ["10009", "10001"].contains(&code.as_str())));
    paid.paying.until_reported().await;
    assert_eq!(paid.state().await, (1.0, 0.0, 19.0));
    other.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_chargeback_of_spent_money_leaves_a_debt_once(#[values(MySql, Sqlite)] on: Backend) {
    let paid = Paid::start(on).await;
    paid.paying.service.adjust("u", -18.0).await;
    paid.paying.switch(json!({"duplicates": 3}));
    let pressed = submit(&paid.paying.service.http, &paid.page, "result=CHARGEBACK&amount=15").await;
    assert_eq!(pressed.status(), 200);
    paid.paying.until_reported().await;
    assert_eq!(paid.state().await, (-13.0, 0.0, 15.0));
    paid.paying.switch(json!({}));
    press(&paid.paying.service.http, &paid.page, "REFUNDED").await;
    paid.paying.until_reported().await;
    assert_eq!(paid.state().await, (-18.0, 0.0, 20.0));
    assert_eq!(paid.paying.order(&paid.order).await.status, "refunded");
    let payment = paid.payment().await;
    let beyond = paid.paying.notify(paid.returned("CHARGEBACK", "more", 0.01, &payment)).await.unwrap_err();
    assert_eq!(code_of(&beyond).1, "10005");
    // A payment that did not credit the order, and whose report may follow.
    paid.paying.notify(paid.returned("CHARGEBACK", "other", 1.0, "p-other")).await.unwrap();
    assert_eq!(paid.state().await, (-18.0, 0.0, 20.0));
    for (wrong, code) in [
        (RechargeCallbackRequest { refund_id: String::new(), ..paid.returned("CHARGEBACK", "", 1.0, "") }, "10009"),
        (RechargeCallbackRequest { order_id: "nobody".into(), ..paid.returned("REFUNDED", "x", 1.0, "") }, "10003"),
        (RechargeCallbackRequest { currency: "USD".into(), ..paid.returned("REFUNDED", "x", 1.0, "") }, "10005"),
    ] {
        assert_eq!(code_of(&paid.paying.notify(wrong).await.unwrap_err()).1, code);
    }
    // In debt, free units are free, and paid ones are refused. A top-up pays the debt first.
    assert_eq!(paid.paying.service.deduct(charge("u", "asset", 1_000)).await.free_count, 1_000);
    let refused = paid.paying.service.try_deduct(charge("u", "asset", 1)).await.unwrap_err();
    assert_eq!(code_of(&refused).1, "10001");
    let more = paid.paying.recharge("u", 19.0).await;
    paid.paying.press(&more.payment_url, "SUCCESS").await;
    paid.paying.until_order_is(&more.order_id, "success").await;
    assert_eq!(paid.state().await.0, 1.0);
    // With that of the other payment.
    assert_eq!((paid.paying.counted("chargeback").await, paid.paying.counted("refunded").await), (2, 1));
}

#[rstest]
#[tokio::test]
async fn a_report_without_a_proof_needs_the_word_of_payment_service(#[values(MySql, Sqlite)] on: Backend) {
    let paid = Paid::start_with(on, &[("payment_service.callback_auth", "confirm")]).await;
    let payment = paid.payment().await;
    let forged = paid.paying.hint(paid.returned("CHARGEBACK", "forged", 5.0, &payment)).await.unwrap_err();
    assert_eq!(code_of(&forged).1, "10006");
    // A real one, whose callback is lost; and its report with another amount.
    paid.paying.switch(json!({"refund": "pending", "lose": true}));
    paid.refund("real", 5.0).await;
    let open = paid.paying.hint(paid.returned("REFUNDED", "real", 5.0, &payment)).await.unwrap_err();
    assert_eq!(code_of(&open).1, "10006");
    submit(&paid.paying.service.http, &paid.page, "result=REFUND_SUCCESS&refund_id=real").await;
    let other = paid.paying.hint(paid.returned("REFUNDED", "real", 6.0, &payment)).await.unwrap_err();
    assert_eq!(code_of(&other).1, "10006");
    assert_eq!(paid.state().await, (20.0, 5.0, 0.0));
    // The answer does not prove the kind, so a lie about it changes nothing.
    paid.paying.hint(paid.returned("CHARGEBACK", "real", 5.0, &payment)).await.unwrap();
    paid.paying.hint(paid.returned("REFUNDED", "real", 5.0, &payment)).await.unwrap();
    assert_eq!(paid.state().await, (15.0, 0.0, 5.0));
    assert_eq!((paid.paying.counted("chargeback").await, paid.paying.counted("refunded").await), (0, 1));
}

#[rstest]
#[tokio::test]
async fn a_report_that_comes_before_its_credit_is_to_come_again(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    paying.switch(json!({"lose": true}));
    let reply = paying.recharge("u", 20.0).await;
    let paid = Paid { order: reply.order_id, page: reply.payment_url, paying };
    let payment = paid.payment().await;
    let early = paid.paying.notify(paid.returned("CHARGEBACK", "c", 20.0, &payment)).await.unwrap_err();
    assert_eq!(code_of(&early), (Code::Unavailable, "10006".into()));
    paid.paying.notify(success(&paid.order, &payment, 20.0)).await.unwrap();
    paid.paying.notify(paid.returned("CHARGEBACK", "c", 20.0, &payment)).await.unwrap();
    assert_eq!(paid.state().await, (0.0, 0.0, 20.0));
}
