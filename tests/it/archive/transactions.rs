//! The content of a transaction moves with its main record. Replays, refunds, commits and reads do not see it.

use billing_service::service::proto::{
    ApiKeyQuota, BatchDeductQuotaRequest, CommitReservationRequest, DeductQuotaReply, DeductQuotaRequest,
    GetApiKeyQuotaRequest, GetStatementRequest, RefundChargeReply, RefundChargeRequest, ReleaseReservationRequest,
    ReserveQuotaRequest, SetAccountStatusRequest, SetApiKeyQuotaRequest, Usage,
};
use rstest::rstest;
use tonic::{Code, Status};

use super::{count, keep_months, move_all_but, seen};
use crate::harness::{Backend, MySql, Service, Sqlite, charge, code_of, traced};

fn usage(input_tokens: i32, output_tokens: i32) -> Option<Usage> {
    Some(Usage { input_tokens, output_tokens, cached_input_tokens: 1, ..Default::default() })
}

/// A charge with a model, tokens and an API key: 5 free and 5 paid units.
fn mixed() -> DeductQuotaRequest {
    DeductQuotaRequest {
        model: "gpt".into(),
        usage: usage(100, 20),
        api_key_id: "key".into(),
        ..traced("mixed", charge("u", "asset", 10))
    }
}

fn costly(trace: &str) -> DeductQuotaRequest {
    DeductQuotaRequest {
        cost: 1.25,
        usage: usage(7, 3),
        model: "other".into(),
        ..traced(trace, charge("u", "asset", 2))
    }
}

fn commit(trace: &str, output_tokens: i32) -> CommitReservationRequest {
    CommitReservationRequest {
        user_id: "u".into(),
        trace_id: trace.into(),
        count: Some(2),
        usage: usage(50, output_tokens),
        ..Default::default()
    }
}

fn refund(trace: &str, id: &str, count: Option<i32>) -> RefundChargeRequest {
    RefundChargeRequest {
        user_id: "u".into(),
        trace_id: trace.into(),
        refund_id: id.into(),
        count,
        reason: "for a test".into(),
    }
}

/// Transactions of all kinds, made in January and February of 2026.
struct Old {
    service: Service,
    mixed: DeductQuotaReply,
    batch: Vec<DeductQuotaReply>,
}

/// The trace ids, each with whether its transaction moves.
const TRACES: [(&str, bool); 10] = [
    ("mixed", true),
    ("b1", true),
    ("b2", true),
    ("committed", true),
    ("both", true),
    ("late", true),
    ("report", false),
    ("pending", false),
    ("released", false),
    ("new", false),
];

async fn old(on: Backend) -> Old {
    let service = Service::start_with(on, &[("billing.free_quotas.asset", "5")]).await;
    service.clock.set("2026-01-05T04:00:00Z");
    service.adjust("u", 100.0).await;
    let bind = SetApiKeyQuotaRequest {
        api_key_id: "key".into(),
        quota_type: "amount".into(),
        period: "total".into(),
        limit: Some(50.0),
    };
    service.internal.clone().set_api_key_quota(bind).await.unwrap();
    let mixed = service.deduct(mixed()).await;
    assert_eq!((mixed.free_count, mixed.paid_count), (5, 5));
    let batch = batch(&service).await;
    for trace in ["committed", "both", "report", "late", "pending", "released"] {
        let reserve = ReserveQuotaRequest {
            user_id: "u".into(),
            trace_id: trace.into(),
            service_name: "asset".into(),
            count: 2,
            model: "gpt".into(),
            api_key_id: "key".into(),
            ..Default::default()
        };
        assert!(service.internal.clone().reserve_quota(reserve).await.unwrap().into_inner().success);
    }
    for trace in ["committed", "both", "report"] {
        service.internal.clone().commit_reservation(commit(trace, 30)).await.unwrap();
    }
    // As the last report of a stream makes a charge, alone or with a commit that added to it.
    for (trace, charged_by) in [("both", 2), ("report", 1)] {
        let sql = format!("UPDATE billing_transaction SET charged_by = {charged_by} WHERE trace_id = '{trace}'");
        service.database.execute(&sql).await;
    }
    let release = ReleaseReservationRequest { user_id: "u".into(), trace_id: "released".into() };
    service.internal.clone().release_reservation(release).await.unwrap();
    service.clock.set("2026-02-07T04:00:00Z");
    service.internal.clone().commit_reservation(commit("late", 30)).await.unwrap();
    service.internal.clone().refund_charge(refund("mixed", "in February", Some(3))).await.unwrap();
    service.clock.set("2026-11-21T04:00:00Z");
    service.deduct(costly("new")).await;
    Old { service, mixed, batch }
}

async fn batch(service: &Service) -> Vec<DeductQuotaReply> {
    let request = BatchDeductQuotaRequest { items: vec![costly("b1"), costly("b2")] };
    let results = service.internal.clone().batch_deduct_quota(request).await.unwrap().into_inner().results;
    results.into_iter().map(|result| result.reply.unwrap()).collect()
}

async fn used_of_key(service: &Service) -> f64 {
    let request = GetApiKeyQuotaRequest { api_key_id: "key".into() };
    let reply = service.internal.clone().get_api_key_quota(request).await.unwrap().into_inner();
    let [ApiKeyQuota { used, .. }] = reply.quotas[..] else { panic!("{reply:?}") };
    used
}

/// All reads of the user's transactions.
async fn all_reads(service: &Service) -> Vec<String> {
    let mut reads = vec![format!("{:?}", seen(service, "u").await)];
    for (trace, _) in TRACES {
        reads.push(format!("{:?}", service.transaction("u", trace).await));
        let path = format!("/internal/v1/billing/transactions/u/{trace}");
        reads.push(format!("{:?}", service.internal_get(&path).await));
    }
    for month in ["2026-01", "2026-02"] {
        let request = GetStatementRequest { user_id: "u".into(), month: month.into() };
        reads.push(format!("{:?}", service.public.clone().get_statement(request).await.unwrap().into_inner()));
    }
    let (public, internal) = (service.app.http_addr, service.app.grpc_addr);
    for url in [
        format!("http://{public}/api/v1/billing/statement.csv?user_id=u&month=2026-01"),
        format!("http://{internal}/internal/v1/billing/records.csv?from=2026-01-01&to=2026-02-28"),
        format!("http://{public}/api/v1/billing/usage?user_id=u&from=2026-01-01&to=2026-02-28&group_by=model"),
        format!("http://{public}/api/v1/billing/usage?user_id=u&from=2026-01-01&to=2026-02-28&group_by=api_key"),
    ] {
        let response = service.http.get(&url).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{url}");
        reads.push(response.text().await.unwrap());
    }
    reads.push(used_of_key(service).await.to_string());
    reads
}

#[rstest]
#[tokio::test]
async fn reads_of_transactions_do_not_depend_on_the_archive(#[values(MySql, Sqlite)] on: Backend) {
    let Old { service, .. } = old(on).await;
    let before = all_reads(&service).await;
    assert!(before.iter().any(|read| read.contains("gpt")), "{before:#?}");
    let moved = move_all_but(&service.database, &service.clock, 1).await;
    assert_eq!(moved.transactions, 6);
    for (trace, moves) in TRACES {
        let row = format!("FROM billing_transaction WHERE trace_id = '{trace}'");
        let status = service.database.rows(&["status"], &row).await;
        assert_eq!(status == [["ARCHIVED"]], moves, "{trace}");
    }
    for (after, before) in all_reads(&service).await.into_iter().zip(before) {
        assert_eq!(after, before);
    }
    service.assert_audit_is_clean().await;
    assert_eq!(keep_months(&service.database, &service.clock, 1).await, 0);
}

#[rstest]
#[tokio::test]
async fn an_archived_charge_is_replayed_and_never_charged_again(#[values(MySql, Sqlite)] on: Backend) {
    let Old { service, mixed: first, batch: first_batch } = old(on).await;
    keep_months(&service.database, &service.clock, 1).await;
    let (balance, used) = (service.account("u").await.balance, used_of_key(&service).await);
    let records = count(&service.database, "billing_record").await;
    // The second time, the server knows the account.
    for _ in 0..2 {
        assert_eq!(service.deduct(mixed()).await, DeductQuotaReply { replayed: true, ..first.clone() });
        for (reply, first) in batch(&service).await.into_iter().zip(&first_batch) {
            assert_eq!(reply, DeductQuotaReply { replayed: true, ..first.clone() });
        }
        let again = service.internal.clone().commit_reservation(commit("committed", 30)).await.unwrap().into_inner();
        assert!(again.replayed);
    }
    let other = [
        DeductQuotaRequest { count: 11, ..mixed() },
        DeductQuotaRequest { usage: usage(100, 21), ..mixed() },
        DeductQuotaRequest { model: "gpt-5".into(), ..mixed() },
        DeductQuotaRequest { api_key_id: "another".into(), ..mixed() },
        DeductQuotaRequest { service_name: "passport".into(), ..mixed() },
    ];
    for request in other {
        assert_eq!(refused(service.try_deduct(request).await), Code::AlreadyExists);
    }
    for trace in ["committed", "both"] {
        let commit = service.internal.clone().commit_reservation(commit(trace, 31)).await;
        assert_eq!(refused(commit), Code::AlreadyExists, "{trace}");
    }
    let release = ReleaseReservationRequest { user_id: "u".into(), trace_id: "committed".into() };
    assert_eq!(refused(service.internal.clone().release_reservation(release).await), Code::FailedPrecondition);
    assert_eq!((service.account("u").await.balance, used_of_key(&service).await), (balance, used));
    assert_eq!(count(&service.database, "billing_record").await, records);
    service.assert_audit_is_clean().await;
}

/// A call of a frozen account is refused, unless its id is found, and the row of an archived charge is narrow.
#[rstest]
#[tokio::test]
async fn an_archived_charge_of_a_frozen_account_is_replayed(#[values(MySql, Sqlite)] on: Backend) {
    let Old { service, mixed: first, .. } = old(on).await;
    keep_months(&service.database, &service.clock, 1).await;
    let freeze = SetAccountStatusRequest { user_id: "u".into(), status: "FROZEN".into(), reason: "for a test".into() };
    service.internal.clone().set_account_status(freeze).await.unwrap();
    assert_eq!(refused(service.try_deduct(traced("unknown", charge("u", "asset", 1))).await), Code::FailedPrecondition);
    assert_eq!(service.deduct(mixed()).await, DeductQuotaReply { replayed: true, ..first });
    service.assert_audit_is_clean().await;
}

fn refused<T: std::fmt::Debug>(reply: Result<T, Status>) -> Code {
    code_of(&reply.unwrap_err()).0
}

/// Its row stays wide for such a commit, and moves with no record later.
#[rstest]
#[tokio::test]
async fn a_commit_adds_to_an_old_charge_of_reported_usage(#[values(MySql, Sqlite)] on: Backend) {
    let Old { service, .. } = old(on).await;
    keep_months(&service.database, &service.clock, 1).await;
    let balance = service.account("u").await.balance;
    let more = CommitReservationRequest { count: Some(4), ..commit("report", 40) };
    let reply = service.internal.clone().commit_reservation(more.clone()).await.unwrap().into_inner();
    assert_eq!((reply.paid_count, reply.amount), (4, 0.2));
    assert_eq!(service.account("u").await.balance, balance - 0.1);
    assert!(service.internal.clone().commit_reservation(more).await.unwrap().into_inner().replayed);
    assert_eq!(service.account("u").await.balance, balance - 0.1);
    let pending = service.internal.clone().commit_reservation(commit("pending", 5)).await.unwrap().into_inner();
    assert!(!pending.replayed);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn an_archived_charge_is_refunded_as_any_other(#[values(MySql, Sqlite)] on: Backend) {
    let Old { service, .. } = old(on).await;
    keep_months(&service.database, &service.clock, 1).await;
    let give_back = async |trace: &str, id: &str, count: Option<i32>| {
        service.internal.clone().refund_charge(refund(trace, id, count)).await.map(|reply| reply.into_inner())
    };
    let (balance, used) = (service.account("u").await.balance, used_of_key(&service).await);
    // Three paid units were given back in February.
    let part = give_back("mixed", "part", Some(1)).await.unwrap();
    assert_eq!((part.free_count, part.paid_count, part.amount, part.refunded_count), (0, 1, 0.05, 4));
    let repeated = give_back("mixed", "part", Some(1)).await.unwrap();
    assert_eq!(repeated, RefundChargeReply { replayed: true, ..part });
    assert_eq!(refused(give_back("mixed", "part", Some(2)).await), Code::AlreadyExists);
    assert_eq!(refused(give_back("mixed", "too much", Some(7)).await), Code::InvalidArgument);
    let rest = give_back("mixed", "rest", None).await.unwrap();
    // The month of the free units is over.
    assert_eq!((rest.free_count, rest.paid_count, rest.amount, rest.refunded_count), (0, 1, 0.05, 10));
    assert_eq!(refused(give_back("mixed", "nothing left", None).await), Code::InvalidArgument);
    let whole = give_back("b1", "whole", None).await.unwrap();
    assert_eq!((whole.paid_count, whole.amount), (2, 1.25));
    let reserved = give_back("committed", "reserved", None).await.unwrap();
    assert_eq!((reserved.paid_count, reserved.amount), (2, 0.1));
    let after = service.account("u").await.balance;
    assert!((after - balance - 1.45).abs() < 1e-9, "{balance} {after}");
    // The API key gets back its parts.
    assert!((used - used_of_key(&service).await - 0.2).abs() < 1e-9);
    for (trace, refunded) in [("mixed", 10), ("b1", 2), ("committed", 2)] {
        assert_eq!(service.transaction("u", trace).await.refunded_count, refunded, "{trace}");
        let row = format!("FROM billing_transaction WHERE trace_id = '{trace}'");
        assert_eq!(service.database.rows(&["refunded_free + refunded_paid"], &row).await, [[refunded.to_string()]]);
    }
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replays_beside_the_archive_charge_nothing(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-01-05T04:00:00Z");
    service.adjust("u", 100.0).await;
    let items = |first: usize| {
        (first..first + 500)
            .map(|n| DeductQuotaRequest { cost: 0.01, ..traced(&format!("t{n}"), charge("u", "asset", 1)) })
    };
    let send = async |first: usize| {
        let request = BatchDeductQuotaRequest { items: items(first).collect() };
        let reply = service.internal.clone().batch_deduct_quota(request).await.unwrap().into_inner();
        reply.results.into_iter().map(|result| result.reply.unwrap()).collect::<Vec<_>>()
    };
    service.use_up_free_quota("u", "asset").await;
    let mut first = Vec::new();
    for part in 0..6 {
        first.extend(send(part * 500).await);
    }
    service.clock.set("2026-11-05T04:00:00Z");
    let balance = service.account("u").await.balance;
    let replaying = async {
        for round in 0..4 {
            for part in 0..6 {
                for (reply, first) in send(part * 500).await.into_iter().zip(&first[part * 500..]) {
                    assert_eq!(reply, DeductQuotaReply { replayed: true, ..first.clone() }, "in round {round}");
                }
                let give_back = refund(&format!("t{}", part * 500 + round), &format!("r{part}-{round}"), None);
                let given = service.internal.clone().refund_charge(give_back).await.unwrap().into_inner();
                assert_eq!((given.paid_count, given.amount, given.refunded_count), (1, 0.01, 1));
            }
        }
    };
    let (moved, ()) = tokio::join!(move_all_but(&service.database, &service.clock, 1), replaying);
    assert_eq!(moved.transactions, 3_001, "with the charge that used up the free quota");
    let after = service.account("u").await.balance;
    assert!((after - balance - 0.24).abs() < 1e-9, "{balance} {after}");
    service.assert_audit_is_clean().await;
}
