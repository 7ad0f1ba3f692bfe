//! The pay page in a browser.

use crate::harness::{Sqlite, browser::Browser, payments::Paying, wait::until};

#[tokio::test]
async fn a_user_pays_with_a_click() {
    let paying = Paying::start(Sqlite).await;
    let (paid, failed) = (paying.recharge("new_user_001", 50.0).await, paying.recharge("new_user_001", 8.0).await);
    let browser = Browser::open().await;
    browser.go_to(&paid.payment_url).await;
    assert_eq!(browser.text(".amount").await, "50.00 CNY");
    assert!(browser.text("main").await.contains(&paid.order_id));
    browser.screenshot("pay-page.png").await;
    browser.click("button[value=SUCCESS]").await;
    until("the page shows the payment as paid", async || browser.has("dd.paid").await).await;
    assert!(!browser.has("button[value=SUCCESS]").await, "a paid payment can't be paid again");
    browser.screenshot("pay-page-paid.png").await;
    paying.until_order_is(&paid.order_id, "success").await;

    browser.go_to(&failed.payment_url).await;
    browser.click("button[value=FAILED]").await;
    until("the page shows the payment as failed", async || browser.has("dd.failed").await).await;
    assert!(browser.has("button[value=SUCCESS]").await, "a failed payment may be tried again");
    paying.until_order_is(&failed.order_id, "failed").await;
    paying.assert_books("new_user_001", 50.0).await;
}
