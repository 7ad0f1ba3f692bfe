//! The exports of all accounts: their rows, days and columns, and their bounds.

use std::{collections::BTreeSet, time::Duration};

use billing_service::{
    app,
    biz::{
        statements::{period::StatementPeriod, statement::Split},
        values::{calendar::Calendar, error::StoreError, ids::UserId},
    },
    service::proto::{BatchDeductQuotaRequest, DeductQuotaRequest, Usage},
};
use chrono::{DateTime, Utc};
use rstest::rstest;
use serde_json::json;

use super::{refund_of, start};
use crate::{
    bounds::with_many_records,
    harness::{Backend, MySql, Service, Sqlite, charge, traced, wait::until},
};

/// The cells of the named columns.
pub(super) fn cells(csv: &str, columns: &[&str]) -> Vec<Vec<String>> {
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

const REQUEST: &str = "00000000-0000-0000-0000-000000000000";

/// More rows than one page of 5,000, of one user, and more users than one read.
#[rstest]
#[tokio::test]
async fn an_export_of_many_rows_has_each_row_of_its_days_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-12-10T04:00:00Z");
    let time = |instant: &str| match on {
        MySql => format!("'{}'", instant.replace('T', " ").trim_end_matches('Z')),
        Sqlite => instant.parse::<DateTime<Utc>>().unwrap().timestamp_micros().to_string(),
    };
    let (october, november) = (time("2026-10-31T15:59:59Z"), time("2026-10-31T16:00:00Z"));
    let user = |number: usize| if number < 6_000 { "m".to_owned() } else { format!("user-{:03}", number % 450) };
    let at = |number: usize| if number.is_multiple_of(3) { &october } else { &november };
    let each = |row: &dyn Fn(usize) -> String| (0..7_000).map(row).collect::<Vec<_>>().join(",");
    let amount = match on {
        MySql => "1.5",
        Sqlite => "1500000",
    };
    for rows in [
        format!(
            "recharge_order (order_id, user_id, amount, status, created_at, updated_at, credited_at) VALUES {}",
            each(&|number| match number % 3 {
                // Credited in October, and changed by a refund later.
                0 =>
                    format!("('o{number}', '{}', {amount}, 'success', {october}, {november}, {october})", user(number)),
                // Created in October and credited in November; by an older release without a time of the credit.
                1 => format!("('o{number}', '{}', {amount}, 'success', {october}, {november}, NULL)", user(number)),
                _ => format!("('o{number}', '{}', {amount}, 'failed', {november}, {november}, NULL)", user(number)),
            })
        ),
        format!(
            "recharge_refund (refund_id, order_id, user_id, kind, status, amount, request_id, balance_after, created_at, \
             updated_at, settled_at) VALUES {}",
            each(&|number| {
                let settled = if number.is_multiple_of(2) { at(number) } else { "NULL" };
                let (user, at) = (user(number), at(number));
                format!(
                    "('r{number}', 'o', '{user}', 'requested', 'failed', {amount}, '{REQUEST}', {amount}, {at}, {at}, {settled})"
                )
            })
        ),
        format!(
            "balance_adjustment (user_id, adjustment_id, amount, reason, operator, request_id, balance_after, created_at) \
             VALUES {}",
            each(&|number| {
                format!("('{}', 'a{number}', {amount}, '', '', '{REQUEST}', {amount}, {})", user(number), at(number))
            })
        ),
    ] {
        service.database.execute(&format!("INSERT INTO {rows}")).await;
    }
    // Those of a refund or an adjustment have an account.
    let users: Vec<_> = (0..7_000).map(user).collect::<BTreeSet<_>>().into_iter().collect();
    for user in &users {
        service.adjust(user, 1.0).await;
    }
    for (file, id) in [("recharges", "order_id"), ("recharge-refunds", "refund_id"), ("adjustments", "adjustment_id")] {
        for (days, of_october) in [("from=2026-10-01&to=2026-10-31", true), ("from=2026-11-01&to=2026-11-30", false)] {
            let csv = service.csv(&format!("/internal/v1/billing/{file}.csv?{days}")).await;
            let found = cells(&csv, &["user_id", id]);
            assert!(found.is_sorted_by(|one, next| one < next), "{file} {days}");
            let mut numbers: Vec<usize> = found.iter().map(|row| row[1][1..].parse().unwrap()).collect();
            numbers.sort_unstable();
            let expected: Vec<_> = (0..7_000).filter(|number| (number % 3 == 0) == of_october).collect();
            assert_eq!(numbers, expected, "{file} {days}");
        }
    }
}

/// The usage of a stream that broke may change, and no statement has it.
#[rstest]
#[tokio::test]
async fn an_export_tells_the_usage_that_no_statement_counts(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-10-10T04:00:00Z");
    for trace in ["whole", "broken"] {
        let usage = Usage { input_tokens: 5, ..Default::default() };
        let call = DeductQuotaRequest { usage: Some(usage), model: "m".into(), ..charge("u", "passport", 1) };
        service.deduct(traced(trace, call)).await;
    }
    service.database.execute("UPDATE billing_transaction SET charged_by = 1 WHERE trace_id = 'broken'").await;
    let csv = service.csv("/internal/v1/billing/records.csv?from=2026-10-01&to=2026-10-31").await;
    let columns = csv.lines().next().unwrap();
    assert!(columns.starts_with("user_id,id,created_at,"), "{columns}");
    // A column is added behind the others.
    assert!(columns.ends_with(",images,currency,time_zone,reported,served_model,service_tier"), "{columns}");
    let mut rows = cells(&csv, &["trace_id", "input_tokens", "reported"]);
    rows.sort();
    assert_eq!(rows, [["broken", "5", "true"], ["whole", "5", "false"]]);
    let lines = service.statement("u", "2026-10").await.lines;
    assert_eq!((lines.len(), lines[0].calls, lines[0].input_tokens), (1, 2, 5));
}

/// The first part of a body.
async fn first_part(service: &Service, url: &str) -> (u16, String, reqwest::Response) {
    let mut response = service.http.get(url).send().await.unwrap();
    let part = response.chunk().await.unwrap().unwrap_or_default();
    (response.status().as_u16(), String::from_utf8_lossy(&part).into_owned(), response)
}

/// A locked table stands for reads that take long.
#[tokio::test]
async fn the_columns_of_statements_come_before_the_first_read() {
    let service = Service::start(MySql).await;
    service.clock.set("2026-10-10T04:00:00Z");
    service.adjust("u", 1.0).await;
    let mut other = service.database.mysql().await;
    sqlx::raw_sql("LOCK TABLES usage_daily WRITE").execute(&mut other).await.unwrap();
    let url = format!("http://{}/internal/v1/billing/statements.csv?month=2026-10", service.app.grpc_addr);
    let (status, part, rest) = first_part(&service, &url).await;
    assert_eq!((status, part.lines().count()), (200, 1));
    assert!(part.starts_with("user_id,month,") && part.ends_with('\n'), "{part}");
    sqlx::raw_sql("UNLOCK TABLES").execute(&mut other).await.unwrap();
    assert_eq!(rest.text().await.unwrap().lines().count(), 1);
}

#[tokio::test]
async fn files_of_many_records_begin_at_once_and_are_two_at_once_until_their_queries_end() {
    let service = Service::start_with(MySql, &[("server.limits.exports", "2")]).await;
    service.clock.set("2026-10-10T04:00:00Z");
    for user in ["a", "b", "c"] {
        service.deduct(charge(user, "passport", 1)).await;
    }
    service.database.execute("UPDATE usage_daily SET free_records = 10001").await;
    let mut other = service.database.mysql().await;
    sqlx::raw_sql("LOCK TABLES billing_transaction WRITE").execute(&mut other).await.unwrap();
    let url = |user: &str| {
        format!("http://{}/api/v1/billing/statement.csv?user_id={user}&month=2026-10", service.app.http_addr)
    };
    let mut begun = Vec::new();
    for user in ["a", "b"] {
        let (status, part, rest) = first_part(&service, &url(user)).await;
        assert_eq!((status, part.lines().count()), (200, 1));
        begun.push(rest);
    }
    let waiting = "FROM information_schema.processlist WHERE db = DATABASE() AND info LIKE '%charge_by_model%' \
                   AND state LIKE 'Waiting for table%'";
    until("both queries run", async || service.database.rows(&["COUNT(*)"], waiting).await == [["2"]]).await;
    let (status, why, _) = first_part(&service, &url("c")).await;
    assert_eq!(status, 503);
    assert!(why.contains("too many exports at once"), "{why}");
    // A reader that has gone frees its export, and not its place, because the database still works for it.
    drop(begun.remove(0));
    let mut answer = (0, String::new());
    until("the export of the reader is free", async || {
        let (status, why, _) = first_part(&service, &url("c")).await;
        let is_free = !why.contains("too many exports at once");
        answer = (status, why);
        is_free
    })
    .await;
    assert!(answer.0 == 503 && answer.1.contains("too many statements of many records at once"), "{answer:?}");
    assert_eq!(service.database.rows(&["COUNT(*)"], waiting).await, [["2"]]);
    sqlx::raw_sql("UNLOCK TABLES").execute(&mut other).await.unwrap();
    until("the place of the reader is free", async || {
        let (status, _, rest) = first_part(&service, &url("c")).await;
        let is_admitted = status == 200;
        if is_admitted {
            begun.push(rest);
        }
        is_admitted
    })
    .await;
    for rest in begun {
        assert_eq!(rest.text().await.unwrap().lines().count(), 3);
    }
}

#[tokio::test]
async fn files_of_many_records_leave_a_connection_to_the_other_reads() {
    let service = Service::start_with(MySql, &[("data.database.max_connections", "2")]).await;
    service.clock.set("2026-10-10T04:00:00Z");
    for user in ["a", "b"] {
        service.deduct(charge(user, "passport", 1)).await;
    }
    service.database.execute("UPDATE usage_daily SET free_records = 10001").await;
    let mut other = service.database.mysql().await;
    sqlx::raw_sql("LOCK TABLES billing_transaction WRITE").execute(&mut other).await.unwrap();
    let url = |user: &str| {
        format!("http://{}/api/v1/billing/statement.csv?user_id={user}&month=2026-10", service.app.http_addr)
    };
    let (status, _, rest) = first_part(&service, &url("a")).await;
    assert_eq!(status, 200);
    assert_eq!(service.http.get(url("b")).send().await.unwrap().status(), 503);
    assert!(!service.statement("b", "2026-10").await.by_model);
    sqlx::raw_sql("UNLOCK TABLES").execute(&mut other).await.unwrap();
    assert_eq!(rest.text().await.unwrap().lines().count(), 3);
}

/// The database does not notice a reader that has gone.
#[rstest]
#[tokio::test]
async fn the_database_ends_a_slow_split_by_model(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-10-10T04:00:00Z");
    service.deduct(traced("t", charge("u", "passport", 1))).await;
    let digits = "SELECT 0 AS n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 \
                  UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9";
    let at = match on {
        MySql => "'2026-10-10 04:00:00'",
        Sqlite => "1791604800000000",
    };
    let insert = format!(
        "INSERT INTO billing_record \
         (billing_record_id, user_id, service_name, type, amount, count, trace_id, created_at, usage_date) \
         SELECT CONCAT(a.n, b.n, c.n, d.n, e.n), 'u', 'passport', 1, 0, 1, 't', {at}, '2026-10-10' FROM ({digits}) a \
         CROSS JOIN ({digits}) b CROSS JOIN ({digits}) c CROSS JOIN ({digits}) d CROSS JOIN ({digits}) e"
    );
    service.database.execute(&insert).await;
    let store = app::connect(&service.database.config(&[])).await.unwrap();
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, service.clock.clone());
    let period = StatementPeriod::of(calendar.now().month, &calendar, Duration::ZERO, None).unwrap();
    let user = UserId::parse("user_id", "u").unwrap();
    let within = |within| Some(Split { lines: 10, within });
    let cut = store.month_books(&user, &period, within(Duration::from_millis(1))).await;
    assert!(matches!(cut, Err(StoreError::Unavailable(_))), "{cut:?}");
    let whole = store.month_books(&user, &period, within(Duration::from_secs(60))).await.unwrap();
    assert_eq!(whole.by_model.unwrap()[0].sums.free_count, 100_001);
    store.close().await;
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
