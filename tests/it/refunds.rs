//! Charges that go back, debts, and months that close.

use billing_service::{
    app::{self, App},
    biz::{jobs::archive::archive_records, values::calendar::Calendar},
    service::proto::{
        AdjustBalanceRequest, CommitReservationRequest, DeductQuotaRequest, GetUsageRequest, ListAdjustmentsRequest,
        ListRecordsRequest, RefundChargeReply, RefundChargeRequest, ReserveQuotaRequest,
    },
};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use rstest::rstest;
use serde_json::{Value, json};
use tonic::Status;

use crate::harness::{Backend, MySql, Service, Sqlite, caller::Client, charge, code_of, progress::Unwatched, traced};

/// A refund of some units of a charge; of all that are left, without a count.
pub fn refund(user: &str, trace: &str, id: &str, count: impl Into<Option<i32>>) -> RefundChargeRequest {
    RefundChargeRequest {
        user_id: user.into(),
        trace_id: trace.into(),
        refund_id: id.into(),
        count: count.into(),
        reason: "for a test".into(),
    }
}

async fn try_refund(client: &Client, request: RefundChargeRequest) -> Result<RefundChargeReply, Status> {
    client.clone().refund_charge(request).await.map(|reply| reply.into_inner())
}

impl Service {
    async fn refund(&self, request: RefundChargeRequest) -> RefundChargeReply {
        try_refund(&self.internal, request).await.unwrap()
    }

    /// Types, units and amounts of the records, and the closed months that they name, newest first.
    async fn lines(&self, user: &str) -> Vec<(i32, i32, f64, String)> {
        let request = ListRecordsRequest { user_id: user.into(), page_size: 100, ..Default::default() };
        let records = self.records(request).await.records;
        records.into_iter().map(|record| (record.r#type, record.count, record.amount, record.late_of)).collect()
    }

    async fn month_of(&self, user: &str, month: &str, last: &str) -> String {
        let request = GetUsageRequest {
            user_id: user.into(),
            from: format!("{month}-01"),
            to: format!("{month}-{last}"),
            service_name: "asset".into(),
            ..Default::default()
        };
        format!("{:?}", self.public.clone().get_usage(request).await.unwrap().into_inner())
    }
}

/// An account whose `asset` has 5 free units a month, and costs 0.05 a unit.
async fn start(on: Backend) -> Service {
    let service = Service::start_with(on, &[("billing.free_quotas.asset", "5")]).await;
    service.clock.set("2026-11-20T04:00:00Z");
    service.adjust("u", 10.0).await;
    service
}

#[rstest]
#[tokio::test]
async fn a_refund_shows_beside_its_charge_everywhere(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    service.deduct(traced("t", DeductQuotaRequest { cost: 1.0, ..charge("u", "asset", 12) })).await;
    // 7 paid units for 0.583333.
    let first = service.refund(refund("u", "t", "a", 3)).await;
    let expected = RefundChargeReply {
        success: true,
        free_count: 0,
        paid_count: 3,
        amount: 0.25,
        balance: 9.666667,
        refunded_count: 3,
        refunded_amount: 0.25,
        replayed: false,
    };
    assert_eq!(first, expected);
    let body = json!({"userId": "u", "traceId": "t", "refundId": "b", "count": "6", "reason": "x"});
    let (code, second) = service.post("/internal/v1/billing/refund", body.to_string()).await;
    let expected = json!({
        "success": true, "free_count": 2, "paid_count": 4, "amount": 0.333333, "balance": 10.0, "refunded_count": 9,
        "refunded_amount": 0.583333, "replayed": false,
    });
    assert_eq!((code, second), (200, expected));
    let again = service.refund(refund("u", "t", "a", 3)).await;
    assert_eq!(again, RefundChargeReply { replayed: true, ..first });

    let transaction = service.transaction("u", "t").await;
    assert_eq!((transaction.free_count, transaction.paid_count, transaction.amount), (5, 7, 0.583333));
    assert_eq!((transaction.refunded_count, transaction.refunded_amount), (9, 0.583333));
    let none = String::new;
    let expected = [
        (4, 4, 0.333333, none()),
        (3, 2, 0.0, none()),
        (4, 3, 0.25, none()),
        (2, 7, 0.583333, none()),
        (1, 5, 0.0, none()),
    ];
    assert_eq!(service.lines("u").await, expected);
    for (kind, total) in [(0, 5), (1, 1), (2, 1), (3, 1), (4, 2)] {
        let request = ListRecordsRequest { user_id: "u".into(), r#type: kind, ..Default::default() };
        let page = service.records(request).await;
        assert_eq!((page.total, page.records.len()), (total, total as usize), "{kind}");
        assert!(page.records.iter().all(|record| record.trace_id == "t"));
    }
    let (_, day) = service.get("/api/v1/billing/stats/today?user_id=u").await;
    assert_eq!((&day["total_count"], &day["total_cost"]), (&json!(12), &json!(0.583333)));
    assert_eq!((&day["refunded_count"], &day["refunded_cost"]), (&json!(9), &json!(0.583333)));
    let (_, summary) = service.get("/api/v1/billing/stats/summary?user_id=u").await;
    assert_eq!(summary["services"][0]["refunded_units"], json!("9"));
    let url = format!("http://{}/api/v1/billing/records.csv?user_id=u&type=4", service.app.http_addr);
    let csv = service.http.get(url).send().await.unwrap().text().await.unwrap();
    assert!(csv.lines().nth(1).unwrap().contains("\"balance_refund\",0.333333,4,\"t\""), "{csv}");
    assert_eq!(service.state("u").await, (10.0, [0, 0, 3]));
    let (_, events) = service.internal_get("/internal/v1/billing/audit-events?rpc=RefundCharge").await;
    assert_eq!(events["events"].as_array().map(Vec::len), Some(2));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_wrong_refund_is_named(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    service.deduct(traced("t", charge("u", "asset", 7))).await;
    service.refund(refund("u", "t", "a", 1)).await;
    let reserve = ReserveQuotaRequest {
        user_id: "u".into(),
        service_name: "asset".into(),
        count: 1,
        trace_id: "held".into(),
        ..Default::default()
    };
    service.internal.clone().reserve_quota(reserve).await.unwrap();
    let good = || refund("u", "t", "b", 1);
    for (wrong, code, why) in [
        (RefundChargeRequest { user_id: String::new(), ..good() }, "10009", "user_id: is required"),
        (RefundChargeRequest { trace_id: String::new(), ..good() }, "10009", "trace_id: is required"),
        (RefundChargeRequest { refund_id: String::new(), ..good() }, "10009", "refund_id: is required"),
        (RefundChargeRequest { reason: " ".into(), ..good() }, "10009", "reason: "),
        (RefundChargeRequest { count: Some(0), ..good() }, "10009", "count: must be 1 to"),
        (RefundChargeRequest { count: Some(7), ..good() }, "10009", "count: is more than the 6 units"),
        (RefundChargeRequest { trace_id: "none".into(), ..good() }, "10010", "transaction none not found"),
        (RefundChargeRequest { user_id: "v".into(), ..good() }, "10010", "transaction t not found"),
        (RefundChargeRequest { trace_id: "held".into(), ..good() }, "10011", "trace_id: the reservation is not"),
        (refund("u", "t", "a", 2), "10007", "refund_id was used before with other content; these fields differ: count"),
        (
            refund("u", "none", "a", 1),
            "10007",
            "refund_id was used before with other content; these fields differ: trace_id",
        ),
    ] {
        let refused = try_refund(&service.internal, wrong.clone()).await.unwrap_err();
        assert_eq!(code_of(&refused).1, code, "{wrong:?}: {refused:?}");
        assert!(refused.message().starts_with(why), "{}", refused.message());
    }
    // The refusals have changed nothing, and opened no account.
    assert_eq!(service.database.rows(&["COUNT(*)"], "FROM user_balance WHERE user_id = 'v'").await, [["0"]]);
    assert_eq!(service.transaction("u", "t").await.refunded_count, 1);
    service.assert_audit_is_clean().await;
}

/// Two processes on one database, which share the account.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunds_at_once_give_back_what_was_charged_and_no_more(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    let clock = service.clock.clone();
    let other =
        App::start_with_clock(service.database.config(&[("billing.free_quotas.asset", "5")]), clock).await.unwrap();
    let second = Client::connect(format!("http://{}", other.grpc_addr)).await.unwrap();
    let client = |number: usize| if number.is_multiple_of(2) { service.internal.clone() } else { second.clone() };
    service.use_up_free_quota("u", "asset").await;
    service.deduct(traced("t", charge("u", "asset", 200))).await;

    let equal = (0..40).map(|number| {
        let client = client(number);
        async move { try_refund(&client, refund("u", "t", "once", 10)).await.unwrap() }
    });
    let equal = join_all(equal).await;
    assert_eq!(equal.iter().filter(|reply| !reply.replayed).count(), 1);
    assert!(equal.iter().all(|reply| (reply.paid_count, reply.amount, reply.balance) == (10, 0.5, 0.5)), "{equal:?}");

    // 190 units are left, and 60 callers want 5 each; charges come between.
    let refunds = (0..60).map(|number| {
        let client = client(number);
        async move { try_refund(&client, refund("u", "t", &format!("r{number}"), 5)).await }
    });
    let charges = (0..10).map(|number| service.try_deduct(traced(&format!("c{number}"), charge("u", "asset", 1))));
    let (refunds, charges) = futures_util::join!(join_all(refunds), join_all(charges));
    let (given, refused): (Vec<_>, Vec<_>) = refunds.into_iter().partition(Result::is_ok);
    assert_eq!((given.len(), refused.len()), (38, 22));
    assert!(refused.into_iter().all(|refusal| code_of(&refusal.unwrap_err()).1 == "10009"));
    assert!(charges.iter().all(Result::is_ok));
    assert_eq!(service.state("u").await, (9.5, [0, 0, 5]));
    let transaction = service.transaction("u", "t").await;
    assert_eq!((transaction.refunded_count, transaction.refunded_amount), (200, 10.0));
    service.assert_audit_is_clean().await;
    other.stop().await;
}

/// A second server on the database of a service, with the same clock.
async fn second_server(service: &Service) -> (App, Client) {
    let config = service.database.config(&[("billing.free_quotas.asset", "5")]);
    let other = App::start_with_clock(config, service.clock.clone()).await.unwrap();
    let client = Client::connect(format!("http://{}", other.grpc_addr)).await.unwrap();
    (other, client)
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunds_beside_a_commit_come_before_it_or_give_back_its_charge(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    let (other, second) = second_server(&service).await;
    service.use_up_free_quota("u", "asset").await;
    let reserve = ReserveQuotaRequest {
        user_id: "u".into(),
        service_name: "asset".into(),
        count: 100,
        trace_id: "held".into(),
        ..Default::default()
    };
    service.internal.clone().reserve_quota(reserve).await.unwrap();
    let ids: Vec<_> = (0..20).map(|number| format!("r{number}")).collect();
    let refund_all = async || {
        let refunds = ids.iter().enumerate().map(|(number, id)| {
            let client = if number.is_multiple_of(2) { &service.internal } else { &second };
            try_refund(client, refund("u", "held", id, 5))
        });
        join_all(refunds).await
    };
    let commit = CommitReservationRequest { user_id: "u".into(), trace_id: "held".into(), ..Default::default() };
    let mut committing = second.clone();
    let (refunds, committed) = futures_util::join!(refund_all(), committing.commit_reservation(commit));
    assert_eq!(committed.unwrap().into_inner().amount, 5.0);
    for refused in refunds.iter().filter_map(|refund| refund.as_ref().err()) {
        assert_eq!(code_of(refused).1, "10011", "the reservation was not committed yet: {refused:?}");
    }
    let given = refunds.iter().filter(|refund| refund.is_ok()).count();
    assert_eq!(service.transaction("u", "held").await.refunded_count, 5 * given as i32);
    // Those that were refused come again, and the others are repeats.
    let again = refund_all().await;
    assert_eq!(again.iter().filter(|refund| refund.as_ref().unwrap().replayed).count(), given);
    let transaction = service.transaction("u", "held").await;
    assert_eq!((transaction.refunded_count, transaction.refunded_amount), (100, 5.0));
    assert_eq!(service.account("u").await.balance, 10.0);
    service.assert_audit_is_clean().await;
    other.stop().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunds_beside_the_archive_give_back_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    let (other, second) = second_server(&service).await;
    service.use_up_free_quota("u", "asset").await;
    for number in 0..20 {
        service.deduct(traced(&format!("t{number}"), charge("u", "asset", 10))).await;
    }
    service.clock.set("2027-06-01T04:00:00Z");
    let refunds = (0..40).map(|number| {
        let client = if number % 2 == 0 { &service.internal } else { &second };
        try_refund(client, refund("u", &format!("t{}", number / 2), &format!("r{number}"), 5))
    });
    let store = app::connect(&service.database.config(&[])).await.unwrap();
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, service.clock.clone());
    let archive = archive_records(&*store, &calendar, 1.try_into().unwrap(), false, &Unwatched);
    let (refunds, moved) = futures_util::join!(join_all(refunds), archive);
    // The free units, and the charges.
    let moved = moved.unwrap().moved;
    assert_eq!((moved.records, moved.transactions), (21, 21));
    assert!(refunds.iter().all(|refund| refund.as_ref().is_ok_and(|given| given.amount == 0.25)), "{refunds:?}");
    for number in 0..20 {
        let transaction = service.transaction("u", &format!("t{number}")).await;
        assert_eq!((transaction.refunded_count, transaction.refunded_amount), (10, 0.5));
    }
    assert_eq!(service.account("u").await.balance, 10.0);
    let of_june = service.lines("u").await.into_iter().filter(|line| *line == (4, 5, 0.25, "2026-11".into()));
    assert_eq!(of_june.count(), 40);
    store.close().await;
    service.assert_audit_is_clean().await;
    other.stop().await;
}

/// Some come before the close, and some behind it. Each counts to its own day.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refunds_beside_the_close_of_the_month_of_their_charge_name_it_behind_the_close(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let service = start(on).await;
    let (other, second) = second_server(&service).await;
    service.use_up_free_quota("u", "asset").await;
    service.deduct(traced("t", charge("u", "asset", 200))).await;
    service.clock.set("2026-12-03T15:59:59Z");
    let give_back = |number: usize| {
        let client = if number.is_multiple_of(2) { service.internal.clone() } else { second.clone() };
        async move { try_refund(&client, refund("u", "t", &format!("r{number}"), 5)).await.unwrap() }
    };
    give_back(0).await;
    let mut running: FuturesUnordered<_> = (1..39).map(give_back).collect();
    running.next().await.unwrap();
    service.clock.set("2026-12-03T16:00:00Z");
    while running.next().await.is_some() {}
    let closed = service.month_of("u", "2026-11", "30").await;
    give_back(39).await;
    assert_eq!(service.month_of("u", "2026-11", "30").await, closed);

    let lines = service.lines("u").await;
    let of = |late: &str| lines.iter().filter(|line| **line == (4, 5, 0.25, late.to_owned())).count();
    let (in_time, late) = (of(""), of("2026-11"));
    assert!(in_time >= 2 && late >= 1 && in_time + late == 40, "{lines:?}");
    let refunded = async |from: &str, to: &str| {
        let path = format!("/api/v1/billing/usage?user_id=u&from={from}&to={to}&service_name=asset");
        let (code, usage) = service.get(&path).await;
        assert_eq!(code, 200, "{usage}");
        let days = usage["series"][0]["days"].as_array().unwrap();
        days.iter().map(|day| day["refunded_count"].as_i64().unwrap()).sum::<i64>()
    };
    assert_eq!(refunded("2026-11-01", "2026-11-30").await, 0);
    let each_day = (refunded("2026-12-03", "2026-12-03").await, refunded("2026-12-04", "2026-12-04").await);
    assert_eq!(each_day, (5 * in_time as i64, 5 * late as i64));
    let transaction = service.transaction("u", "t").await;
    assert_eq!((transaction.refunded_count, transaction.refunded_amount), (200, 10.0));
    assert_eq!(service.account("u").await.balance, 10.0);
    service.assert_audit_is_clean().await;
    other.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_closed_month_stays_as_it_was(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    let reserve = |trace: &str| ReserveQuotaRequest {
        user_id: "u".into(),
        service_name: "asset".into(),
        count: 8,
        trace_id: trace.into(),
        ..Default::default()
    };
    let commit =
        |trace: &str| CommitReservationRequest { user_id: "u".into(), trace_id: trace.into(), ..Default::default() };
    let mut internal = service.internal.clone();
    service.deduct(traced("t", charge("u", "asset", 7))).await;
    internal.reserve_quota(reserve("soon")).await.unwrap();
    internal.reserve_quota(reserve("late")).await.unwrap();
    // The last instant of November in Shanghai is 16:00 UTC of the 30th. It closes three days later.
    service.clock.set("2026-12-03T15:59:00Z");
    internal.commit_reservation(commit("soon")).await.unwrap();
    service.refund(refund("u", "t", "before the close", 1)).await;
    let november = service.month_of("u", "2026-11", "30").await;
    assert!(november.contains("total_count: 15") || november.contains("total_count: 8"), "{november}");

    service.clock.set("2026-12-03T16:00:00Z");
    let charged = internal.commit_reservation(commit("late")).await.unwrap().into_inner();
    // The free quota of December pays five of them.
    assert_eq!((charged.free_count, charged.paid_count, charged.amount), (5, 3, 0.15));
    let given = service.refund(refund("u", "t", "after the close", None)).await;
    // The free units of November go nowhere.
    assert_eq!((given.free_count, given.paid_count, given.amount), (0, 1, 0.05));
    assert_eq!((given.refunded_count, given.refunded_amount), (7, 0.1));
    assert_eq!(service.month_of("u", "2026-11", "30").await, november);
    let of = |kind, count, amount, late: &str| (kind, count, amount, late.to_owned());
    let newest = [of(4, 1, 0.05, "2026-11"), of(2, 3, 0.15, "2026-11"), of(1, 5, 0.0, "2026-11"), of(4, 1, 0.05, "")];
    assert_eq!(service.lines("u").await[..4], newest);
    let stored = service
        .database
        .rows(&["used_quota", "held_quota"], "FROM free_quota WHERE service_name = 'asset' ORDER BY reset_month");
    assert_eq!(stored.await, [["5", "0"], ["5", "0"]]);
    service.assert_audit_is_clean().await;

    // A late charge has its free units of December, which go back there.
    let given = service.refund(refund("u", "late", "of a late charge", None)).await;
    assert_eq!((given.free_count, given.paid_count, given.amount), (5, 3, 0.15));

    // Records move to the archive, and their charges are refunded all the same.
    service.deduct(traced("old", charge("u", "asset", 9))).await;
    service.clock.set("2027-06-01T04:00:00Z");
    let store = app::connect(&service.database.config(&[])).await.unwrap();
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, service.clock.clone());
    let moved = archive_records(&*store, &calendar, 1.try_into().unwrap(), false, &Unwatched).await.unwrap();
    store.close().await;
    assert!(moved.moved.records > 8 && moved.moved.transactions == 4, "{moved:?}");
    let given = service.refund(refund("u", "old", "of an old charge", None)).await;
    assert_eq!((given.free_count, given.paid_count, given.amount, given.refunded_count), (0, 4, 0.2, 9));
    assert_eq!(service.lines("u").await[0], of(4, 4, 0.2, "2026-12"));
    let url = format!("http://{}/api/v1/billing/records.csv?user_id=u", service.app.http_addr);
    let csv = service.http.get(url).send().await.unwrap().text().await.unwrap();
    assert_eq!(csv.lines().filter(|line| line.contains(",\"2026-11\",")).count(), 3, "{csv}");
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_delivered_calls_are_charged_or_recorded(
    #[values(MySql, Sqlite)] on: Backend,
    #[values("charge", "spill", "cap")] above_hold: &str,
) {
    let policy = format!("{{payment: {{above_hold: {above_hold}}}}}");
    let service = Service::start_with(on, &[("billing.reservations", &policy)]).await;
    service.use_up_free_quota("u", "payment").await;
    service.adjust("u", 0.1).await;
    let call = |number: usize, delivered| {
        service.try_deduct(DeductQuotaRequest { delivered, ..traced(&format!("t{number}"), charge("u", "payment", 1)) })
    };
    let replies: Vec<_> =
        join_all((0..100).map(|number| call(number, true))).await.into_iter().map(Result::unwrap).collect();
    let charged = replies.iter().filter(|reply| (reply.amount, reply.shortfall) == (0.1, 0.0)).count();
    let short = replies.iter().filter(|reply| (reply.amount, reply.shortfall) == (0.0, 0.1)).count();
    let (expected, balance) = if above_hold == "charge" { ((100, 0), -9.9) } else { ((1, 99), 0.0) };
    assert_eq!(((charged, short), service.account("u").await.balance), (expected, balance));
    assert_eq!(code_of(&call(100, false).await.unwrap_err()).1, "10001");
    let replayed = call(7, false).await.unwrap();
    assert!(replayed.replayed && (replayed.amount, replayed.shortfall) == (replies[7].amount, replies[7].shortfall));
    assert_eq!(service.transaction("u", "t7").await.shortfall, replies[7].shortfall);
    service.assert_audit_is_clean().await;
}

/// A chargeback of spent money, which an adjustment books.
#[rstest]
#[tokio::test]
async fn a_debt_is_booked_listed_and_paid(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let adjust = |id: &str, amount: f64, allow_negative| AdjustBalanceRequest {
        user_id: "u".into(),
        amount,
        reason: format!("because of {id}"),
        adjustment_id: id.into(),
        operator: "tester".into(),
        allow_negative,
    };
    let mut internal = service.internal.clone();
    internal.adjust_balance(adjust("a top-up", 100.0, false)).await.unwrap();
    service.deduct(DeductQuotaRequest { cost: 110.0, ..charge("u", "asset", 1100) }).await;
    service.deduct(DeductQuotaRequest { cost: 90.0, ..charge("u", "asset", 1) }).await;
    let refused = internal.adjust_balance(adjust("back", -100.0, false)).await.unwrap_err();
    assert_eq!(code_of(&refused).1, "10001");
    let booked = internal.adjust_balance(adjust("back", -100.0, true)).await.unwrap().into_inner();
    assert_eq!((booked.balance, booked.replayed), (-100.0, false));
    assert!(internal.adjust_balance(adjust("back", -100.0, false)).await.unwrap().into_inner().replayed);
    assert_eq!(code_of(&service.try_deduct(charge("u", "asset", 1)).await.unwrap_err()).1, "10001");
    assert!(service.deduct(charge("u", "passport", 1)).await.success);
    internal.adjust_balance(adjust("paid", 130.0, false)).await.unwrap();

    let list = |page, page_size, page_token: &str| ListAdjustmentsRequest {
        user_id: "u".into(),
        page,
        page_size,
        page_token: page_token.into(),
    };
    let mut public = service.public.clone();
    let all = public.list_adjustments(list(0, 0, "")).await.unwrap().into_inner();
    let lines: Vec<_> =
        all.adjustments.iter().map(|one| (one.adjustment_id.as_str(), one.amount, one.balance)).collect();
    assert_eq!(lines, [("paid", 130.0, 30.0), ("back", -100.0, -100.0), ("a top-up", 100.0, 100.0)]);
    assert_eq!((all.total, all.next_page_token.as_str()), (3, ""));
    let mut paged = Vec::new();
    let mut token = String::new();
    for _ in 0..3 {
        let page = public.list_adjustments(list(0, 1, &token)).await.unwrap().into_inner();
        (token, paged) = (page.next_page_token, [paged, page.adjustments].concat());
    }
    assert_eq!((paged, token.as_str()), (all.adjustments.clone(), ""));
    let second = public.list_adjustments(list(2, 2, "")).await.unwrap().into_inner();
    assert_eq!(second.adjustments, all.adjustments[2..]);
    let (code, listed) = service.get("/api/v1/billing/adjustments?user_id=u&page_size=1").await;
    let first = &listed["adjustments"][0];
    assert_eq!((code, &first["reason"], &first["currency"]), (200, &json!("because of paid"), &json!("CNY")));
    assert_eq!(first.get("operator"), None::<&Value>);
    service.assert_audit_is_clean().await;
}
