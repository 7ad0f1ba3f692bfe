//! The exports of all accounts: their rows, days and columns, and their bounds.

use billing_service::service::proto::{BatchDeductQuotaRequest, DeductQuotaRequest};
use rstest::rstest;
use serde_json::json;

use super::{refund_of, start};
use crate::{
    bounds::with_many_records,
    harness::{Backend, MySql, Service, Sqlite, charge, traced, wait::until},
};

/// The cells of the named columns.
fn cells(csv: &str, columns: &[&str]) -> Vec<Vec<String>> {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let headers = reader.headers().unwrap().clone();
    let place = |column: &&str| headers.iter().position(|header| header == *column).unwrap();
    let places: Vec<_> = columns.iter().map(place).collect();
    reader.records().map(|row| places.iter().map(|place| row.as_ref().unwrap()[*place].to_owned()).collect()).collect()
}

#[rstest]
#[tokio::test]
async fn an_export_of_all_records_has_each_record_once_in_order(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-10-10T04:00:00Z");
    // More records than one page of 5,000, of more users than one read of 200, and one user with most of them.
    let user = |number: usize| if number < 5_500 { "m".into() } else { format!("user-{:03}", number % 300) };
    for chunk in 0..7 {
        let items = (chunk * 1_000..(chunk + 1) * 1_000).map(|number| DeductQuotaRequest {
            user_id: user(number),
            ..traced(&format!("t{number}"), charge("", "passport", 1))
        });
        let request = BatchDeductQuotaRequest { items: items.collect() };
        let reply = service.internal.clone().batch_deduct_quota(request).await.unwrap().into_inner();
        assert!(reply.results.iter().all(|result| result.error.is_none()));
    }
    service.clock.set("2026-11-20T04:00:00Z");
    service.deduct(traced("november", charge("m", "passport", 1))).await;
    let columns = ["user_id", "created_at", "id", "trace_id"];
    let october = service.csv("/internal/v1/billing/records.csv?from=2026-10-01&to=2026-10-31").await;
    let rows = cells(&october, &columns);
    let keys: Vec<_> = rows.iter().map(|row| row[..3].to_vec()).collect();
    assert_eq!(keys.len(), 7_000);
    assert!(keys.is_sorted_by(|one, next| one < next));
    // Some of the records are in the archive.
    service.clock.set("2026-12-20T04:00:00Z");
    assert_eq!(service.archive().await, 7_000);
    service.deduct(traced("december", charge("m", "passport", 1))).await;
    let archived = service.csv("/internal/v1/billing/records.csv?from=2026-10-01&to=2026-10-31").await;
    assert_eq!(archived, october);
    let all = service.csv("/internal/v1/billing/records.csv?from=2026-01-01&to=2026-12-31").await;
    assert_eq!(cells(&all, &columns).len(), 7_002);
    // Without days, an export has the running month.
    let running = service.csv("/internal/v1/billing/records.csv").await;
    assert_eq!(cells(&running, &["trace_id"]), [["december"]]);
}

#[rstest]
#[tokio::test]
async fn every_export_names_the_billing_day_and_the_zone(#[values(MySql, Sqlite)] on: Backend) {
    let paying = start(on).await;
    let service = &paying.service;
    // In Shanghai it is the first of November.
    service.clock.set("2026-10-31T16:00:00Z");
    let order = paying.top_up("u", 20.0).await;
    let late = paying.unreported("u", 7.0).await;
    service.adjust("u", 5.0).await;
    service.deduct(charge("u", "asset", 7)).await;
    paying.give_back(refund_of(&order, "r-1", 3.0)).await;
    paying.switch(json!({"lose": true, "refund": "refuse"}));
    paying.give_back(refund_of(&order, "r-2", 3.0)).await;
    service.clock.set("2026-12-05T04:00:00Z");
    paying.settle(&late, 7.0).await;
    paying.take_back(&order, ("c-1", "CHARGEBACK"), 1.0).await;

    let path = |file: &str, days: &str| format!("/internal/v1/billing/{file}?{days}");
    let (november, december) = ("from=2026-11-01&to=2026-11-30", "from=2026-12-01&to=2026-12-31");
    let shared = ["user_id", "amount", "currency", "billing_day", "time_zone"];
    let day = |amount: &str, day: &str| ["u", amount, "CNY", day, "Asia/Shanghai"].map(str::to_owned).to_vec();
    for (file, days, expected) in [
        ("recharges.csv", november, vec![day("20", "2026-11-01")]),
        ("recharges.csv", december, vec![day("7", "2026-12-05")]),
        ("recharge-refunds.csv", november, vec![day("3", "2026-11-01"), day("3", "2026-11-01")]),
        ("recharge-refunds.csv", december, vec![day("1", "2026-12-05")]),
        ("adjustments.csv", november, vec![day("5", "2026-11-01")]),
        ("records.csv", november, vec![day("0", "2026-11-01"), day("0.1", "2026-11-01")]),
        ("records.csv", december, vec![]),
        ("records.csv", "from=2026-10-31&to=2026-10-31", vec![]),
    ] {
        let mut found = cells(&service.csv(&path(file, days)).await, &shared);
        found.sort();
        assert_eq!(found, expected, "{file} {days}");
    }
    let refunds = service.csv(&path("recharge-refunds.csv", "from=2026-11-01&to=2026-12-31")).await;
    let mut refunds = cells(&refunds, &["refund_id", "order_id", "kind", "status", "reason"]);
    refunds.sort();
    assert_eq!(
        refunds,
        [
            ["c-1", &order, "chargeback", "success", ""],
            ["r-1", &order, "requested", "success", "for a test"],
            ["r-2", &order, "requested", "failed", "for a test"],
        ]
    );
    let statements = service.csv("/internal/v1/billing/statements.csv?month=2026-11").await;
    let sums = ["user_id", "opening_balance", "top_ups", "top_up_refunds", "adjustments", "charges", "closing_balance"];
    assert_eq!(cells(&statements, &sums), [["u", "0", "20", "-3", "5", "-0.1", "21.9"]]);
    let zones = cells(&statements, &["month", "time_zone", "currency", "closed", "free_count", "paid_count"]);
    assert_eq!(zones, [["2026-11", "Asia/Shanghai", "CNY", "true", "5", "2"]]);
}

#[rstest]
#[tokio::test]
async fn the_statements_of_all_users_are_those_of_each(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-10-10T04:00:00Z");
    // More users than one read.
    let items = (0..430).map(|number| traced("t", charge(&format!("user-{number:03}"), "passport", number + 1)));
    let request = BatchDeductQuotaRequest { items: items.collect() };
    service.internal.clone().batch_deduct_quota(request).await.unwrap();
    service.adjust("user-200", 3.5).await;
    let csv = service.csv("/internal/v1/billing/statements.csv?month=2026-10").await;
    let rows = cells(&csv, &["user_id", "free_count", "adjustments", "closing_balance"]);
    for (number, row) in rows.iter().enumerate() {
        let balance = if number == 200 { "3.5" } else { "0" };
        assert_eq!(row, &[&format!("user-{number:03}"), &(number + 1).to_string(), balance, balance]);
    }
    assert_eq!(rows.len(), 430);
}

#[tokio::test]
async fn a_wrong_month_or_day_is_an_error_without_a_file() {
    let service = Service::start(Sqlite).await;
    for (path, field) in [
        ("records.csv?from=2026-11-02&to=2026-11-01", "from"),
        ("records.csv?from=2025-01-01&to=2026-11-01", "from"),
        ("recharges.csv?to=tomorrow", "to"),
        ("recharge-refunds.csv?from=1", "from"),
        ("adjustments.csv?from=2026-02-30", "from"),
        ("statements.csv?month=10", "month"),
    ] {
        let (status, refused) = service.internal_get(&format!("/internal/v1/billing/{path}")).await;
        assert_eq!((status, &refused["metadata"]["field"]), (400, &json!(field)), "{path}");
    }
}

#[tokio::test]
async fn exports_of_all_users_have_a_limit_of_their_own() {
    let service = with_many_records("30s").await;
    service.adjust("u", 1.0).await;
    let day = "from=2025-11-24&to=2025-11-25";
    let url = format!("http://{}/internal/v1/billing/records.csv?{day}", service.app.grpc_addr);
    let unread = service.http.get(&url).send().await.unwrap();
    assert_eq!(unread.status(), 200);
    for path in ["statements.csv?month=2025-11", "recharges.csv"] {
        let (status, refused) = service.internal_get(&format!("/internal/v1/billing/{path}")).await;
        assert_eq!((status, &refused["metadata"]["error_code"]), (503, &json!("10014")), "{refused}");
    }
    // A user's own export is another matter.
    assert!(service.csv("/api/v1/billing/records.csv?user_id=v").await.starts_with("id,"));
    assert_eq!(unread.text().await.unwrap().lines().count(), 60_001);
    until("another export is admitted", async || {
        service.http.get(url.replace("records.csv", "recharges.csv")).send().await.unwrap().status() == 200
    })
    .await;
}
