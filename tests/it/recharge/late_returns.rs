//! Money of an unapplied payment that goes back twice, over another amount, or before a look-up.

use billing_service::{
    biz::recharge::reconcile::ReconciledOrders,
    service::proto::{ListAuditEventsRequest, RechargeCallbackReply, RechargeCallbackRequest},
};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;
use tonic::Status;

use super::{
    reconcile::{NEXT_DAY, SOON, reconcile_with},
    refunds::Paid,
    returned::{failed_once, refund_there, returned, row_of, shown, status_of},
    unapplied::{counted, resolve, stray, stray_in},
};
use crate::harness::{
    Backend, MySql, Sqlite, code_of,
    payments::{Paying, success},
    wait::until,
};

/// A stray payment over 7 whose first refund is under way.
async fn refunding(paying: &Paying, order: &str) -> String {
    paying.switch(json!({}));
    let payment = stray(paying, order).await;
    paying.switch(json!({"refund": "pending", "lose": true}));
    assert_eq!(resolve(paying, &payment, "refund", "").await.unwrap().payment.unwrap().status, "refunding");
    payment
}

fn attempt_of(payment: &str, number: u32) -> String {
    format!("unapplied_{payment}_{number}")
}

#[rstest]
#[tokio::test]
async fn the_refund_and_the_chargeback_of_one_payment_both_count(
    #[values(MySql, Sqlite)] on: Backend,
    #[values(true, false)] is_refund_first: bool,
) {
    let paying = Paying::start(on).await;
    let payment = refunding(&paying, "stray").await;
    let mut reports = [
        returned("REFUNDED", "stray", &attempt_of(&payment, 1), &payment, 7.0),
        returned("CHARGEBACK", "stray", "c-1", &payment, 7.0),
    ];
    if !is_refund_first {
        reports.reverse();
    }
    for (report, status) in reports.iter().zip(["refunded", "conflict"]) {
        // One of those at once may find the row locked, and comes again.
        join_all((0..4).map(|_| paying.notify(report.clone()))).await;
        paying.notify(report.clone()).await.unwrap();
        assert_eq!(status_of(&paying, &payment).await, status);
    }
    let both = ("conflict".into(), 7.0, 14.0, 1, "14 went back. looked into it".into());
    assert_eq!(shown(&paying, &payment).await, both);
    assert_eq!(counted(&paying).await, 1);
    assert_eq!((paying.counted("refunded").await, paying.counted("chargeback").await), (1, 1));
}

#[rstest]
#[tokio::test]
async fn a_refund_that_succeeds_after_the_rest_was_booked_is_a_conflict(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let payment = refunding(&paying, "stray").await;
    paying.notify(returned("CHARGEBACK", "stray", "c-1", &payment, 2.0)).await.unwrap();
    paying.service.adjust("u", 5.0).await;
    assert_eq!(resolve(&paying, &payment, "dismiss", "").await.unwrap().payment.unwrap().status, "refunded");
    // The answer was lost.
    assert!(resolve(&paying, &payment, "dismiss", "").await.unwrap().replayed);
    assert_eq!(counted(&paying).await, 0);
    let late = returned("REFUNDED", "stray", &attempt_of(&payment, 1), &payment, 7.0);
    for _ in 0..2 {
        paying.notify(late.clone()).await.unwrap();
        let both = ("conflict".into(), 7.0, 9.0, 1, "9 went back. looked into it".into());
        assert_eq!(shown(&paying, &payment).await, both);
    }
    assert_eq!(counted(&paying).await, 1);
    let events = ListAuditEventsRequest { rpc: "ResolvePayment".into(), ..Default::default() };
    let events = paying.service.internal.clone().list_audit_events(events).await.unwrap().into_inner().events;
    assert_eq!(events.len(), 2, "one of the refund, and one of the dismissal");
}

#[rstest]
#[tokio::test]
async fn two_attempts_that_both_succeed_are_a_conflict(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let payment = failed_once(&paying, "stray").await;
    paying.switch(json!({"lose": true}));
    assert_eq!(resolve(&paying, &payment, "refund", "").await.unwrap().payment.unwrap().status, "refunded");
    for attempt in [2, 1, 1] {
        paying.notify(returned("REFUNDED", "stray", &attempt_of(&payment, attempt), &payment, 7.0)).await.unwrap();
    }
    assert_eq!(
        shown(&paying, &payment).await,
        ("conflict".into(), 7.0, 14.0, 1, "14 went back. looked into it".into())
    );
}

/// The word of payment-service counts.
#[rstest]
#[tokio::test]
async fn a_hint_about_an_attempt_counts_after_the_rest_was_booked(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[("payment_service.callback_auth", "confirm")]).await;
    let payment = stray(&paying, "stray").await;
    paying.switch(json!({"refund": "refuse", "lose": true}));
    resolve(&paying, &payment, "refund", "").await.unwrap();
    paying.switch(json!({"lose": true}));
    refund_there(&paying, &payment, "r-part", 200).await;
    paying.hint(returned("REFUNDED", "stray", "r-part", &payment, 2.0)).await.unwrap();
    assert_eq!(status_of(&paying, &payment).await, "conflict");
    resolve(&paying, &payment, "dismiss", "").await.unwrap();
    refund_there(&paying, &payment, &attempt_of(&payment, 1), 500).await;
    paying.hint(returned("REFUNDED", "stray", &attempt_of(&payment, 1), &payment, 5.0)).await.unwrap();
    let both = ("conflict".into(), 7.0, 7.0, 1, "7 went back. looked into it".into());
    assert_eq!(shown(&paying, &payment).await, both);
}

/// Older releases have counted no ids.
#[rstest]
#[tokio::test]
async fn a_repeat_of_an_attempt_that_an_older_release_noted_changes_nothing(
    #[values(MySql, Sqlite)] on: Backend,
    #[values("confirm", "signed")] auth: &str,
) {
    let paying = Paying::start_with(on, &[("payment_service.callback_auth", auth)]).await;
    let payment = stray(&paying, "stray").await;
    paying.switch(json!({"lose": true}));
    resolve(&paying, &payment, "refund", "").await.unwrap();
    let noted = shown(&paying, &payment).await;
    assert_eq!((noted.0.as_str(), noted.2), ("refunded", 7.0));
    paying.service.database.execute("DELETE FROM unapplied_return").await;
    paying.notify(returned("REFUNDED", "stray", &attempt_of(&payment, 1), &payment, 7.0)).await.unwrap();
    assert_eq!(shown(&paying, &payment).await, noted);
}

#[rstest]
#[tokio::test]
async fn a_refund_over_an_earlier_amount_is_found_before_a_credit(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let payment = stray(&paying, "stray").await;
    paying.switch(json!({"refund": "refuse"}));
    resolve(&paying, &payment, "refund", "").await.unwrap();
    paying.notify(success("stray", &payment, 20.0)).await.unwrap_err();
    paying.switch(json!({"lose": true}));
    refund_there(&paying, &payment, &attempt_of(&payment, 1), 700).await;
    assert_eq!(code_of(&resolve(&paying, &payment, "credit", "u").await.unwrap_err()).1, "10011");
    let found = ("conflict".into(), 20.0, 7.0, 2, "7 went back. looked into it".into());
    assert_eq!(shown(&paying, &payment).await, found);
    paying.assert_books("u", 0.0).await;
}

#[rstest]
#[tokio::test]
async fn an_older_attempt_that_was_made_is_found_before_a_credit(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let payment = stray(&paying, "stray").await;
    paying.switch(json!({"refund": "refuse"}));
    for _ in 0..2 {
        assert_eq!(resolve(&paying, &payment, "refund", "").await.unwrap().payment.unwrap().status, "open");
    }
    paying.switch(json!({"lose": true}));
    refund_there(&paying, &payment, &attempt_of(&payment, 1), 700).await;
    assert_eq!(code_of(&resolve(&paying, &payment, "credit", "u").await.unwrap_err()).1, "10011");
    assert_eq!(status_of(&paying, &payment).await, "refunded");
    paying.assert_books("u", 0.0).await;
}

#[rstest]
#[tokio::test]
async fn the_job_counts_the_report_of_a_payment_whose_return_came_first(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    paying.switch(json!({"lose": true}));
    let opened = paying.recharge("u", 20.0).await;
    let payment = paying.order(&opened.order_id).await.payment_order_id;
    paying.notify(returned("REFUNDED", "nobody", "r-1", &payment, 5.0)).await.unwrap();
    assert_eq!(shown(&paying, &payment).await, ("refunded".into(), 5.0, 5.0, 0, "5 went back.".into()));
    paying.press(&opened.payment_url, "SUCCESS").await;
    for (clock, status) in [(SOON, "pending"), (SOON, "pending"), (NEXT_DAY, "expired")] {
        reconcile_with(&paying, clock, &[]).await.unwrap();
        assert_eq!(paying.order(&opened.order_id).await.status, status);
        assert_eq!(shown(&paying, &payment).await, ("conflict".into(), 20.0, 5.0, 1, "5 went back.".into()));
    }
    assert_eq!(counted(&paying).await, 1);
    paying.assert_books("u", 0.0).await;
}

#[rstest]
#[tokio::test]
async fn a_return_without_a_currency_is_in_that_of_its_payment(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    paying.switch(json!({"lose": true}));
    let reported = stray_in(&paying, "stray", "USD").await;
    let report = RechargeCallbackRequest { currency: "USD".into(), ..success("stray", &reported, 7.0) };
    paying.notify(report).await.unwrap_err();
    paying.notify(returned("CHARGEBACK", "stray", "c-1", &reported, 7.0)).await.unwrap();
    assert_eq!(shown(&paying, &reported).await, ("refunded".into(), 7.0, 7.0, 1, String::new()));

    // The report names neither the payment nor the currency, so payment-service is asked for both.
    paying.legacy_order("twice", "u", 7).await;
    paying.service.database.execute("UPDATE recharge_order SET status = 'success', payment_order_id = 'p-1'").await;
    paying.service.adjust("u", 7.0).await;
    let second = stray_in(&paying, "twice", "USD").await;
    refund_there(&paying, &second, "r-usd", 700).await;
    paying.notify(returned("REFUNDED", "twice", "r-usd", "", 7.0)).await.unwrap();
    let kept = row_of(&paying, &second).await.unwrap();
    assert_eq!((kept.status.as_str(), kept.currency.as_str()), ("refunded", "USD"));
    assert_eq!(paying.order("twice").await.refunded_amount, 0.0);
}

#[rstest]
#[tokio::test]
async fn the_job_finds_a_refund_that_failed_late(#[values(MySql, Sqlite)] on: Backend) {
    let paid = Paid::start(on).await;
    paid.paying.switch(json!({"refund": "refuse", "lose": true}));
    assert_eq!(paid.refund("late", 5.0).await.status, "failed");
    // It was pending for days before it failed.
    let begun = if on == MySql { "created_at - INTERVAL 3 DAY" } else { "created_at - 259200000000" };
    paid.paying.service.database.execute(&format!("UPDATE recharge_refund SET created_at = {begun}")).await;
    paid.paying.switch(json!({"lose": true}));
    refund_there(&paid.paying, &paid.payment().await, "late", 500).await;
    let found = ReconciledOrders { refunded: 1, ..Default::default() };
    assert_eq!(reconcile_with(&paid.paying, SOON, &[]).await.unwrap(), found);
    assert_eq!(paid.state().await, (15.0, 0.0, 5.0));
}

/// The answer to a report while others change rows under the lock that it waits for.
async fn beside(
    paying: &Paying,
    changes: &'static str,
    report: RechargeCallbackRequest,
) -> Result<RechargeCallbackReply, Status> {
    let mut other = paying.service.database.mysql().await;
    sqlx::raw_sql(changes).execute(&mut other).await.unwrap();
    let commit = async {
        let waiting = "FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID() \
                       AND info LIKE '%FROM unapplied_payment WHERE%FOR UPDATE%'";
        until("it waits", async || paying.service.database.rows(&["COUNT(*)"], waiting).await == [["1"]]).await;
        sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    };
    let (answer, ()) = futures_util::join!(paying.notify(report), commit);
    answer
}

#[tokio::test]
async fn a_return_beside_the_credit_of_its_order_comes_again_and_debits_it() {
    let paying = Paying::start(MySql).await;
    paying.legacy_order("late", "u", 7).await;
    paying.service.adjust("u", 7.0).await;
    paying.notify(success("late", "p-late", 9.0)).await.unwrap_err();
    assert_eq!(status_of(&paying, "p-late").await, "open");
    let credits = "BEGIN; UPDATE unapplied_payment SET status = 'applied'; \
                   UPDATE recharge_order SET status = 'success', payment_order_id = 'p-late'";
    let back = returned("CHARGEBACK", "late", "c-1", "p-late", 7.0);
    assert_eq!(code_of(&beside(&paying, credits, back.clone()).await.unwrap_err()).1, "10006");
    assert_eq!(paying.service.account("u").await.balance, 7.0);
    for _ in 0..2 {
        paying.notify(back.clone()).await.unwrap();
        assert_eq!(paying.service.account("u").await.balance, 0.0);
    }
}

#[tokio::test]
async fn the_refund_of_a_payment_beside_its_chargeback_counts() {
    let paying = Paying::start(MySql).await;
    let payment = refunding(&paying, "stray").await;
    let chargeback = "BEGIN; UPDATE unapplied_payment SET status = 'refunded', returned_amount = 7; \
                      INSERT INTO unapplied_return (refund_id, payment_order_id, amount, created_at) \
                      SELECT 'c-1', payment_order_id, 7, NOW(6) FROM unapplied_payment";
    let refund = returned("REFUNDED", "stray", &attempt_of(&payment, 1), &payment, 7.0);
    beside(&paying, chargeback, refund).await.unwrap();
    let both = ("conflict".into(), 7.0, 14.0, 1, "14 went back. looked into it".into());
    assert_eq!(shown(&paying, &payment).await, both);
}
