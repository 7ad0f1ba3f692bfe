//! Errors over REST in the language of their reader. Codes, reasons and metadata are the same in each.

use reqwest::Method;
use serde_json::Value;

use crate::harness::{Service, Sqlite};

async fn answer(service: &Service, method: Method, path: &str, (language, body): (&str, &str)) -> Value {
    let mut request = service.http.request(method, format!("http://{}{path}", service.app.http_addr));
    if !language.is_empty() {
        request = request.header("accept-language", language);
    }
    if !body.is_empty() {
        request = request.header("content-type", "application/json").body(body.to_owned());
    }
    request.send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn the_message_of_an_error_is_in_the_preferred_language_and_the_rest_is_not() {
    let service = Service::start(Sqlite).await;
    let recharge = "/api/v1/billing/recharge";
    let (large, order) = (r#"{"user_id":"u","amount":-1,"payment_method":"alipay"}"#, "/api/v1/billing/recharge/none");
    for (method, path, body, english, chinese) in [
        (Method::GET, order, "", "order none not found", "未找到订单 none"),
        (Method::POST, recharge, large, "amount: ", "参数 amount 无效："),
        (Method::GET, "/api/v1/billing/stats/today?user_id=u&service_name=x", "", "unknown service", "未知的服务"),
        (Method::GET, "/api/v1/nothing", "", "no such path", "没有此路径"),
        (Method::DELETE, order, "", "the path exists, with another method", "不支持该方法"),
    ] {
        let plain = answer(&service, method.clone(), path, ("", body)).await;
        assert!(plain["message"].as_str().unwrap().contains(english), "{plain}");
        for (language, part) in
            [("en-GB,zh;q=0.5", english), ("fr", english), ("zh-CN,zh;q=0.9,en;q=0.8", chinese), ("zh", chinese)]
        {
            let mut translated = answer(&service, method.clone(), path, (language, body)).await;
            assert!(translated["message"].as_str().unwrap().contains(part), "{language}: {translated}");
            translated["message"] = plain["message"].clone();
            assert_eq!(translated, plain, "{language}");
        }
    }
}

#[tokio::test]
async fn the_front_end_style_has_the_message_in_the_language_too() {
    let service = Service::start_with(Sqlite, &[("server.http.style", "devshare")]).await;
    let refused = answer(&service, Method::GET, "/api/v1/billing/recharge/none", ("zh", "")).await;
    assert_eq!((&refused["errorCode"], &refused["errorMessage"]), (&"10003".into(), &"未找到订单 none".into()));
}
