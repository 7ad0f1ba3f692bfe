//! A top-up from its form to the credited balance.

use rstest::rstest;

use super::visitor::Visitor;
use crate::harness::{Backend, MySql, Sqlite, payments::Paying, wait::until};

const OPEN: [(&str, &str); 2] = [("console", "{enabled: true, demo_user: u}"), ("server.http.hosts", "[127.0.0.1]")];
const FORM: [(&str, &str); 2] = [("amount", "50.5"), ("method", "wechatpay")];

#[rstest]
#[tokio::test]
async fn a_top_up_goes_to_the_pay_page_and_back_to_the_credit(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &OPEN).await;
    let visitor = Visitor::of(&paying.service);
    let started = visitor.submit("/console/top-up", "/console/top-up", &FORM).await;
    assert_eq!(started.status, 303, "{}", started.html);
    let orders = paying.orders("u").await;
    let [order] = &orders[..] else { panic!("{orders:?}") };
    assert_eq!((order.amount, order.payment_method.as_str()), (50.5, "wechatpay"));
    assert_eq!(started.header("location"), format!("/console/top-ups/{}/pay", order.order_id));
    let leaving = visitor.get(started.header("location")).await;
    assert_eq!(leaving.attributes("content").last().unwrap(), &format!("1;url={}", order.payment_url));
    assert!(leaving.attributes("href").contains(&order.payment_url));

    let waiting = visitor.get(&format!("/console/top-ups/{}", order.order_id)).await;
    let next = format!("/console/top-ups/{}?wait=1", order.order_id);
    assert_eq!(waiting.attributes("content").last().unwrap(), &format!("3;url={next}"), "the page looks again");
    assert!(waiting.text().contains("Waiting for the payment"));
    let last = visitor.get(&format!("/console/top-ups/{}?wait=40", order.order_id)).await;
    assert!(!last.html.contains("http-equiv") && last.text().contains("Look again"), "it does not look for ever");

    paying.press(&order.payment_url, "SUCCESS").await;
    // The pay page leads back to the page of the order.
    let back = format!("http://{}/console/top-ups/{}", paying.service.app.http_addr, order.order_id);
    let pay_page = paying.service.http.get(&order.payment_url).send().await.unwrap().text().await.unwrap();
    assert!(pay_page.contains(&format!("href=\"{back}\"")), "{pay_page}");
    until("the page shows the credit", async || visitor.get(&next).await.text().contains("Credited to your balance"))
        .await;
    let shown = visitor.get(&next).await;
    assert!(
        shown.text().contains("Your balance is 50.50 CNY.") && !shown.html.contains("http-equiv"),
        "{}",
        shown.text()
    );
    let paid = visitor.get(&format!("/console/top-ups/{}/pay", order.order_id)).await;
    assert_eq!(paid.status, 303, "a paid order has no way to pay");
    let list = visitor.get("/console/top-ups").await;
    assert!(list.text().contains(&format!("50.50 Credited 0.00 WeChat Pay {}", order.order_id)), "{}", list.text());
    paying.assert_books("u", 50.5).await;
}

#[tokio::test]
async fn the_request_does_not_choose_the_address_to_which_a_payer_returns() {
    const FOREIGN: [(&str, &str); 2] = [("host", "evil.example"), ("origin", "http://evil.example")];
    let with_url = "{enabled: true, demo_user: u, url: 'https://billing.example.com'}";
    for (console, expected) in [(OPEN[0].1, "https://app.example.com/paid"), (with_url, "https://billing.example.com")]
    {
        let changes = [("console", console), ("payment_service.return_url", "https://app.example.com/paid")];
        let paying = Paying::start_with(Sqlite, &changes).await;
        let visitor = Visitor::of(&paying.service);
        let hidden = visitor.get("/console/top-up").await.hidden("/console/top-up");
        let fields: Vec<_> = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(FORM).collect();
        let started = visitor.post_with("/console/top-up", &FOREIGN, &fields).await;
        assert_eq!(started.status, 303, "{}", started.html);
        let orders = paying.orders("u").await;
        // The pay page names the address once the payment has an outcome.
        paying.press(&orders[0].payment_url, "SUCCESS").await;
        let pay_page = paying.service.http.get(&orders[0].payment_url).send().await.unwrap().text().await.unwrap();
        assert!(pay_page.contains(&format!("href=\"{expected}")), "{pay_page}");
        assert!(!pay_page.contains("evil.example"), "{pay_page}");
    }
    let paying = Paying::start_with(Sqlite, &OPEN).await;
    let visitor = Visitor::of(&paying.service);
    let hidden = visitor.get("/console/top-up").await.hidden("/console/top-up");
    let fields: Vec<_> = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(FORM).collect();
    assert_eq!(visitor.post_with("/console/top-up", &FOREIGN, &fields).await.status, 403, "the Host is not listed");
    assert!(paying.orders("u").await.is_empty());
}

#[tokio::test]
async fn a_form_that_is_sent_twice_starts_one_top_up() {
    let paying = Paying::start_with(Sqlite, &OPEN).await;
    let visitor = Visitor::of(&paying.service);
    let hidden = visitor.get("/console/top-up").await.hidden("/console/top-up");
    let fields: Vec<_> = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(FORM).collect();
    let [first, second] =
        [visitor.post("/console/top-up", &fields).await, visitor.post("/console/top-up", &fields).await];
    assert_eq!(first.header("location"), second.header("location"));
    assert_eq!(paying.orders("u").await.len(), 1);
}

#[tokio::test]
async fn a_form_that_is_sent_again_with_another_amount_gets_a_new_key() {
    let paying = Paying::start_with(Sqlite, &OPEN).await;
    let visitor = Visitor::of(&paying.service);
    let hidden = visitor.get("/console/top-up").await.hidden("/console/top-up");
    let with = |hidden: &std::collections::BTreeMap<String, String>, amount: &str| {
        let own = [("amount".to_owned(), amount.to_owned()), ("method".to_owned(), "alipay".to_owned())];
        hidden.clone().into_iter().chain(own).collect::<Vec<_>>()
    };
    let send = async |fields: Vec<(String, String)>| {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        visitor.post("/console/top-up", &fields).await
    };
    assert_eq!(send(with(&hidden, "5")).await.status, 303);
    let other = send(with(&hidden, "6")).await;
    assert_eq!(other.status, 409, "{}", other.html);
    assert!(other.text().contains("Send it again to start another one."), "{}", other.text());
    assert_eq!(send(with(&other.hidden("/console/top-up"), "6")).await.status, 303);
    assert_eq!(paying.orders("u").await.len(), 2);
}

#[tokio::test]
async fn a_wrong_amount_stays_in_the_form_with_its_reason() {
    let paying = Paying::start_with(Sqlite, &OPEN).await;
    let visitor = Visitor::of(&paying.service);
    for wrong in ["", "-5", "0", "1.234", "1000000", "a lot", "1e3", "NaN"] {
        let form =
            visitor.submit("/console/top-up", "/console/top-up", &[("amount", wrong), ("method", "stripe")]).await;
        assert_eq!(form.status, 400, "{wrong}");
        assert!(form.html.contains("role=\"alert\"") && form.text().contains("Amount: "), "{}", form.text());
        assert!(form.html.contains(&format!("value=\"{wrong}\"")), "{}", form.html);
    }
    let other = visitor.submit("/console/top-up", "/console/top-up", &[("amount", "5"), ("method", "cash")]).await;
    assert_eq!(other.status, 400);
    assert!(paying.orders("u").await.is_empty());
}

#[tokio::test]
async fn an_account_that_is_not_active_is_offered_no_top_up() {
    let paying = Paying::start_with(Sqlite, &OPEN).await;
    let visitor = Visitor::of(&paying.service);
    let hidden = visitor.get("/console/top-up").await.hidden("/console/top-up");
    let frozen = r#"{"status":"FROZEN","reason":"checked"}"#;
    assert_eq!(paying.service.post("/internal/v1/billing/users/u/status", frozen).await.0, 200);
    let page = visitor.get("/console").await;
    assert!(
        page.text().contains("This account is frozen") && !page.html.contains("href=\"/console/top-up\""),
        "{}",
        page.text()
    );
    let form = visitor.get("/console/top-up").await;
    assert!(!form.html.contains("action=\"/console/top-up") && form.text().contains("This account is frozen"));
    assert!(!form.text().contains("Your sign-in"), "one reason: {}", form.text());
    let fields: Vec<_> = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(FORM).collect();
    let refused = visitor.post("/console/top-up", &fields).await;
    assert_eq!(refused.status, 403);
    assert!(paying.orders("u").await.is_empty());
}
