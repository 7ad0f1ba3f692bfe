//! The statement of a month: each kind of line, the chain of months, and months that are closed.

use billing_service::service::proto::{
    BatchDeductQuotaRequest, CommitReservationRequest, DeductQuotaRequest, ReserveQuotaRequest, StatementLine, Usage,
};
use rstest::rstest;
use serde_json::json;

use super::{assert_chain, exports::cells, lines, micros, refund, refund_of, start};
use crate::{
    bounds::with_many_records,
    harness::{Backend, MySql, Service, Sqlite, charge, code_of, traced, wait::until},
};

fn reserve(trace: &str) -> ReserveQuotaRequest {
    ReserveQuotaRequest {
        user_id: "u".into(),
        service_name: "asset".into(),
        count: 8,
        trace_id: trace.into(),
        ..Default::default()
    }
}

fn commit(trace: &str) -> CommitReservationRequest {
    CommitReservationRequest { user_id: "u".into(), trace_id: trace.into(), ..Default::default() }
}

/// The tokens of a line by class, and its images.
fn usage(line: &StatementLine) -> [i64; 9] {
    [
        line.input_tokens,
        line.output_tokens,
        line.cached_input_tokens,
        line.cache_write_tokens,
        line.cache_write_1h_tokens,
        line.reasoning_tokens,
        line.audio_input_tokens,
        line.audio_output_tokens,
        line.images,
    ]
}

/// A call of a model, with its own cost.
fn call(trace: &str, model: &str, (input, output): (i32, i32)) -> DeductQuotaRequest {
    let usage = Usage {
        input_tokens: input,
        output_tokens: output,
        cached_input_tokens: 1,
        cache_write_tokens: 2,
        cache_write_1h_tokens: 3,
        reasoning_tokens: 2,
        audio_input_tokens: 4,
        audio_output_tokens: 1,
        images: 5,
        ..Default::default()
    };
    DeductQuotaRequest {
        model: model.into(),
        usage: Some(usage),
        cost: 0.333333,
        ..traced(trace, charge("u", "payment", 1))
    }
}

#[rstest]
#[tokio::test]
async fn a_statement_has_a_line_for_each_kind_of_movement(#[values(MySql, Sqlite)] on: Backend) {
    let paying = start(on).await;
    let service = &paying.service;
    service.use_up_free_quota("u", "payment").await;
    let order = paying.top_up("u", 20.0).await;
    paying.top_up("u", 5.5).await;
    paying.unreported("u", 7.0).await;
    assert_eq!(paying.give_back(refund_of(&order, "r-1", 3.0)).await.status, "success");
    paying.switch(json!({"lose": true, "refund": "refuse"}));
    assert_eq!(paying.give_back(refund_of(&order, "r-2", 4.0)).await.status, "failed");
    paying.switch(json!({"lose": true}));
    paying.take_back(&order, ("r-3", "REFUNDED"), 1.25).await;
    paying.take_back(&order, ("c-1", "CHARGEBACK"), 10.0).await;
    paying.credit_unapplied(&order, "p-second", ("u", 20.0)).await;
    service.adjust("u", 2.000001).await;
    service.adjust("u", -0.5).await;
    // 5 free and 7 paid units for 0.583333.
    service.deduct(DeductQuotaRequest { cost: 1.0, ..traced("t", charge("u", "asset", 12)) }).await;
    service.deduct(traced("free", charge("u", "passport", 3))).await;
    for (trace, model) in [("m1", "small"), ("m2", "small"), ("m3", "large")] {
        service.deduct(call(trace, model, (100, 7))).await;
    }
    let mut internal = service.internal.clone();
    internal.refund_charge(refund("u", "t", "a", Some(9))).await.unwrap();
    internal.refund_charge(refund("u", "m1", "b", None)).await.unwrap();
    // Another user's movements are not there.
    service.adjust("v", 77.0).await;

    let statement = service.statement("u", "2026-10").await;
    let all = [
        (["top_up", "", "", ""], [2, 0, 0], 25.5),
        (["unapplied_payment", "", "", ""], [1, 0, 0], 20.0),
        (["top_up_refund", "", "", ""], [2, 0, 0], -4.25),
        (["chargeback", "", "", ""], [1, 0, 0], -10.0),
        (["adjustment", "", "", ""], [2, 0, 0], 1.500001),
        (["charge", "asset", "", ""], [1, 5, 7], -0.583333),
        (["charge", "passport", "", ""], [1, 3, 0], 0.0),
        (["charge", "payment", "", ""], [1, 1_000, 0], 0.0),
        (["charge", "payment", "large", ""], [1, 0, 1], -0.333333),
        (["charge", "payment", "small", ""], [2, 0, 2], -0.666666),
        (["charge_refund", "asset", "", ""], [1, 2, 7], 0.583333),
        (["charge_refund", "payment", "small", ""], [1, 0, 1], 0.333333),
    ];
    assert_eq!(lines(&statement), all);
    let with_usage: Vec<_> = statement.lines.iter().map(usage).filter(|usage| *usage != [0; 9]).collect();
    assert_eq!(with_usage, [[100, 7, 1, 2, 3, 2, 4, 1, 5], [200, 14, 2, 4, 6, 4, 8, 2, 10]]);
    assert_eq!((statement.month.as_str(), statement.currency.as_str()), ("2026-10", "CNY"));
    assert_eq!((statement.time_zone.as_str(), statement.closed, statement.by_model), ("Asia/Shanghai", false, true));
    assert_eq!((statement.opening_balance, statement.closing_balance), (0.0, 32.083335));
    assert_eq!(service.account("u").await.balance, 32.083335);

    // The running month is the default, and the CSV has the same lines between the two balances.
    let (code, running) = service.get("/api/v1/billing/statement?user_id=u").await;
    assert_eq!((code, &running["lines"][1]["kind"]), (200, &json!("unapplied_payment")));
    let line = &running["lines"][9];
    let later = ["cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens", "audio_input_tokens"];
    assert_eq!(later.map(|field| &line[field]), ["4", "6", "4", "8"].map(|number| json!(number)).each_ref());
    assert_eq!((&line["audio_output_tokens"], &line["images"]), (&json!("2"), &json!("10")));
    let csv = service.csv("/api/v1/billing/statement.csv?userId=u&month=2026-10").await;
    let found: Vec<_> = csv.lines().collect();
    assert_eq!(found.len(), all.len() + 3);
    let no_usage = ",\"\",\"\",\"\",\"\",\"\",\"\",\"true\"";
    let head = "\"u\",\"2026-10\",\"Asia/Shanghai\",\"CNY\",\"false\",";
    assert_eq!(
        found[1],
        format!("{head}\"opening_balance\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",0{no_usage}")
    );
    assert_eq!(
        found[11],
        format!("{head}\"charge\",\"payment\",\"small\",\"\",2,2,0,2,200,14,2,-0.666666,4,6,4,8,2,10,\"true\"")
    );
    assert!(found[found.len() - 1].starts_with(&format!("{head}\"closing_balance\"")), "{csv}");
    assert!(found[found.len() - 1].ends_with(&format!(",32.083335{no_usage}")), "{csv}");
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_closed_month_stays_the_same_bytes_whatever_comes(#[values(MySql, Sqlite)] on: Backend) {
    let paying = start(on).await;
    let service = &paying.service;
    let mut internal = service.internal.clone();
    let order = paying.top_up("u", 100.0).await;
    let late_order = paying.unreported("u", 50.0).await;
    service.deduct(traced("t", charge("u", "asset", 12))).await;
    service.use_up_free_quota("u", "payment").await;
    service.deduct(call("m", "small", (100, 7))).await;
    for trace in ["soon", "late", "never"] {
        internal.reserve_quota(reserve(trace)).await.unwrap();
    }
    paying.switch(json!({"lose": true, "refund": "fail"}));
    assert_eq!(paying.give_back(refund_of(&order, "fails", 4.0)).await.status, "failed");
    paying.switch(json!({"lose": true, "refund": "pending"}));
    assert_eq!(paying.give_back(refund_of(&order, "open", 6.0)).await.status, "pending");

    // October ends at 16:00 UTC of the 31st, and closes three days later. Until then, commits count to it.
    service.clock.set("2026-11-02T04:00:00Z");
    assert!(!service.statement("u", "2026-10").await.closed);
    internal.commit_reservation(commit("soon")).await.unwrap();
    service.clock.set("2026-11-03T16:02:00Z");
    let october = service.bytes_of("u", "2026-10").await;
    let statement = service.statement("u", "2026-10").await;
    assert!(statement.closed, "{statement:?}");
    let paid = [
        (["top_up", "", "", ""], [1, 0, 0], 100.0),
        (["charge", "asset", "", ""], [2, 5, 15], -0.75),
        (["charge", "payment", "", ""], [1, 1_000, 0], 0.0),
        (["charge", "payment", "small", ""], [1, 0, 1], -0.333333),
    ];
    assert_eq!((lines(&statement), statement.closing_balance), (paid.to_vec(), 98.916667));

    internal.commit_reservation(commit("late")).await.unwrap();
    internal.refund_charge(refund("u", "t", "a", Some(8))).await.unwrap();
    internal.refund_charge(refund("u", "m", "b", None)).await.unwrap();
    paying.settle(&late_order, 50.0).await;
    paying.switch(json!({"lose": true}));
    assert_eq!(paying.give_back(refund_of(&order, "r-1", 30.0)).await.status, "success");
    paying.take_back(&order, ("c-1", "CHARGEBACK"), 10.0).await;
    // The money of the refund that had failed went back after all.
    paying.take_back(&order, ("fails", "REFUNDED"), 4.0).await;
    paying.take_back(&order, ("open", "REFUNDED"), 6.0).await;
    paying.credit_unapplied(&order, "p-second", ("u", 5.0)).await;
    service.adjust("u", -1.0).await;
    service.deduct(traced("n", charge("u", "asset", 12))).await;
    service.adjust("another", 1.0).await;
    assert_eq!(service.bytes_of("u", "2026-10").await, october);

    let november = service.statement("u", "2026-11").await;
    let lines_of_november = [
        (["top_up", "", "", ""], [1, 0, 0], 50.0),
        (["unapplied_payment", "", "", ""], [1, 0, 0], 5.0),
        (["top_up_refund", "", "", ""], [3, 0, 0], -40.0),
        (["chargeback", "", "", ""], [1, 0, 0], -10.0),
        (["adjustment", "", "", ""], [1, 0, 0], -1.0),
        (["charge", "asset", "", ""], [1, 0, 12], -0.6),
        (["charge", "asset", "", "2026-10"], [1, 5, 3], -0.15),
        (["charge_refund", "asset", "", "2026-10"], [1, 0, 7], 0.35),
        (["charge_refund", "payment", "small", "2026-10"], [1, 0, 1], 0.333333),
    ];
    assert_eq!(lines(&november), lines_of_november);

    // A month later, after the archive, and after more of everything.
    service.clock.set("2027-03-20T04:00:00Z");
    let november = service.bytes_of("u", "2026-11").await;
    internal.refund_charge(refund("u", "n", "c", None)).await.unwrap();
    internal.refund_charge(refund("u", "soon", "d", None)).await.unwrap();
    paying.give_back(refund_of(&late_order, "r-2", 0.0)).await;
    assert!(service.archive().await >= 10);
    service.database.audit().await;
    assert_eq!(service.bytes_of("u", "2026-10").await, october);
    assert_eq!(service.bytes_of("u", "2026-11").await, november);
    let months = ["2026-08", "2026-09", "2026-10", "2026-11", "2026-12", "2027-01", "2027-02", "2027-03"];
    let closing = assert_chain(service, "u", &months).await;
    assert_eq!(closing, service.account("u").await.balance);
    service.assert_audit_is_clean().await;
}

/// A stream that broke is charged by its last report. Its commit may come after the close and add to it, and
/// then the transaction has the tokens of both.
#[rstest]
#[tokio::test]
async fn a_late_addition_to_a_charge_of_reported_tokens_changes_no_closed_month(#[values(MySql, Sqlite)] on: Backend) {
    let paying = start(on).await;
    let service = &paying.service;
    service.adjust("u", 10.0).await;
    service.deduct(traced("before", charge("u", "asset", 12))).await;
    let mut internal = service.internal.clone();
    let reserve = ReserveQuotaRequest { model: "small".into(), ..reserve("broken") };
    internal.reserve_quota(reserve).await.unwrap();
    internal.commit_reservation(commit("broken")).await.unwrap();
    // As the last report of a stream would leave it.
    let tokens = "charged_by = 1, input_tokens = 100, output_tokens = 7, cached_input_tokens = 0, reasoning_tokens = 3";
    let broken = format!("UPDATE billing_transaction SET {tokens} WHERE trace_id = 'broken'");
    service.database.execute(&broken).await;
    service.clock.set("2026-11-04T04:00:00Z");
    let october = service.bytes_of("u", "2026-10").await;
    let usage = Usage { input_tokens: 100, output_tokens: 900, ..Default::default() };
    let addition = CommitReservationRequest { count: Some(11), usage: Some(usage), ..commit("broken") };
    internal.commit_reservation(addition).await.unwrap();
    let stored =
        service.database.rows(&["output_tokens", "charged_by"], "FROM billing_transaction WHERE trace_id = 'broken'");
    assert_eq!(stored.await, [["900", "2"]]);
    assert_eq!(service.bytes_of("u", "2026-10").await, october);
    assert_eq!(
        lines(&service.statement("u", "2026-11").await),
        [(["charge", "asset", "small", "2026-10"], [1, 0, 3], -0.15)]
    );
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_top_up_of_an_older_release_belongs_to_the_month_of_its_credit(#[values(MySql, Sqlite)] on: Backend) {
    let paying = start(on).await;
    let service = &paying.service;
    let order = paying.top_up("u", 20.0).await;
    service.database.execute("UPDATE recharge_order SET credited_at = NULL, updated_at = updated_at").await;
    service.clock.set("2026-11-10T04:00:00Z");
    let october = service.bytes_of("u", "2026-10").await;
    assert!(october[0].contains("closing_balance: 20.0"), "{october:?}");
    // A refund changes the order, and keeps the time of its credit.
    paying.give_back(refund_of(&order, "r-1", 5.0)).await;
    assert_eq!(service.bytes_of("u", "2026-10").await, october);
    assert_eq!(assert_chain(service, "u", &["2026-10", "2026-11"]).await, 15.0);
}

#[rstest]
#[tokio::test]
async fn months_begin_and_end_in_the_billing_zone(#[values(MySql, Sqlite)] on: Backend) {
    let paying = start(on).await;
    let service = &paying.service;
    for (instant, amount) in [("2026-10-31T15:59:59.9Z", 1.0), ("2026-10-31T16:00:00Z", 2.0)] {
        service.clock.stop_at(instant.parse().unwrap());
        paying.top_up("u", amount).await;
        service.adjust("u", amount * 10.0).await;
        service.deduct(charge("u", "passport", amount as i32)).await;
    }
    let sums = |month| async move {
        let statement = service.statement("u", month).await;
        let sums = statement.lines.iter().map(|line| (line.kind.clone(), line.amount, line.units));
        (statement.opening_balance, sums.collect::<Vec<_>>(), statement.closing_balance)
    };
    let expected = |amount: f64| {
        let line = |kind: &str, amount, units| (kind.to_owned(), amount, units);
        vec![line("top_up", amount, 0), line("adjustment", amount * 10.0, 0), line("charge", 0.0, amount as i64)]
    };
    assert_eq!(sums("2026-10").await, (0.0, expected(1.0), 11.0));
    assert_eq!(sums("2026-11").await, (11.0, expected(2.0), 33.0));
}

#[rstest]
#[tokio::test]
async fn a_month_without_a_statement_is_refused_by_name(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-10-31T15:59:00Z");
    for (user, month, why) in [
        ("", "2026-10", "user_id: is required"),
        ("u", "2026-11", "month: has not begun; the running month is 2026-10"),
        ("u", "9999-12", "month: has not begun"),
        ("u", "1969-12", "month: must be a month"),
        ("u", "2026-1", "month: must be a month such as 2026-11"),
        ("u", "2026-13", "month: must be a month"),
        ("u", "2026-10-01", "month: must be a month"),
    ] {
        let refused = service.try_statement(user, month).await.unwrap_err();
        assert_eq!(code_of(&refused).1, "10009");
        assert!(refused.message().starts_with(why), "{}", refused.message());
    }
    let (code, refused) = service.get("/api/v1/billing/statement.csv?user_id=u&month=2026-11").await;
    assert_eq!((code, &refused["metadata"]["field"]), (400, &json!("month")));
    let (code, _) = service.internal_get("/internal/v1/billing/statements.csv?month=2026-11").await;
    assert_eq!(code, 400);
    // A user without an account has an empty statement, and gets no account.
    let empty = service.statement("nobody", "1970-01").await;
    assert!(empty.lines.is_empty() && empty.closed && (empty.opening_balance, empty.closing_balance) == (0.0, 0.0));
    assert_eq!(service.database.rows(&["COUNT(*)"], "FROM user_balance").await, [["0"]]);
}

/// Many models, or many records, are summed up by service.
#[rstest]
#[tokio::test]
async fn a_month_with_too_many_models_is_summed_up_by_service(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-10-10T04:00:00Z");
    let items = (0..1_001).map(|number| DeductQuotaRequest {
        model: format!("model-{number}"),
        ..traced(&format!("t{number}"), charge("u", "passport", 2))
    });
    let items: Vec<_> = items.collect();
    for chunk in items.chunks(1_000) {
        let request = BatchDeductQuotaRequest { items: chunk.to_vec() };
        service.internal.clone().batch_deduct_quota(request).await.unwrap();
        let statement = service.statement("u", "2026-10").await;
        let units: i64 = statement.lines.iter().map(|line| line.units).sum();
        let (lines, by_model) = if chunk.len() == 1_000 { (1_000, true) } else { (1, false) };
        assert_eq!((statement.lines.len(), statement.by_model), (lines, by_model));
        assert_eq!(units, if by_model { 2_000 } else { 2_002 });
    }
    // A file has them.
    let csv = service.csv("/api/v1/billing/statement.csv?user_id=u&month=2026-10").await;
    assert_eq!(cells(&csv, &["model", "by_model"])[1], ["model-0", "true"]);
    assert_eq!(csv.lines().count(), 1_001 + 3);
}

/// The rollup tells the number of records, so that of one can stand for many.
#[rstest]
#[tokio::test]
async fn a_month_with_too_many_records_is_summed_up_by_service(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-10-10T04:00:00Z");
    service.adjust("u", 1.0).await;
    service.deduct(DeductQuotaRequest { cost: 0.5, ..call("t", "small", (100, 7)) }).await;
    let path = "/api/v1/billing/statement.csv?user_id=u&month=2026-10";
    for (records, of_reply, of_file) in
        [(10_000, true, true), (10_001, false, true), (5_000_000, false, true), (5_000_001, false, false)]
    {
        service.database.execute(&format!("UPDATE usage_daily SET free_records = {records} - paid_records")).await;
        let statement = service.statement("u", "2026-10").await;
        let calls = i64::from(of_reply);
        assert_eq!((lines(&statement)[1].1[0], statement.by_model), (calls, of_reply), "{records}");
        let line = &statement.lines[1];
        assert_eq!((line.units, usage(line) != [0; 9]), (1, of_reply), "{records}");
        assert_eq!(micros(1.0 + line.amount), micros(statement.closing_balance));
        let csv = service.csv(path).await;
        let line = &cells(&csv, &["kind", "model", "calls", "units", "images", "by_model"])[2];
        let split = ["charge", "small", "1", "1", "5", "true"];
        assert_eq!(line, if of_file { &split } else { &["charge", "", "0", "1", "0", "false"] }, "{records}");
    }
}

#[tokio::test]
async fn the_file_of_a_statement_of_many_records_counts_as_an_export_of_its_user() {
    let service = with_many_records("30s").await;
    let rollup = "INSERT INTO usage_daily (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, \
                  paid_records) VALUES ('u', '2025-11-24', 'asset', 0, 60000, 0, 0, 60000)";
    service.database.execute(rollup).await;
    let url = format!("http://{}/api/v1/billing/records.csv?user_id=u", service.app.http_addr);
    let unread = service.http.get(url).send().await.unwrap();
    assert_eq!(unread.status(), 200);
    let path = "/api/v1/billing/statement.csv?user_id=u&month=2025-11";
    let file = async || service.http.get(format!("http://{}{path}", service.app.http_addr)).send().await.unwrap();
    assert_eq!(file().await.status(), 503);
    // The reply reads no records.
    let statement = service.statement("u", "2025-11").await;
    assert_eq!((lines(&statement)[0].1, statement.by_model), ([0, 0, 60_000], false));
    assert_eq!(unread.text().await.unwrap().lines().count(), 60_001);
    let mut csv = String::new();
    until("the file is admitted", async || {
        let response = file().await;
        let is_admitted = response.status() == 200;
        csv = response.text().await.unwrap();
        is_admitted
    })
    .await;
    let found = cells(&csv, &["kind", "calls", "paid_count", "by_model"]);
    assert_eq!(found[1], ["charge", "60000", "60000", "true"]);
}

/// The books are wrong, and a statement must not hide it.
#[rstest]
#[tokio::test]
async fn a_statement_whose_rollup_is_wrong_is_refused(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-10-10T04:00:00Z");
    service.adjust("u", 10.0).await;
    service.deduct(charge("u", "asset", 1_002)).await;
    service.database.execute("UPDATE usage_daily SET paid_count = paid_count + 1 WHERE user_id = 'u'").await;
    assert_eq!(code_of(&service.try_statement("u", "2026-10").await.unwrap_err()).1, "10099");
}
