//! `--once match-settlements`: the books beside a settlement file of payment-service.

use billing_service::service::proto::{RechargeCallbackRequest, ResolvePaymentRequest};
use rstest::rstest;
use serde_json::json;

use super::{cron, run, stderr, stdout};
use crate::harness::{
    Backend, MySql, Sqlite,
    payments::{Paying, press, settings, success},
};

#[rstest]
#[tokio::test]
async fn what_is_missing_on_either_side_is_named_and_nothing_is_written(#[values(MySql, Sqlite)] on: Backend) {
    // The clock of a signature would be another.
    let paying = Paying::start_with(on, &[("payment_service.callback_auth", "none")]).await;
    paying.service.clock.set("2026-11-20T04:00:00Z");
    let mut orders = Vec::new();
    for amount in [10.0, 20.0, 30.0, 40.0] {
        orders.push(paying.recharge("u", amount).await);
    }
    let [same, other, lacking, open] = &orders[..] else { panic!("{orders:?}") };
    for reply in [same, other, lacking] {
        press(&paying.service.http, &reply.payment_url, "SUCCESS").await;
        paying.until_order_is(&reply.order_id, "success").await;
    }
    paying.until_reported().await;
    for (payment, action) in
        [("p-second", ""), ("p-credited", "credit"), ("p-lacking", "credit"), ("p-back", "dismiss")]
    {
        paying.notify(success(&same.order_id, payment, 10.0)).await.unwrap_err();
        if !action.is_empty() {
            let user_id = if action == "credit" { "w" } else { "" };
            let (payment_order_id, reason) = (payment.into(), "looked into it".into());
            let request =
                ResolvePaymentRequest { payment_order_id, action: action.into(), user_id: user_id.into(), reason };
            paying.service.internal.clone().resolve_payment(request).await.unwrap();
        }
    }
    let back = RechargeCallbackRequest {
        status: "CHARGEBACK".into(),
        refund_id: "c-back".into(),
        ..success(&same.order_id, "p-back", 10.0)
    };
    paying.notify(back).await.unwrap();
    for (reply, amount) in [(same, "4"), (other, "5")] {
        let url =
            format!("http://{}/internal/v1/billing/recharge/{}/refund", paying.service.app.grpc_addr, reply.order_id);
        let body = json!({"refund_id": format!("r-{amount}"), "amount": amount, "reason": "asked for it"});
        let refunded = paying.service.http.post(url).body(body.to_string()).send().await.unwrap();
        assert_eq!(refunded.status(), 200);
    }
    paying.until_reported().await;
    let payment = async |order: &str| paying.order(order).await.payment_order_id;
    let (paid_same, paid_other) = (payment(&same.order_id).await, payment(&other.order_id).await);
    let (same, other, lacking, open) = (&same.order_id, &other.order_id, &lacking.order_id, &open.order_id);
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines = format!(
        "order id,payment id,amount,fee,date\n\n\
         {same},p-credited,10,0,2026-11-20\n\
         {same},p-back,10,0,2026-11-20\n\
         {same},p-back,-10,0,2026-11-20\n\
         {same},{paid_same},10,0.06,2026-11-20\n\
         {same},{paid_same},-4.00,0,2026-11-20\n\
         {other},{paid_other},19.99,0.12,2026-11-20\n\
         {same},p-second,10,0.06,2026-11-20\n\
         {open},p-open,40,0.24,2026-11-20\n\
         stray,p-stray,1,0.01,2026-11-20\n\
         {other},{paid_other},-6,0,2026-11-20\n"
    );
    std::fs::write(file.path(), lines).unwrap();
    let database = &paying.service.database;
    let conf = database.config_file(&settings(&paying.sandbox, &[]));
    let tables = async || {
        let columns = ["order_id", "status", "updated_at"];
        let orders = database.rows(&columns, "FROM recharge_order ORDER BY order_id").await;
        (orders, database.rows(&["job"], "FROM job_run").await, database.rows(&["job"], "FROM job_lease").await)
    };
    let before = tables().await;
    let path = file.path().to_str().unwrap();
    let matched = run(cron(&conf, &["--once", "match-settlements", "--file", path])).await;
    assert_eq!(tables().await, before);
    let lacked = payment(lacking).await;
    let expected = [
        format!("different: line 8, order {other}, payment {paid_other}, 19.99: credited was 20"),
        format!("missing here: line 9, order {same}, payment p-second, 10: it is an unapplied payment, open"),
        format!("missing here: line 10, order {open}, payment p-open, 40: the order is pending and not credited"),
        "missing here: line 11, order stray, payment p-stray, 1: no such order".to_owned(),
        format!("missing in the file: order {lacking}, payment {lacked}, 30, credited on 2026-11-20"),
        format!(
            "missing in the file: unapplied payment p-lacking, order {same}, 10, credited to a user, first reported on \
             2026-11-20"
        ),
        format!("missing in the file: refund r-5 (requested) of order {other}, -5"),
        format!("missing here: line 12, order {other}, payment {paid_other}, -6: no such refund in these days"),
        "10 lines of 2026-11-20 to 2026-11-20: 5 matched, 4 missing here, 3 missing in the file, 1 different; \
         amount 80.99, fee 0.49"
            .to_owned(),
    ];
    let expected: Vec<_> = expected.iter().map(|line| format!("match-settlements: {line}")).collect();
    assert_eq!(stdout(&matched).lines().collect::<Vec<_>>(), expected, "{}", stderr(&matched));
    assert_eq!(matched.status.code(), Some(1));
}

/// A paid top-up of 9 on 2026-11-20, and its order.
async fn topped_up(on: Backend) -> (Paying, String) {
    let paying = Paying::start_with(on, &[("payment_service.callback_auth", "none")]).await;
    paying.service.clock.set("2026-11-20T04:00:00Z");
    let opened = paying.recharge("u", 9.0).await;
    press(&paying.service.http, &opened.payment_url, "SUCCESS").await;
    paying.until_order_is(&opened.order_id, "success").await;
    paying.until_reported().await;
    (paying, opened.order_id)
}

#[rstest]
#[tokio::test]
async fn each_part_of_an_unapplied_payment_that_went_back_has_one_line(#[values(MySql, Sqlite)] on: Backend) {
    let (paying, order) = topped_up(on).await;
    let order = &order;
    paying.notify(success(order, "p-parts", 9.0)).await.unwrap_err();
    for (id, amount) in [("r-1", 2.0), ("r-2", 3.5), ("r-3", 3.5)] {
        let status = "REFUNDED".into();
        let report = success(order, "p-parts", amount);
        paying.notify(RechargeCallbackRequest { status, refund_id: id.into(), ..report }).await.unwrap();
    }
    let own = paying.order(order).await.payment_order_id;
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines = [(own.as_str(), "9"), ("p-parts", "9"), ("p-parts", "-3.5"), ("p-parts", "-2"), ("p-parts", "-3.5")];
    let lines: String = lines.iter().map(|(id, amount)| format!("{order},{id},{amount},0,2026-11-20\n")).collect();
    let conf = paying.service.database.config_file(&settings(&paying.sandbox, &[]));
    let matched = async |lines: &str| {
        std::fs::write(file.path(), lines).unwrap();
        let path = file.path().to_str().unwrap();
        let matched = run(cron(&conf, &["--once", "match-settlements", "--file", path])).await;
        (matched.status.code(), stdout(&matched))
    };
    let sums = "match-settlements: 5 lines of 2026-11-20 to 2026-11-20: 5 matched, 0 missing here, 0 missing in the file, \
                0 different; amount 9, fee 0\n";
    assert_eq!(matched(&lines).await, (Some(0), sums.to_owned()));
    let (code, told) = matched(&format!("{lines}{order},p-parts,-3.5,0,2026-11-20\n")).await;
    let further = format!("missing here: line 6, order {order}, payment p-parts, -3.5: no such refund in these days");
    assert!(code == Some(1) && told.contains(&further) && told.contains("5 matched, 1 missing here"), "{told}");
}

/// A payment that was credited to a user came to payment-service, also if its money went back.
#[rstest]
#[tokio::test]
async fn a_credited_payment_whose_money_went_back_is_missing_in_the_file(#[values(MySql, Sqlite)] on: Backend) {
    let (paying, order) = topped_up(on).await;
    let order = &order;
    let own = paying.order(order).await.payment_order_id;
    paying.notify(success(order, "p-back", 9.0)).await.unwrap_err();
    let resolve = async |action: &str, user: &str| {
        let (payment_order_id, reason) = ("p-back".into(), "looked into it".into());
        let request = ResolvePaymentRequest { payment_order_id, action: action.into(), user_id: user.into(), reason };
        paying.service.internal.clone().resolve_payment(request).await.unwrap();
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{order},{own},9,0,2026-11-20\n")).unwrap();
    let conf = paying.service.database.config_file(&settings(&paying.sandbox, &[]));
    let assert_missing = async || {
        let matched = run(cron(&conf, &["--once", "match-settlements", "--file", file.path().to_str().unwrap()])).await;
        let told = stdout(&matched);
        let missing = format!("missing in the file: unapplied payment p-back, order {order}, 9, credited to a user");
        assert!(told.contains(&missing) && told.contains("1 missing in the file"), "{told}");
    };
    resolve("credit", "w").await;
    assert_missing().await;
    let (status, refund_id) = ("CHARGEBACK".into(), "c-back".into());
    let back = RechargeCallbackRequest { status, refund_id, ..success(order, "p-back", 9.0) };
    paying.notify(back).await.unwrap();
    assert_missing().await;
    paying.service.adjust("w", -9.0).await;
    resolve("dismiss", "").await;
    assert_missing().await;
}

#[tokio::test]
async fn a_settlement_file_and_its_job_belong_together() {
    let paying = Paying::start(Sqlite).await;
    let conf = paying.service.database.config_file(&settings(&paying.sandbox, &[]));
    for arguments in [
        &["--once", "match-settlements"][..],
        &["--once", "audit", "--file", "x.csv"],
        &["--once", "match-settlements", "--file", "/nowhere/x.csv"],
        &["--file", "x.csv"],
    ] {
        let refused = run(cron(&conf, arguments)).await;
        assert!(!refused.status.success() && stderr(&refused).contains("--"), "{arguments:?}: {}", stderr(&refused));
    }
}
