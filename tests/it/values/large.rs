//! Counts above 2,147,483,647: exact in fields of 64 bits, and 2,147,483,647 in fields of 32 bits.

use billing_service::service::proto::{
    CheckQuotaRequest, CommitReservationRequest, DeductQuotaReply, GetStatsSummaryRequest, GetUsageRequest,
    ListRecordsRequest, ReserveQuotaRequest,
};
use rstest::rstest;
use serde_json::json;

use super::{delivered, hold};
use crate::harness::{
    Backend, MySql, Service, Sqlite, charge,
    process::{CRON, run},
    traced,
};

const BILLION: i32 = 1_000_000_000;
const LARGE: &[(&str, &str)] = &[("billing.free_quotas", "{asset: 10000000000, passport: 10000}")];

#[rstest]
#[tokio::test]
async fn totals_of_billions_are_exact(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, LARGE).await;
    service.adjust("u", 100_000_000.0).await;
    for _ in 0..3 {
        service.deduct(charge("u", "passport", BILLION)).await;
        service.deduct(charge("u", "asset", BILLION)).await;
    }
    for path in ["stats/today", "stats/month"] {
        let stats = service.get(&format!("/api/v1/billing/{path}?user_id=u&service_name=passport")).await.1;
        let exact = json!({"total": "3000000000", "free": "10000", "paid": "2999990000"});
        let shown = json!({"total": stats["total_units"], "free": stats["free_units"], "paid": stats["paid_units"]});
        assert_eq!(shown, exact, "{path}");
        let older = [&stats["total_count"], &stats["free_count"], &stats["paid_count"]];
        assert_eq!(older, [&json!(i32::MAX), &json!(10_000), &json!(i32::MAX)], "{path}");
        assert_eq!(stats["total_cost"], json!(29_999_900.0), "{path}");
    }
    let all = service.get("/api/v1/billing/stats/today?user_id=u").await.1;
    assert_eq!((&all["total_units"], &all["free_units"]), (&json!("6000000000"), &json!("3000010000")));
    let summary = GetStatsSummaryRequest { user_id: "u".into() };
    let summary = service.public.clone().get_stats_summary(summary).await.unwrap().into_inner();
    assert_eq!((summary.total_units, summary.total_count), (6_000_000_000, i32::MAX));
    let asset = summary.services.iter().find(|stats| stats.service_name == "asset").unwrap();
    assert_eq!((asset.total_units, asset.free_units, asset.paid_units), (3_000_000_000, 3_000_000_000, 0));
    let usage = GetUsageRequest { user_id: "u".into(), service_name: "asset".into(), ..Default::default() };
    let usage = service.public.clone().get_usage(usage).await.unwrap().into_inner();
    let day = usage.series[0].days.last().unwrap();
    assert_eq!((day.total_units, day.free_units, day.paid_units), (3_000_000_000, 3_000_000_000, 0));
    assert_eq!((day.total_count, day.free_count), (i32::MAX, i32::MAX));
    service.assert_audit_is_clean().await;

    service.database.execute("UPDATE usage_daily SET paid_records = 3000000000 WHERE service_name = 'passport'").await;
    let passport =
        ListRecordsRequest { user_id: "u".into(), service_name: "passport".into(), r#type: 2, ..Default::default() };
    let listed = service.records(passport).await;
    assert_eq!((listed.total_records, listed.total), (3_000_000_000, i32::MAX));
}

#[rstest]
#[tokio::test]
async fn a_free_quota_of_billions_is_held_used_and_shown_exactly(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, LARGE).await;
    let check =
        CheckQuotaRequest { user_id: "u".into(), service_name: "asset".into(), count: BILLION, ..Default::default() };
    let verdict = service.internal.clone().check_quota(check).await.unwrap().into_inner();
    assert_eq!((verdict.free_remaining_units, verdict.free_remaining), (10_000_000_000, i32::MAX));
    let request = traced("t", charge("u", "asset", BILLION));
    let first = service.deduct(request.clone()).await;
    assert_eq!((first.free_remaining_units, first.free_remaining), (9_000_000_000, i32::MAX));
    assert_eq!(service.deduct(request).await, DeductQuotaReply { replayed: true, ..first });
    for trace in ["a", "b", "c"] {
        let reserve = ReserveQuotaRequest { count: BILLION, ..hold(trace, "asset", "", (0, 0)) };
        service.internal.clone().reserve_quota(reserve).await.unwrap();
    }
    let quota = async || {
        let quotas = service.account("u").await.quotas;
        quotas.into_iter().find(|quota| quota.service_name == "asset").unwrap()
    };
    let shown = quota().await;
    assert_eq!((shown.total_units, shown.used_units, shown.held_units), (10_000_000_000, 1_000_000_000, 3_000_000_000));
    assert_eq!((shown.total_quota, shown.used_quota, shown.held_quota), (i32::MAX, BILLION, i32::MAX));
    for (trace, left) in [("a", 6_000_000_000), ("b", 6_000_000_000), ("c", 6_000_000_000)] {
        let commit = CommitReservationRequest { count: Some(BILLION), ..delivered(trace) };
        let committed = service.internal.clone().commit_reservation(commit).await.unwrap().into_inner();
        assert_eq!((committed.free_remaining_units, committed.free_remaining), (left, i32::MAX));
    }
    let account = service.get("/api/v1/billing/account?user_id=u").await.1;
    let asset = account["quotas"].as_array().unwrap().iter().find(|quota| quota["service_name"] == "asset").unwrap();
    assert_eq!((&asset["used_units"], &asset["used_quota"]), (&json!("4000000000"), &json!(i32::MAX)));
    assert_eq!(asset["total_units"], json!("10000000000"));
    // More than four billion, and the whole quota.
    for _ in 0..6 {
        service.deduct(charge("u", "asset", BILLION)).await;
    }
    assert_eq!((quota().await.used_units, service.check("u", "asset", 1).await.allowed), (10_000_000_000, false));
    let conf = service.database.config_file(LARGE);
    for job in ["reset-quotas", "audit", "rebuild-rollup"] {
        assert!(run(CRON, &["-conf", conf.to_str().unwrap(), "--once", job], &[]).status.success(), "{job}");
    }
    let months = service.database.rows(&["total_quota"], "FROM free_quota WHERE service_name = 'asset'").await;
    assert!(months.len() > 1 && months.iter().all(|row| row[0] == "10000000000"), "{months:?}");
    service.assert_audit_is_clean().await;
}
