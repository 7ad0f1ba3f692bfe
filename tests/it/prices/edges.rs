//! Unusable prices, mixed batches, and holds and commits with old prices.

use billing_service::service::proto::{
    BatchDeductQuotaRequest, CommitReservationRequest, DeductQuotaRequest, ReserveQuotaRequest,
};
use chrono::TimeDelta;
use rstest::rstest;

use super::{MODELS, OF_OLD, Row, blamed, blames, call, delivered, hold, tokens};
use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, charge,
    process::{CRON, run},
    traced,
};

/// An unusable row stops neither the start nor the reading of other rows.
#[rstest]
#[tokio::test]
async fn an_unusable_row_only_removes_the_price_of_its_model(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    billing_service::app::connect(&database.config(&[])).await.unwrap().close().await;
    database.set_price(Row("good", OF_OLD, "good-1", ["1", "NULL", "1"])).await;
    // An id with a control character is unusable.
    database.set_price(Row("bad", OF_OLD, "a\u{7}b", ["1", "NULL", "1"])).await;
    let service = Service::start_on(database, MODELS).await;
    service.adjust("u", 100.0).await;
    let million = |model: &str| call("rag", model, tokens(1_000_000, 0, 0));
    assert_eq!(service.deduct(million("good")).await.amount, 0.000001);
    assert_eq!(blamed(service.try_deduct(million("bad")).await), blames("model"));
    service.database.set_price(Row("later", OF_OLD, "later-1", ["3000000", "NULL", "1"])).await;
    service.until_input_costs("later", Some(3.0)).await;
    service.database.set_price(Row("bad", OF_OLD, "mended", ["4000000", "NULL", "1"])).await;
    service.until_input_costs("bad", Some(4.0)).await;
}

#[rstest]
#[tokio::test]
async fn a_batch_may_mix_services_models_and_unknown_ones(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    let model = |trace: &str, name: &str, model: &str| traced(trace, call(name, model, tokens(1000, 0, 500)));
    let items: Vec<DeductQuotaRequest> = vec![
        traced("a", charge("u", "asset", 1_002)),
        model("b", "chat", "gpt-4.1"),
        model("c", "rag", "gpt-4.1"),
        model("d", "rag", "unpriced"),
        traced("e", DeductQuotaRequest { cost: 0.5, ..call("rag", "unpriced", tokens(1, 0, 0)) }),
        traced("f", call("rag", "gpt-4.1", None)),
        traced("g", charge("u", "nothing", 1)),
        model("c", "rag", "gpt-4.1"),
    ];
    let request = BatchDeductQuotaRequest { items };
    for replayed in [false, true] {
        let results = service.internal.clone().batch_deduct_quota(request.clone()).await.unwrap().into_inner().results;
        let seen: Vec<_> = results
            .iter()
            .map(|result| match (&result.reply, &result.error) {
                (Some(reply), None) => Ok((reply.free_count, reply.amount)),
                (None, Some(error)) => Err(error.error_code.as_str()),
                other => panic!("{other:?}"),
            })
            .collect();
        let paid_of_chat = (1000.0 * 2.0 + 500.0 * 8.0) / 3.0 / 1e6;
        assert_eq!(
            seen,
            [
                Ok((1_000, 0.1)),
                Ok((1_000, paid_of_chat)),
                Ok((0, 0.006)),
                Err("10009"),
                Ok((0, 0.5)),
                Err("10009"),
                Err("10008"),
                Ok((0, 0.006)),
            ]
        );
        let replays: Vec<bool> = results.iter().filter_map(|result| Some(result.reply.as_ref()?.replayed)).collect();
        assert_eq!(replays, [replayed, replayed, replayed, replayed, true]);
    }
    assert_eq!(service.found("c").await.price_version, "config:2/0.5/8");
    assert_eq!(service.found("e").await.price_version, "");
    service.assert_audit_is_clean().await;
}

/// Old holds, from before prices by model, have neither a version nor an estimate.
#[rstest]
#[tokio::test]
async fn a_hold_from_before_models_is_committed_by_its_unit_cost(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 100.0).await;
    service.use_up_free_quota("u", "asset").await;
    let old = ReserveQuotaRequest { count: 10, model: String::new(), ..hold("r", "asset", (0, 0)) };
    service.hold_tokens(old).await.unwrap();
    // The service is priced by model now.
    service.database.execute("UPDATE billing_transaction SET service_name = 'chat' WHERE trace_id = 'r'").await;
    let commit = CommitReservationRequest { count: Some(4), ..delivered("r", tokens(70, 0, 30)) };
    let committed = service.deliver(commit).await.unwrap();
    assert_eq!((committed.free_count, committed.paid_count, committed.amount), (4, 0, 0.0));
    assert_eq!(service.found("r").await.usage, tokens(70, 0, 30));
}

#[rstest]
#[tokio::test]
async fn a_late_commit_is_priced_by_the_version_of_its_reserve(#[values(MySql, Sqlite)] on: Backend) {
    let changes = [MODELS, &[("billing.reservation_ttl", "1ms")]].concat();
    let service = Service::start_with(on, &changes).await;
    service.database.set_price(Row("m", OF_OLD, "old", ["2000000", "NULL", "1"])).await;
    service.until_input_costs("m", Some(2.0)).await;
    service.adjust("u", 100.0).await;
    let reserve = ReserveQuotaRequest { model: "m".into(), ..hold("r", "rag", (1_000_000, 0)) };
    assert_eq!(service.hold_tokens(reserve).await.unwrap().amount, 2.0);
    service.database.set_price(Row("m", OF_OLD, "new", ["5000000", "NULL", "1"])).await;
    service.until_input_costs("m", Some(5.0)).await;
    service.clock.advance(TimeDelta::minutes(1));
    let conf = service.database.config_file(&changes);
    assert!(run(CRON, &["-conf", conf.to_str().unwrap(), "--once", "expire-reservations"], &[]).status.success());
    assert_eq!(service.found("r").await.status, "EXPIRED");
    let committed = service.deliver(delivered("r", tokens(3_000_000, 0, 0))).await.unwrap();
    assert_eq!(committed.amount, 6.0);
    assert_eq!(service.found("r").await.price_version, "old");
    service.assert_audit_is_clean().await;
}
