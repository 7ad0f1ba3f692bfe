//! An id charges once, forever.

use billing_service::service::proto::{
    BatchDeductQuotaRequest, DeductQuotaReply, DeductQuotaRequest, ReserveQuotaReply, ReserveQuotaRequest, Usage,
};
use rstest::rstest;
use tonic::{Code, Request};

use crate::harness::{Backend, MySql, Service, Sqlite, charge, code_of, traced};

#[rstest]
#[tokio::test]
async fn a_retry_gets_the_first_outcome(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 10.0).await;
    let request = traced("t", charge("u", "payment", 1010));
    let first = service.deduct(request.clone()).await;
    assert!(!first.replayed);
    service.deduct(charge("u", "payment", 1)).await;
    service.adjust("u", 50.0).await;

    let retry = service.deduct(request).await;
    assert!(retry.replayed);
    assert_eq!(retry, DeductQuotaReply { replayed: true, ..first });
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn an_id_with_other_content_is_a_conflict_that_names_the_fields(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let usage = Usage { input_tokens: 1, output_tokens: 2, ..Default::default() };
    let first = DeductQuotaRequest {
        cost: 1.0,
        api_key_id: "key".into(),
        model: "m".into(),
        usage: Some(usage),
        ..traced("t", charge("u", "asset", 5))
    };
    service.deduct(first.clone()).await;
    let state = service.state("u").await;
    for (changed, fields) in [
        (DeductQuotaRequest { service_name: "passport".into(), ..first.clone() }, "service_name"),
        (DeductQuotaRequest { count: 6, ..first.clone() }, "count"),
        (DeductQuotaRequest { cost: 1.000001, ..first.clone() }, "cost"),
        (DeductQuotaRequest { api_key_id: "Key".into(), ..first.clone() }, "api_key_id"),
        (DeductQuotaRequest { model: "M".into(), ..first.clone() }, "model"),
        (DeductQuotaRequest { usage: Some(Usage { output_tokens: 3, ..usage }), ..first.clone() }, "usage"),
        (DeductQuotaRequest { usage: None, ..first.clone() }, "usage"),
        (DeductQuotaRequest { count: 6, cost: 2.0, ..first.clone() }, "count, cost"),
    ] {
        let conflict = service.try_deduct(changed).await.unwrap_err();
        assert_eq!(code_of(&conflict), (Code::AlreadyExists, "10007".into()));
        assert!(conflict.message().ends_with(&format!("differ: {fields}")), "{}", conflict.message());
    }
    assert_eq!(service.state("u").await, state);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn similar_ids_are_different(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let ids = ["t", "T", "t ", " t", "t'", "t\\", "t%", "t_", "t\"", "t;--", "t\u{7e}", &"t".repeat(128)];
    for id in ids {
        assert!(!service.deduct(traced(id, charge("u", "passport", 1))).await.replayed, "{id:?}");
    }
    for id in ids {
        assert!(service.deduct(traced(id, charge("u", "passport", 1))).await.replayed, "{id:?}");
    }
    // Equal ids of two users are different, and so are users whose names differ in case.
    for user in ["v", "V", "u.", "U"] {
        assert!(!service.deduct(traced("t", charge(user, "passport", 1))).await.replayed, "{user}");
    }
    assert_eq!(service.state("u").await.1[0], 12);
    assert_eq!(service.state("V").await.1[0], 1);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_refusal_is_not_stored(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.use_up_free_quota("u", "payment").await;
    let request = traced("t", charge("u", "payment", 1));
    assert_eq!(code_of(&service.try_deduct(request.clone()).await.unwrap_err()).1, "10001");
    service.adjust("u", 1.0).await;
    let passed = service.deduct(request).await;
    assert_eq!((passed.replayed, passed.balance), (false, 0.9));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn equal_charges_without_an_id_charge_twice(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let (one, two) =
        (service.deduct(charge("u", "passport", 1)).await, service.deduct(charge("u", "passport", 1)).await);
    assert_ne!(one.record_id, two.record_id);
    assert_eq!(two.free_remaining, 9998);
}

#[rstest]
#[tokio::test]
async fn the_metadata_may_carry_a_missing_id(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let send = |field: &'static str, metadata: &'static str| {
        let mut client = service.internal.clone();
        async move {
            let mut request = Request::new(traced(field, charge("u", "passport", 1)));
            request.metadata_mut().insert("x-trace-id", metadata.parse().unwrap());
            client.deduct_quota(request).await.unwrap().into_inner().replayed
        }
    };
    assert!(!send("", "from-metadata").await);
    assert!(send("", "from-metadata").await);
    assert!(send("from-metadata", "other").await);
    assert!(!send("", "other").await);
}

#[rstest]
#[tokio::test]
async fn ids_survive_a_restart(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.deduct(traced("t", charge("u", "passport", 1))).await;
    service.app.stop().await;
    let service = Service::start_on(service.database, &[]).await;
    assert!(service.deduct(traced("t", charge("u", "passport", 1))).await.replayed);
    assert_eq!(service.state("u").await.1[0], 1);
}

/// Without a look-up of its id, the repeat is a call that nothing covers.
#[rstest]
#[tokio::test]
async fn a_retry_of_the_call_that_took_the_last_money_is_not_refused(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for user in ["charged", "held"] {
        service.use_up_free_quota(user, "payment").await;
        service.adjust(user, 0.1).await;
    }
    let last = traced("last", charge("charged", "payment", 1));
    let first = service.deduct(last.clone()).await;
    assert_eq!(service.deduct(last).await, DeductQuotaReply { replayed: true, ..first });
    assert_eq!(code_of(&service.try_deduct(charge("charged", "payment", 1)).await.unwrap_err()).1, "10001");

    let hold = |trace_id: &str| ReserveQuotaRequest {
        user_id: "held".into(),
        trace_id: trace_id.into(),
        service_name: "payment".into(),
        count: 1,
        ..Default::default()
    };
    let mut internal = service.internal.clone();
    let first = internal.reserve_quota(hold("last")).await.unwrap().into_inner();
    let again = internal.reserve_quota(hold("last")).await.unwrap().into_inner();
    assert_eq!(again, ReserveQuotaReply { replayed: true, ..first });
    assert_eq!(code_of(&internal.reserve_quota(hold("another")).await.unwrap_err()).1, "10001");
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn repeats_between_new_charges_charge_once_and_their_neighbours_too(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.use_up_free_quota("u", "payment").await;
    service.adjust("u", 0.6).await;
    let one = |trace_id: &str| traced(trace_id, charge("u", "payment", 1));
    let first = service.deduct(one("first")).await;
    let items = vec![
        one("a"),
        one("first"),
        traced("new-user", charge("v", "payment", 1)),
        one("a"),
        traced("too-much", charge("u", "payment", 5)),
        one("b"),
    ];
    let request = BatchDeductQuotaRequest { items };
    let results = service.internal.clone().batch_deduct_quota(request).await.unwrap().into_inner().results;
    assert_eq!(results[1].reply, Some(DeductQuotaReply { replayed: true, ..first }));
    let shown: Vec<_> = results
        .iter()
        .map(|result| match (&result.reply, &result.error) {
            (Some(reply), None) => format!("{} {}", reply.balance, reply.replayed),
            (None, Some(error)) => error.error_code.clone(),
            both => panic!("{both:?}"),
        })
        .collect();
    assert_eq!(shown, ["0.4 false", "0.5 true", "0 false", "0.4 true", "10001", "0.3 false"]);
    assert_eq!((service.state("u").await.0, service.account("v").await.balance), (0.3, 0.0));
    service.assert_audit_is_clean().await;
}
