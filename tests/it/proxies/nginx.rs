//! nginx itself, with the configuration of examples/nginx.

use super::{Answer, Api, TOKEN, guarded, post, proxy};
use crate::harness::private_server::{free_port, needs_installed};

/// The place of the Debian package, which is in the path of root alone.
const NGINX: &str = "/usr/sbin/nginx";

#[tokio::test]
async fn nginx_asks_by_auth_request() {
    needs_installed("nginx");
    assert!(std::path::Path::new(NGINX).exists(), "run `make deps`: it installs nginx");
    let (service, api, port) = (guarded().await, Api::start().await, free_port());
    let addresses = [
        ("127.0.0.1:8000", format!("127.0.0.1:{port}")),
        ("127.0.0.1:9107", service.app.grpc_addr.to_string()),
        ("127.0.0.1:8080", api.addr.to_string()),
    ];
    let mut changes: Vec<_> = addresses.iter().map(|(from, to)| (*from, to.as_str())).collect();
    let paths = "access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; \
                 uwsgi_temp_path uwsgi; scgi_temp_path scgi;";
    changes.push(("access_log off;", paths));
    // Workers would outlive a master that is killed.
    changes.push(("daemon off;", "daemon off; master_process off;"));
    let nginx =
        proxy("nginx", "nginx/nginx.conf", &changes, &[NGINX, "-p", "{folder}", "-e", "stderr", "-c"], port).await;
    let get = async |key: &str| {
        let forged =
            [("x-billing-user-id", "carol"), ("authorization", "Bearer of-the-client"), ("x-user-id", "carol")];
        let mut request = service.http.get(format!("http://127.0.0.1:{port}/assets/1")).header("x-api-key", key);
        for (name, value) in forged {
            request = request.header(name, value);
        }
        Answer::to(request).await
    };
    let passed = get("key-of-alice").await;
    assert_eq!((passed.status, passed.body.as_str()), (200, "/assets/1 of alice as 32"), "{}", nginx.log());
    assert!(passed.header("ratelimit").starts_with(r#""free-quota";r=2;t="#), "{:?}", passed.headers);
    for key in ["no-key", "KEY-OF-ALICE"] {
        assert_eq!(get(key).await.status, 401, "{key}");
    }
    post(&service, "deduct", r#"{"user_id":"alice","service_name":"asset","count":2,"trace_id":"t"}"#).await;
    let refused = get("key-of-alice").await;
    assert_eq!(refused.status, 402, "{}", nginx.log());
    assert_eq!(refused.header("x-billing-reason"), "insufficient balance");
    assert_eq!(refused.header("x-billing-error-code"), "10001");
    assert!(refused.header("ratelimit").starts_with(r#""free-quota";r=0;t="#), "{:?}", refused.headers);
    assert_eq!(get("key-of-bob").await.status, 200);
    post(&service, "users/bob/limits", r#"{"daily_limit":0}"#).await;
    assert_eq!(get("key-of-bob").await.status, 429);
    post(&service, "users/bob/status", r#"{"status":"FROZEN","reason":"r"}"#).await;
    assert_eq!(get("key-of-bob").await.status, 403);
    service.app.stop().await;
    let url = format!("http://127.0.0.1:{port}/assets/1");
    let away = Answer::to(service.http.get(url).header("x-api-key", "key-of-alice")).await;
    assert_eq!(away.status, 503, "{}", nginx.log());
    assert!(std::fs::read_to_string(super::example("nginx/nginx.conf")).unwrap().contains(TOKEN));
}
