//! Readiness: a server is ready if it can make charges.

use rstest::rstest;
use serde_json::json;

use crate::harness::{
    Database, Service, Sqlite, charge, http_client, lock::Lock, mariadb::OwnServer, process::ServerProcess, wait::until,
};

#[tokio::test]
async fn a_read_only_mariadb_is_not_ready() {
    let server = OwnServer::start().await;
    let service = Service::start_on(Database::on(server.create_database().await), &[]).await;
    service.deduct(charge("u", "asset", 1)).await;
    assert_eq!(service.get("/ready").await.0, 200);
    service.database.execute("SET GLOBAL read_only = ON").await;
    for reply in [service.get("/ready").await, service.internal_get("/ready").await] {
        assert_eq!((reply.0, &reply.1["status"]), (503, &json!("DOWN")));
    }
    assert_eq!(service.get("/health").await.0, 200, "the server is alive");
    service.database.execute("SET GLOBAL read_only = OFF").await;
    assert_eq!(service.get("/ready").await.0, 200);
}

/// A limit on file sizes stands for a full disk.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_full_disk_is_not_ready(#[values(true, false)] with_charges: bool) {
    let database = Database::create(Sqlite).await;
    let server = ServerProcess::start(&database.config_file(&[("billing.settlement.retry_timeout", "1s")]));
    let ready = || async {
        let reply = reqwest::get(format!("{}/ready", server.grpc)).await.unwrap();
        reply.status().as_u16()
    };
    let deduct = || async {
        let request = http_client().post(format!("{}/internal/v1/billing/deduct", server.grpc));
        let body = json!({"user_id": "u", "service_name": "passport", "count": 1});
        request.json(&body).send().await.unwrap().status().as_u16()
    };
    assert_eq!((deduct().await, ready().await), (200, 200));
    server.limit_files("4096");
    if with_charges {
        assert_eq!(deduct().await, 503);
        assert_eq!(ready().await, 503, "a charge just failed");
    }
    until("the server is not ready", async || ready().await == 503).await;
    server.limit_files("unlimited");
    until("the server is ready again", async || ready().await == 200).await;
    assert_eq!(deduct().await, 200);
    database.assert_audit_is_clean().await;
}

/// Another process holds the write lock. Charges wait for the lock, and then fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_locked_sqlite_file_is_not_ready() {
    let service = Service::start_with(Sqlite, &[("billing.settlement.retry_timeout", "1s")]).await;
    service.deduct(charge("u", "asset", 1)).await;
    assert_eq!(service.get("/ready").await.0, 200);
    let lock = Lock::take(&service.database).await;
    until("the server is not ready", async || service.get("/ready").await.0 == 503).await;
    assert_eq!(service.get("/health").await.0, 200, "the server is alive");
    service.try_deduct(charge("u", "asset", 1)).await.unwrap_err();
    assert_eq!(service.get("/ready").await.0, 503, "writes are still impossible");
    lock.release().await;
    until("the server is ready again", async || service.get("/ready").await.0 == 200).await;
    service.deduct(charge("u", "asset", 1)).await;
    service.assert_audit_is_clean().await;
}
