//! Look-ups and lists of orders.

use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{
    Backend, MySql, Sqlite,
    payments::{Paying, success},
};

#[rstest]
#[tokio::test]
async fn only_its_user_finds_an_order_by_its_id(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let reply = paying.recharge("u", 5.0).await;
    let path = format!("/api/v1/billing/recharge/{}", reply.order_id);
    let (status, order) = paying.service.get(&path).await;
    assert_eq!(status, 200);
    let mut names: Vec<_> = order.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "amount",
            "created_at",
            "currency",
            "order_id",
            "payment_method",
            "payment_order_id",
            "payment_url",
            "refunded_amount",
            "status",
            "updated_at",
            "user_id"
        ]
    );
    assert_eq!(paying.service.get(&format!("{path}?user_id=u")).await, (200, order));
    for missing in [format!("{path}?user_id=another"), "/api/v1/billing/recharge/recharge_u_1".into()] {
        let (status, error) = paying.service.get(&missing).await;
        assert_eq!((status, &error["reason"]), (404, &json!("ORDER_NOT_FOUND")), "{error}");
    }
}

#[rstest]
#[tokio::test]
async fn orders_are_listed_newest_first_page_by_page(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let mut ids = Vec::new();
    for number in 0..7 {
        let order = paying.recharge("u", 5.0).await.order_id;
        if number % 2 == 0 {
            paying.notify(success(&order, &format!("p-{number}"), 5.0)).await.unwrap();
        }
        ids.insert(0, order);
    }
    paying.recharge("another", 5.0).await;
    let list = async |query: &str| paying.service.get(&format!("/api/v1/billing/recharges?user_id=u{query}")).await.1;
    let listed = |page: &Value| -> Vec<String> {
        let orders = page["orders"].as_array().unwrap();
        orders.iter().map(|order| order["order_id"].as_str().unwrap().to_owned()).collect()
    };
    let all = list("").await;
    assert_eq!((listed(&all), &all["total"], &all["next_page_token"]), (ids.clone(), &json!(7), &json!("")));
    assert_eq!(listed(&list("&page=2&page_size=3").await), ids[3..6]);
    assert_eq!(list("&status=success").await["total"], 4);
    assert_eq!(listed(&list("&status=pending").await), [&*ids[1], &*ids[3], &*ids[5]]);
    assert_eq!(list("&status=expired").await["total"], 0);

    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(&format!("&page_size=2&page_token={token}")).await;
        seen.extend(listed(&page));
        token = page["next_page_token"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ids);

    for (query, field) in [
        ("&status=paid", "status"),
        ("&page_size=101", "page_size"),
        ("&page=-1", "page"),
        ("&page_token=x", "page_token"),
    ] {
        let error = list(query).await;
        assert_eq!((&error["code"], &error["metadata"]["field"]), (&json!(400), &json!(field)), "{error}");
    }
}
