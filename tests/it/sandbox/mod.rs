//! payment-sandbox, from the side of billing and of users.

mod callbacks;
mod process;
mod switches;
mod town;

use billing_service::{
    data::payment::proto::{CreatePaymentRequest, PaymentStatus, RefundStatus, payment_client::PaymentClient},
    sandbox::{Answer, Options, Sandbox, Switches},
};
use tonic::Code;

use self::town::Town;
use crate::harness::wait::soon;

#[tokio::test]
async fn the_page_shows_and_escapes_the_content_of_the_order() {
    let town = Town::new(Switches::default()).await;
    let order = CreatePaymentRequest {
        subject: "<script>alert('1')</script> & 充值".into(),
        return_url: "https://shop.example/?a=\"><b>&c=d".into(),
        ..town.order("order-<b>\"1\"")
    };
    let payment = town.try_create(order).await.unwrap();
    assert_eq!(payment.pay_url, format!("http://{}/pay/{}", town.sandbox.addr, payment.payment_id));
    let response = soon(town.browser.get(&payment.pay_url).send()).await.unwrap();
    assert_eq!(response.status(), 200);
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        // No page of another site frames it.
        (
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(response.headers()[name], value);
    }
    let open = response.text().await.unwrap();
    for shown in [
        "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; 充值",
        "order-&lt;b&gt;&quot;1&quot;",
        "12.34 CNY",
        "WeChat Pay",
        "Waiting for payment",
        "no money moves",
        r#"name="result" value="SUCCESS""#,
        r#"name="result" value="FAILED""#,
    ] {
        assert!(open.contains(shown), "{shown} is not in {open}");
    }
    assert!(!open.contains("<script>") && !open.contains("<b>"), "{open}");

    town.submit(&payment.pay_url, "result=SUCCESS").await;
    let paid = town.page(&payment.pay_url).await;
    assert!(paid.contains(">Paid<") && !paid.contains(r#"value="SUCCESS""#), "{paid}");
    assert!(paid.contains(r#"value="REFUNDED""#) && paid.contains(r#"value="CHARGEBACK""#), "{paid}");
    assert!(paid.contains(r#"href="https://shop.example/?a=&quot;&gt;&lt;b&gt;&amp;c=d""#), "{paid}");
}

#[tokio::test]
async fn only_a_web_address_becomes_a_link() {
    let town = Town::new(Switches { lose: true, ..Default::default() }).await;
    let order = CreatePaymentRequest { return_url: "javascript:alert(1)".into(), ..town.order("o") };
    let payment = town.try_create(order).await.unwrap();
    town.submit(&payment.pay_url, "result=SUCCESS").await;
    let paid = town.page(&payment.pay_url).await;
    assert!(paid.contains(">Paid<") && !paid.contains("javascript"), "{paid}");
}

#[tokio::test]
async fn the_page_of_an_unknown_payment_says_so() {
    let town = Town::new(Switches::default()).await;
    let url = format!("http://{}/pay/pay_0", town.sandbox.addr);
    let got = soon(town.browser.get(&url).send()).await.unwrap();
    let posted = town.submit(&url, "result=SUCCESS").await;
    for response in [got, posted] {
        assert_eq!(response.status(), 404);
        assert!(response.text().await.unwrap().contains("No such payment"));
    }
}

#[tokio::test]
async fn a_paid_payment_stays_paid() {
    let mut town = Town::new(Switches::default()).await;
    let payment = town.create("o").await;
    assert_eq!(town.status_of("o").await, PaymentStatus::Pending);
    let response = town.submit(&payment.pay_url, "result=Success").await;
    assert_eq!(response.status(), 303);
    let location = response.headers()["location"].to_str().unwrap();
    assert_eq!(response.url().join(location).unwrap().as_str(), payment.pay_url);
    town.billing.called().await.answer(200);
    for again in ["result=FAILED", "result=SUCCESS"] {
        assert_eq!(town.submit(&payment.pay_url, again).await.status(), 303);
        assert_eq!(town.status_of("o").await, PaymentStatus::Success);
    }
    assert_eq!(town.answers().await, [Answer::Http(200)]);
}

#[tokio::test]
async fn a_failed_payment_may_be_tried_again() {
    let mut town = Town::new(Switches::default()).await;
    let payment = town.create("o").await;
    for (title, result, status) in [
        ("<title>Pay 12.34 CNY", "result=failed", PaymentStatus::Failed),
        ("<title>Failed: 12.34 CNY", "result=FAILED", PaymentStatus::Failed),
        ("<title>Failed: 12.34 CNY", "result=SUCCESS", PaymentStatus::Success),
    ] {
        let page = town.page(&payment.pay_url).await;
        assert!(page.contains("<form") && page.contains(title), "{page}");
        town.submit(&payment.pay_url, result).await;
        assert_eq!(town.status_of("o").await, status);
        let call = town.billing.called().await;
        assert_eq!(call.content["status"], result[7..].to_uppercase());
        call.answer(200);
    }
    assert!(town.page(&payment.pay_url).await.contains("<title>Paid 12.34 CNY"));
    assert_eq!(town.answers().await.len(), 3);
}

#[tokio::test]
async fn money_goes_back_on_the_page_and_never_more_than_was_paid() {
    let mut town = Town::new(Switches::default()).await;
    let payment = town.create("o").await;
    assert_eq!(town.submit(&payment.pay_url, "result=REFUNDED").await.status(), 409, "it is not paid");
    town.submit(&payment.pay_url, "result=SUCCESS").await;
    town.billing.called().await.answer(200);
    for (form, status, amount) in [
        ("result=REFUNDED&amount=2.34", "REFUNDED", 2.34),
        ("result=chargeback&amount=5", "CHARGEBACK", 5.0),
        ("result=REFUNDED&amount=", "REFUNDED", 5.0),
    ] {
        assert_eq!(town.submit(&payment.pay_url, form).await.status(), 303, "{form}");
        let call = town.billing.called().await;
        assert_eq!((&call.content["status"], &call.content["amount"]), (&status.into(), &amount.into()), "{form}");
        assert_eq!(call.content["payment_order_id"], payment.payment_id);
        let id = call.content["refund_id"].as_str().unwrap().to_owned();
        call.answer(200);
        let found = town.refund_of(&id).await.unwrap();
        assert_eq!((found.order_id.as_str(), found.status()), ("o", RefundStatus::Success));
    }
    let page = town.page(&payment.pay_url).await;
    assert!(page.contains(": 5.00, done</p>") && !page.contains("<form"), "{page}");
    for bad in ["result=REFUNDED", "result=CHARGEBACK&amount=0.01", "result=REFUND_SUCCESS&refund_id=x"] {
        assert_eq!(town.submit(&payment.pay_url, bad).await.status(), 409, "{bad}");
    }
    for bad in ["result=REFUNDED&amount=x", "result=REFUNDED&amount=0.001"] {
        assert_eq!(town.submit(&payment.pay_url, bad).await.status(), 400, "{bad}");
    }
    assert_eq!(town.answers().await.len(), 4);
}

#[tokio::test]
async fn any_other_result_changes_nothing() {
    let mut town = Town::new(Switches::default()).await;
    let payment = town.create("o").await;
    for bad in ["result=PAID", "result=", "", "outcome=SUCCESS", "result=SUCCESS&result=FAILED"] {
        assert_eq!(town.submit(&payment.pay_url, bad).await.status(), 400, "{bad}");
    }
    let request = town.browser.post(&payment.pay_url).header("content-type", "multipart/form-data; boundary=b");
    let part = "--b\r\nContent-Disposition: form-data; name=\"result\"\r\n\r\nSUCCESS\r\n--b--\r\n";
    let response = soon(request.body(part).send()).await.unwrap();
    assert_eq!(response.status(), 415);
    assert!(response.text().await.unwrap().contains("must be <code>application/x-www-form-urlencoded</code>"));
    assert_eq!(town.status_of("o").await, PaymentStatus::Pending);
    assert_eq!(town.answers().await, []);
}

#[tokio::test]
async fn a_payment_is_found_by_its_id_and_by_its_order() {
    let town = Town::new(Switches::default()).await;
    let payment = town.create("o").await;
    assert_eq!(payment.status(), PaymentStatus::Pending);
    assert!((1..=64).contains(&payment.payment_id.len()));
    let other = town.create("other").await;
    for found in [
        town.get(&payment.payment_id, "").await.unwrap(),
        town.get("", "o").await.unwrap(),
        town.get(&other.payment_id, "o").await.unwrap(),
    ] {
        assert_eq!((found.payment_id.as_str(), found.order_id.as_str()), (payment.payment_id.as_str(), "o"));
        assert_eq!((found.amount, found.currency.as_str(), found.status()), (1_234, "CNY", PaymentStatus::Pending));
    }
    for (payment_id, order_id, code) in
        [("pay_0", "", Code::NotFound), ("", "nobody's", Code::NotFound), ("", "", Code::InvalidArgument)]
    {
        assert_eq!(town.get(payment_id, order_id).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn an_order_has_one_payment() {
    let town = Town::new(Switches::default()).await;
    let payment = town.create("o").await;
    let again = town.try_create(CreatePaymentRequest { amount: 1, ..town.order("o") }).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    assert_eq!(town.get("", "o").await.unwrap().payment_id, payment.payment_id);
}

#[tokio::test]
async fn an_invalid_order_is_refused_with_the_name_of_its_field() {
    let town = Town::new(Switches::default()).await;
    let order = || town.order("o");
    for (field, bad) in [
        ("order_id", CreatePaymentRequest { order_id: "x".repeat(65), ..order() }),
        ("amount", CreatePaymentRequest { amount: 0, ..order() }),
        ("currency", CreatePaymentRequest { currency: "yuan".into(), ..order() }),
        ("method", CreatePaymentRequest { method: 0, ..order() }),
        ("notify_url", CreatePaymentRequest { notify_url: "https://127.0.0.1/callback".into(), ..order() }),
    ] {
        let refused = town.try_create(bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with(&format!("{field}: ")), "{refused}");
    }
    assert_eq!(town.get("", "o").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn pay_pages_are_below_the_public_url() {
    let public_url = Some("https://pay.example/sandbox/".parse().unwrap());
    let options = Options { addr: "127.0.0.1:0".into(), public_url, ..Default::default() };
    let sandbox = Sandbox::start(options).await.unwrap();
    let town = Town::new(Switches::default()).await;
    let mut payments = PaymentClient::connect(format!("http://{}", sandbox.addr)).await.unwrap();
    let payment = payments.create_payment(town.order("o")).await.unwrap().into_inner();
    assert_eq!(payment.pay_url, format!("https://pay.example/sandbox/pay/{}", payment.payment_id));
}
