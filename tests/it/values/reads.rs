//! Reads insert no rows.

use std::collections::BTreeMap;

use billing_service::service::proto::{
    CheckQuotaRequest, GetAccountRequest, GetApiKeyQuotaRequest, GetTransactionRequest, InitializeUserRequest,
};
use rstest::rstest;
use serde_json::json;

use crate::harness::{Backend, Database, MySql, Service, Sqlite, charge};

impl Database {
    /// The number of rows in every table.
    async fn row_counts(&self) -> BTreeMap<String, String> {
        let tables = match self.backend {
            MySql => ("table_name", "FROM information_schema.tables WHERE table_schema = DATABASE()"),
            Sqlite => ("name", "FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"),
        };
        let mut counts = BTreeMap::new();
        for row in self.rows(&[tables.0], tables.1).await {
            let count = self.rows(&["COUNT(*)"], &format!("FROM {}", row[0])).await;
            counts.insert(row[0].clone(), count[0][0].clone());
        }
        counts
    }
}

#[rstest]
#[tokio::test]
async fn reads_of_an_unknown_user_insert_no_rows(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.deduct(charge("known", "asset", 7)).await;
    let before = service.database.row_counts().await;
    assert!(before.len() > 10, "{before:?}");

    let account = service.account("invented").await;
    assert_eq!((account.balance, account.held, account.limits), (0.0, 0.0, None));
    let quotas: Vec<_> = account.quotas.iter().map(|quota| (&*quota.service_name, quota.total_quota)).collect();
    assert_eq!(quotas, [("asset", 1_000), ("passport", 10_000), ("payment", 1_000)]);
    assert!(account.quotas.iter().all(|quota| (quota.used_quota, quota.held_quota) == (0, 0)));
    let (status, shown) = service.get("/api/v1/billing/account/invented").await;
    assert_eq!((status, shown["quotas"].as_array().unwrap().len()), (200, 3));
    for path in ["stats/today", "stats/month", "stats/summary", "records", "usage", "recharges"] {
        let (status, _) = service.get(&format!("/api/v1/billing/{path}?user_id=invented")).await;
        assert_eq!(status, 200, "{path}");
    }
    let csv = format!("http://{}/api/v1/billing/records.csv?user_id=invented", service.app.http_addr);
    assert_eq!(service.http.get(csv).send().await.unwrap().text().await.unwrap().lines().count(), 1);
    let (status, _) = service.internal_get("/internal/v1/billing/transactions/invented/t").await;
    assert_eq!(status, 404);
    let transaction = GetTransactionRequest { user_id: "invented".into(), trace_id: "t".into() };
    service.internal.clone().get_transaction(transaction).await.unwrap_err();
    let key = GetApiKeyQuotaRequest { api_key_id: "invented".into() };
    assert_eq!(service.internal.clone().get_api_key_quota(key).await.unwrap().into_inner().quotas, vec![]);
    assert_eq!(service.internal_get("/internal/v1/billing/api-keys/invented/quota").await.0, 200);
    // A refusal that does not depend on the account.
    let body = json!({"user_id": "invented", "service_name": "none", "count": 1, "trace_id": "t"});
    assert_eq!(service.post("/internal/v1/billing/deduct", body.to_string()).await.0, 400);
    assert_eq!(service.database.row_counts().await, before);

    // The reads did not open the account. A check opens one, as usual.
    let initialize = InitializeUserRequest { user_id: "invented".into() };
    assert!(service.internal.clone().initialize_user(initialize).await.unwrap().into_inner().created);
    let check =
        CheckQuotaRequest { user_id: "checked".into(), service_name: "asset".into(), count: 1, ..Default::default() };
    assert_eq!(service.internal.clone().check_quota(check).await.unwrap().into_inner().free_remaining, 1_000);
    let opened = service.database.rows(&["user_id"], "FROM user_balance ORDER BY user_id").await;
    assert_eq!(opened, [["checked"], ["invented"], ["known"]]);
}

#[rstest]
#[tokio::test]
async fn a_read_in_a_new_month_shows_its_quotas_and_inserts_no_rows(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.stop_at("2026-10-20T02:00:00Z".parse().unwrap());
    service.adjust("u", 5.0).await;
    service.deduct(charge("u", "asset", 7)).await;
    service.clock.stop_at("2026-11-20T02:00:00Z".parse().unwrap());
    let before = service.database.row_counts().await;
    let account =
        service.public.clone().get_account(GetAccountRequest { user_id: "u".into() }).await.unwrap().into_inner();
    let asset = account.quotas.iter().find(|quota| quota.service_name == "asset").unwrap();
    assert_eq!((asset.total_quota, asset.used_quota, asset.reset_month.as_str()), (1_000, 0, "2026-11"));
    assert_eq!((account.balance, account.quotas.len()), (5.0, 3));
    assert_eq!(service.database.row_counts().await, before);
    assert_eq!(service.deduct(charge("u", "asset", 1)).await.free_remaining, 999);
    service.assert_audit_is_clean().await;
}
