//! Quotas of keys whose period changes: use in the new period counts.

use billing_service::{
    app,
    service::proto::{
        ApiKeyQuota, CheckQuotaRequest, DeductQuotaRequest, GetApiKeyQuotaRequest, ReleaseReservationRequest,
    },
};
use rstest::rstest;
use serde_json::json;

use super::{MODELS, call, hold, tokens, with};
use crate::harness::{Backend, Database, MySql, Service, Sqlite, charge, code_of};

const FREE_TOKENS: &str = "{llm: 1000000, asset: 1000}";

fn used_of(tokens_used: i32) -> DeductQuotaRequest {
    call("llm", "gpt-4.1", tokens(tokens_used, 0))
}

fn since(quota: &ApiKeyQuota) -> String {
    let since = quota.used_since.unwrap();
    chrono::DateTime::from_timestamp(since.seconds, 0).unwrap().to_rfc3339()
}

impl Service {
    async fn token_quota(&self) -> ApiKeyQuota {
        let request = GetApiKeyQuotaRequest { api_key_id: "k".into() };
        let reply = self.internal.clone().get_api_key_quota(request).await.unwrap().into_inner();
        reply.quotas.into_iter().find(|quota| quota.quota_type == "tokens").unwrap()
    }
}

#[rstest]
#[tokio::test]
async fn a_changed_period_of_a_key_begins_with_its_use_in_that_period(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &with("billing.free_quotas", FREE_TOKENS)).await;
    service.clock.stop_at("2026-11-14T16:00:00Z".parse().unwrap());
    service.bind_key("tokens", "month", 1_000.0).await;
    service.bind_key("requests", "total", 1_000.0).await;
    service.deduct(used_of(60)).await;
    // The next day in the billing zone.
    service.clock.stop_at("2026-11-16T02:00:00Z".parse().unwrap());
    service.deduct(used_of(20)).await;
    let monthly = service.token_quota().await;
    assert_eq!((monthly.used, monthly.used_is_partial), (80.0, true), "the key had no quota in its first days");
    assert_eq!(since(&monthly), "2026-11-14T16:00:00+00:00");

    let daily = service.bind_key("tokens", "day", 50.0).await;
    assert_eq!((daily.used, daily.remaining, daily.used_is_partial), (20.0, 30.0, false));
    assert_eq!(since(&daily), "2026-11-15T16:00:00+00:00", "the beginning of the day");
    assert_eq!(code_of(&service.try_deduct(used_of(31)).await.unwrap_err()).1, "10002");
    let check = |input| CheckQuotaRequest {
        user_id: "u".into(),
        service_name: "llm".into(),
        count: 1,
        api_key_id: "k".into(),
        model: "gpt-4.1".into(),
        estimated_input_tokens: input,
        ..Default::default()
    };
    let mut internal = service.internal.clone();
    assert_eq!(internal.check_quota(check(31)).await.unwrap().into_inner().reason, "api key quota");
    assert_eq!(internal.check_quota(check(30)).await.unwrap().into_inner().reason, "free");
    service.deduct(used_of(30)).await;
    assert_eq!(code_of(&service.try_deduct(used_of(1)).await.unwrap_err()).1, "10002");

    assert_eq!(service.bind_key("tokens", "month", 200.0).await.used, 110.0);
    let total = service.bind_key("tokens", "total", 200.0).await;
    assert_eq!((total.used, total.remaining, total.used_is_partial), (110.0, 90.0, false));
    for (period, used) in [("day", 2.0), ("month", 3.0), ("total", 3.0), ("day", 2.0)] {
        assert_eq!(service.bind_key("requests", period, 9.0).await.used, used, "{period}");
    }
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn periods_are_counted_beside_each_other_over_days_and_months(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &with("billing.free_quotas", FREE_TOKENS)).await;
    service.clock.stop_at("2026-10-31T02:00:00Z".parse().unwrap());
    service.bind_key("tokens", "day", 1_000.0).await;
    service.deduct(used_of(5)).await;
    service.internal.clone().reserve_quota(hold("r", "llm", "gpt-4.1", (300, 0))).await.unwrap();
    service.clock.stop_at("2026-11-01T02:00:00Z".parse().unwrap());
    service.deduct(used_of(20)).await;
    service.clock.stop_at("2026-11-02T02:00:00Z".parse().unwrap());
    service.deduct(used_of(7)).await;
    let all = async || {
        let mut used = Vec::new();
        for period in ["day", "month", "total"] {
            used.push(service.bind_key("tokens", period, 1_000.0).await.used);
        }
        used
    };
    assert_eq!(all().await, [7.0, 27.0, 332.0]);
    // A released hold of an ended month is subtracted from all counts that contain it.
    let release = ReleaseReservationRequest { user_id: "u".into(), trace_id: "r".into() };
    service.internal.clone().release_reservation(release).await.unwrap();
    assert_eq!(all().await, [7.0, 27.0, 32.0]);
    let monthly = service.bind_key("tokens", "month", 1_000.0).await;
    assert_eq!((since(&monthly).as_str(), monthly.used_is_partial), ("2026-10-31T16:00:00+00:00", false));
    service.clock.stop_at("2026-12-05T02:00:00Z".parse().unwrap());
    assert_eq!(all().await, [0.0, 0.0, 32.0]);
}

#[rstest]
#[tokio::test]
async fn amounts_and_requests_keep_their_periods_over_rest(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.clock.stop_at("2026-11-20T02:00:00Z".parse().unwrap());
    service.adjust("u", 100.0).await;
    service.use_up_free_quota("u", "asset").await;
    let keyed = |count| DeductQuotaRequest { api_key_id: "k".into(), ..charge("u", "asset", count) };
    let path = "/internal/v1/billing/api-keys/k/quota";
    let set = async |period: &str| {
        let body = json!({"quota_type": "amount", "period": period, "limit": 10});
        let (status, reply) = service.post(path, body.to_string()).await;
        assert_eq!(status, 200, "{reply}");
        assert_eq!(service.internal_get(path).await, (200, reply.clone()));
        reply["quotas"][0].clone()
    };
    set("month").await;
    service.deduct(keyed(40)).await;
    service.clock.stop_at("2026-11-21T02:00:00Z".parse().unwrap());
    service.deduct(keyed(10)).await;
    let daily = json!({
        "quota_type": "amount", "period": "day", "limit": 10.0, "used": 0.5, "remaining": 9.5,
        "used_since": "2026-11-20T16:00:00Z", "used_is_partial": false,
    });
    assert_eq!(set("day").await, daily);
    let monthly = set("month").await;
    assert_eq!((&monthly["used"], &monthly["used_is_partial"]), (&json!(2.5), &json!(true)));
    assert_eq!(set("day").await, daily);
}

/// The table of an earlier release, which counted only one period.
#[rstest]
#[tokio::test]
async fn use_that_an_earlier_release_did_not_count_is_marked_as_partial(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    app::connect(&database.config(&[])).await.unwrap().close().await;
    for column in ["used_day", "used_month", "used_total", "day_since", "month_since", "total_since"] {
        database.execute(&format!("ALTER TABLE api_key_quota DROP COLUMN {column}")).await;
    }
    database.execute("DELETE FROM _sqlx_migrations WHERE description LIKE '%key_quota_periods'").await;
    let (created, day) = match on {
        MySql => ("'2026-11-02 00:00:00'", "2026-11-27"),
        Sqlite => ("1793577600000000", "2026-11-27"),
    };
    database
        .execute(&format!(
            "INSERT INTO api_key_quota (api_key_id, quota_type, period, quota_limit, used, usage_date, created_at, \
             updated_at) VALUES ('k', 'tokens', 'month', 1000, 80, '{day}', {created}, {created}), \
             ('k', 'requests', 'total', 1000, 30, '{day}', {created}, {created})"
        ))
        .await;
    let service = Service::start_on(database, &with("billing.free_quotas", FREE_TOKENS)).await;
    service.clock.set("2026-11-27T03:00:00Z");
    let unchanged = service.token_quota().await;
    assert_eq!((unchanged.used, since(&unchanged).as_str()), (80.0, "2026-11-02T00:00:00+00:00"));
    service.deduct(used_of(20)).await;
    let daily = service.bind_key("tokens", "day", 1_000.0).await;
    assert_eq!((daily.used, daily.used_is_partial), (20.0, true), "use before the upgrade is unknown");
    assert_eq!(service.bind_key("tokens", "month", 1_000.0).await.used, 100.0);
    let total = service.bind_key("requests", "total", 1_000.0).await;
    assert_eq!((total.used, total.used_is_partial), (31.0, false));
    let monthly = service.bind_key("requests", "month", 1_000.0).await;
    assert_eq!((monthly.used, monthly.used_is_partial), (1.0, true));
}
