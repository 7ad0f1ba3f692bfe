//! A server remembers the accounts that it settled last. Changes by another server count all the same.

use std::future::Future;

use billing_service::{
    app::App,
    service::proto::{
        AdjustBalanceRequest, BatchDeductQuotaRequest, DeductQuotaRequest, SetAccountStatusRequest,
        SetApiKeyQuotaRequest, SetUserLimitsRequest, billing_internal_service_client::BillingInternalServiceClient,
    },
};
use rstest::rstest;
use tonic::Code;

use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, caller::Client, charge, code_of, mariadb::OwnServer, traced,
};

/// A server that knows user `u` with a balance of 20 and no free quota, and a client of another one.
async fn known(on: Backend) -> (Service, App, Client) {
    let service = Service::start(on).await;
    let other = App::start(service.database.config(&[])).await.unwrap();
    let client = BillingInternalServiceClient::connect(format!("http://{}", other.grpc_addr)).await.unwrap();
    service.use_up_free_quota("u", "payment").await;
    service.adjust("u", 20.0).await;
    for _ in 0..3 {
        service.deduct(keyed()).await;
    }
    (service, other, client)
}

/// A call that costs 0.10.
fn keyed() -> DeductQuotaRequest {
    DeductQuotaRequest { api_key_id: "key".into(), ..charge("u", "payment", 1) }
}

/// The change `make` by another server refuses the next call on the server that knows the account.
async fn refuses<F: Future<Output = ()>>(on: Backend, refusal: (Code, &str), make: impl FnOnce(Client) -> F) {
    let (service, other, client) = known(on).await;
    make(client).await;
    let refused = service.try_deduct(keyed()).await.unwrap_err();
    assert_eq!(code_of(&refused), (refusal.0, refusal.1.to_owned()), "{refused:?}");
    assert_eq!(service.deduct(charge("another", "payment", 1)).await.free_remaining, 999);
    service.assert_audit_is_clean().await;
    other.stop().await;
}

fn adjustment(amount: f64) -> AdjustBalanceRequest {
    AdjustBalanceRequest {
        user_id: "u".into(),
        adjustment_id: "elsewhere".into(),
        amount,
        reason: "for a test".into(),
        ..Default::default()
    }
}

#[rstest]
#[tokio::test]
async fn money_that_another_server_took_is_not_spent_again(#[values(MySql, Sqlite)] on: Backend) {
    refuses(on, (Code::FailedPrecondition, "10001"), async |client: Client| {
        client.clone().adjust_balance(adjustment(-19.7)).await.unwrap();
    })
    .await;
}

#[rstest]
#[tokio::test]
async fn a_status_that_another_server_set_counts_at_once(#[values(MySql, Sqlite)] on: Backend) {
    refuses(on, (Code::FailedPrecondition, "10015"), async |client: Client| {
        let (status, reason) = ("FROZEN".into(), "for a test".into());
        let request = SetAccountStatusRequest { user_id: "u".into(), status, reason };
        client.clone().set_account_status(request).await.unwrap();
    })
    .await;
}

#[rstest]
#[tokio::test]
async fn a_cap_that_another_server_set_counts_at_once(#[values(MySql, Sqlite)] on: Backend) {
    refuses(on, (Code::ResourceExhausted, "10002"), async |client: Client| {
        let request = SetUserLimitsRequest { user_id: "u".into(), daily_limit: Some(0), monthly_limit: None };
        client.clone().set_user_limits(request).await.unwrap();
    })
    .await;
}

#[rstest]
#[tokio::test]
async fn a_key_quota_that_another_server_set_counts_at_once(#[values(MySql, Sqlite)] on: Backend) {
    refuses(on, (Code::ResourceExhausted, "10002"), async |client: Client| {
        let request = SetApiKeyQuotaRequest {
            api_key_id: "key".into(),
            quota_type: "requests".into(),
            period: "day".into(),
            limit: Some(0.0),
        };
        client.clone().set_api_key_quota(request).await.unwrap();
    })
    .await;
}

#[rstest]
#[tokio::test]
async fn a_call_that_another_server_settled_is_replayed(#[values(MySql, Sqlite)] on: Backend) {
    let (service, other, mut client) = known(on).await;
    let first = client.deduct_quota(traced("t", keyed())).await.unwrap().into_inner();
    let again = service.deduct(traced("t", keyed())).await;
    assert_eq!((again.replayed, again.record_id, again.amount), (true, first.record_id, first.amount));
    service.assert_audit_is_clean().await;
    other.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_call_that_its_own_server_settled_is_replayed(#[values(MySql, Sqlite)] on: Backend) {
    let (service, other, _) = known(on).await;
    let first = service.deduct(traced("t", keyed())).await;
    let again = service.deduct(traced("t", keyed())).await;
    assert_eq!((again.replayed, again.record_id, again.amount), (true, first.record_id, first.amount));
    // The rows of the repeat were rolled back, and the account is known again.
    service.deduct(keyed()).await;
    assert_eq!(service.account("u").await.balance, 19.5);
    service.assert_audit_is_clean().await;
    other.stop().await;
}

/// The client's statements that a server of its own counts. The statements inside of a compound one do not count.
async fn statements(service: &Service) -> u64 {
    let rows = service
        .database
        .rows(&["variable_value"], "FROM information_schema.global_status WHERE variable_name = 'QUESTIONS'")
        .await;
    rows[0][0].parse().unwrap()
}

#[tokio::test]
async fn a_call_on_a_known_account_is_one_statement() {
    const CALLS: u64 = 40;
    let mariadb = OwnServer::start().await;
    let service = Service::start_on(Database::on(mariadb.create_database().await), &[]).await;
    service.adjust("u", 20.0).await;
    service.use_up_free_quota("u", "payment").await;
    service.deduct(keyed()).await;
    let before = statements(&service).await;
    for _ in 0..CALLS {
        service.deduct(keyed()).await;
    }
    // The account is read under locks at times, and the counts of operators are read beside the calls.
    let made = statements(&service).await - before;
    assert!(made < 2 * CALLS, "{made} statements for {CALLS} calls");
    service.assert_audit_is_clean().await;
}

#[tokio::test]
async fn a_locked_quota_of_another_key_does_not_end_the_guards() {
    let mariadb = OwnServer::start().await;
    let service = Service::start_on(Database::on(mariadb.create_database().await), &[]).await;
    let request = SetApiKeyQuotaRequest {
        api_key_id: "limited".into(),
        quota_type: "requests".into(),
        period: "day".into(),
        limit: Some(9.0),
    };
    service.internal.clone().set_api_key_quota(request).await.unwrap();
    let calls = |round: usize| {
        let call = |user| DeductQuotaRequest { api_key_id: "key".into(), ..charge(&format!("u{user}"), "payment", 1) };
        let items = (0..40).map(|user| traced(&format!("r{round}"), call(user)));
        BatchDeductQuotaRequest { items: items.collect() }
    };
    for round in 0..2 {
        service.internal.clone().batch_deduct_quota(calls(round)).await.unwrap();
    }
    let mut holder = service.database.mysql().await;
    let lock = "START TRANSACTION; SELECT 1 FROM api_key_quota WHERE api_key_id = 'limited' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let before = statements(&service).await;
    for round in 2..12 {
        let results = service.internal.clone().batch_deduct_quota(calls(round)).await.unwrap().into_inner().results;
        assert!(results.iter().all(|result| result.error.is_none()));
    }
    let made = statements(&service).await - before;
    // Two lanes settle each batch.
    assert!(made < 2 * 20, "{made} statements for 10 batches");
    drop(holder);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn two_servers_in_turn_lose_no_change_of_each_other(#[values(MySql, Sqlite)] on: Backend) {
    let (service, other, mut client) = known(on).await;
    for round in 0..60 {
        // Several calls in a row, so that a server knows the account again.
        for _ in 0..round % 4 {
            service.deduct(keyed()).await;
        }
        client.deduct_quota(keyed()).await.unwrap();
    }
    // 20 less 3 calls, 15 times 0 to 3, and 60.
    assert_eq!(service.account("u").await.balance, 4.7);
    service.assert_audit_is_clean().await;
    other.stop().await;
}
