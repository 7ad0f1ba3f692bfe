//! Charges: free quota, balance, records and answers.

use billing_service::service::proto::{
    BatchDeductQuotaRequest, CheckQuotaRequest, DeductQuotaRequest, ListRecordsRequest, Usage,
};
use rstest::rstest;
use tonic::Code;

use crate::harness::{Backend, MySql, Service, Sqlite, charge, code_of, traced};

#[rstest]
#[tokio::test]
async fn free_quota_pays_first_then_the_balance_and_then_charges_fail(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 1.0).await;

    let free = service.deduct(charge("u", "payment", 995)).await;
    assert_eq!((free.free_count, free.paid_count, free.amount), (995, 0, 0.0));

    let mixed = service.deduct(charge("u", "payment", 10)).await;
    assert_eq!((mixed.free_count, mixed.paid_count, mixed.amount), (5, 5, 0.5));
    assert_eq!((mixed.balance, mixed.free_remaining), (0.5, 0));

    let paid = service.deduct(charge("u", "payment", 5)).await;
    assert_eq!((paid.free_count, paid.paid_count, paid.amount, paid.balance), (0, 5, 0.5, 0.0));

    let refused = service.try_deduct(charge("u", "payment", 1)).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::FailedPrecondition, "10001".into()));
    assert_eq!(service.state("u").await, (0.0, [0, 1000, 0]));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_mixed_charge_makes_two_records_and_returns_the_paid_one(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 100.0).await;
    let request = DeductQuotaRequest {
        trace_id: "mixed".into(),
        api_key_id: "key-1".into(),
        model: "gpt-x".into(),
        cost: 2.0,
        usage: Some(Usage { input_tokens: 30, output_tokens: 20, cached_input_tokens: 10, ..Default::default() }),
        ..charge("u", "asset", 2000)
    };
    let reply = service.deduct(request).await;
    assert_eq!((reply.amount, reply.balance), (1.0, 99.0));

    let listed = service.records(ListRecordsRequest { user_id: "u".into(), ..Default::default() }).await;
    let rows: Vec<_> = listed.records.iter().map(|r| (r.r#type, r.amount, r.count, r.input_tokens)).collect();
    assert_eq!(rows, [(2, 1.0, 1000, 30), (1, 0.0, 1000, 0)]);
    assert_eq!(listed.records[0].id, reply.record_id);
    for record in &listed.records {
        let ids = (record.trace_id.as_str(), record.api_key_id.as_str(), record.model.as_str());
        assert_eq!(ids, ("mixed", "key-1", "gpt-x"));
    }
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_requested_cost_replaces_the_price(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 10.0).await;
    service.deduct(charge("u", "asset", 999)).await;
    // Two of three units are paid, so two thirds of the cost, rounded to a millionth.
    let reply = service.deduct(DeductQuotaRequest { cost: 0.1, ..charge("u", "asset", 3) }).await;
    assert_eq!((reply.free_count, reply.paid_count, reply.amount), (1, 2, 0.066667));
    assert_eq!(reply.balance, 9.933333);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_check_says_if_quota_or_balance_would_pay_and_changes_nothing(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 0.5).await;
    service.deduct(charge("u", "payment", 998)).await;
    let before = service.state("u").await;

    for (count, allowed, reason, amount, error_code) in [
        (2, true, "free", 0.0, ""),
        (3, true, "balance", 0.1, ""),
        (7, true, "balance", 0.5, ""),
        (8, false, "insufficient balance", 0.6, "10001"),
    ] {
        let reply = service.check("u", "payment", count).await;
        assert_eq!((reply.allowed, reply.reason.as_str(), reply.error_code.as_str()), (allowed, reason, error_code));
        assert_eq!((reply.estimated_cost, reply.free_remaining, reply.balance), (amount, 2, 0.5));
    }
    let estimated = CheckQuotaRequest {
        user_id: "u".into(),
        service_name: "payment".into(),
        count: 4,
        estimated_cost: 1.000002,
        ..Default::default()
    };
    let reply = service.internal.clone().check_quota(estimated).await.unwrap().into_inner();
    assert_eq!((reply.allowed, reply.estimated_cost), (false, 0.500001));
    assert_eq!(service.state("u").await, before);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_batch_answers_each_item_in_order(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("rich", 1.0).await;
    service.use_up_free_quota("rich", "payment").await;
    service.use_up_free_quota("poor", "payment").await;
    let items = vec![
        traced("1", charge("rich", "payment", 6)),
        charge("poor", "payment", 1),
        charge("rich", "unheard-of", 1),
        charge("rich", "payment", 0),
        traced("1", charge("rich", "payment", 6)),
        traced("1", charge("rich", "payment", 5)),
        charge("rich", "payment", 5),
        charge("rich", "payment", 4),
        charge("", "payment", 1),
    ];
    let request = BatchDeductQuotaRequest { items };
    let results = service.internal.clone().batch_deduct_quota(request).await.unwrap().into_inner().results;
    let shown: Vec<_> = results
        .iter()
        .map(|result| match (&result.reply, &result.error) {
            (Some(reply), None) => format!("{} {} {}", reply.amount, reply.balance, reply.replayed),
            (None, Some(error)) => format!("{} {}", error.error_code, error.reason),
            both => panic!("{both:?}"),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "0.6 0.4 false",
            "10001 INSUFFICIENT_BALANCE",
            "10008 UNKNOWN_SERVICE",
            "10009 INVALID_ARGUMENT",
            "0.6 0.4 true",
            "10007 IDEMPOTENCY_CONFLICT",
            "10001 INSUFFICIENT_BALANCE",
            "0.4 0 false",
            "10009 INVALID_ARGUMENT",
        ]
    );
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_batch_has_one_to_a_thousand_items(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for size in [0, 1001] {
        let items = vec![charge("u", "passport", 1); size];
        let refused = service.internal.clone().batch_deduct_quota(BatchDeductQuotaRequest { items }).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()));
        assert!(refused.message().starts_with("items:"), "{}", refused.message());
    }
    let items = (0..1000).map(|i| charge(&format!("u{}", i % 100), "passport", 1)).collect();
    let request = BatchDeductQuotaRequest { items };
    let results = service.internal.clone().batch_deduct_quota(request).await.unwrap().into_inner().results;
    assert!(results.len() == 1000 && results.iter().all(|result| result.reply.is_some()));
    assert_eq!(service.state("u99").await, (0.0, [10, 0, 0]));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn the_largest_charge_is_exact(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 100_000_000.0).await;
    let reply = service.deduct(charge("u", "payment", 1_000_000_000)).await;
    assert_eq!((reply.free_count, reply.paid_count), (1000, 999_999_000));
    assert_eq!((reply.amount, reply.balance), (99_999_900.0, 100.0));
    service.assert_audit_is_clean().await;
}
