//! Many concurrent callers.

use std::sync::Arc;

use futures_util::{StreamExt, future::join_all, stream};
use rstest::rstest;

use billing_service::{
    app::App,
    service::proto::{
        BatchDeductQuotaRequest, CommitReservationRequest, ReserveQuotaRequest,
        billing_internal_service_client::BillingInternalServiceClient,
    },
};

use crate::harness::{Backend, Database, MySql, Service, Sqlite, charge, code_of, mariadb::OwnServer, traced};

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_charges_on_a_balance_for_fifty_make_fifty(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.use_up_free_quota("u", "payment").await;
    service.adjust("u", 5.0).await;
    let replies = join_all((0..200).map(|_| service.try_deduct(charge("u", "payment", 1)))).await;
    let (passed, refused): (Vec<_>, Vec<_>) = replies.into_iter().partition(Result::is_ok);
    assert_eq!((passed.len(), refused.len()), (50, 150));
    assert!(refused.iter().all(|reply| code_of(reply.as_ref().unwrap_err()).1 == "10001"));
    assert_eq!(service.account("u").await.balance, 0.0);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_on_one_database_do_not_overspend(#[values(MySql, Sqlite)] on: Backend) {
    let one = Service::start(on).await;
    let two = App::start(one.database.config(&[])).await.unwrap();
    let other = BillingInternalServiceClient::connect(format!("http://{}", two.grpc_addr)).await.unwrap();
    one.use_up_free_quota("u", "payment").await;
    one.adjust("u", 5.0).await;
    let here = join_all((0..100).map(|_| one.try_deduct(charge("u", "payment", 1))));
    let there = join_all((0..100).map(|_| {
        let mut other = other.clone();
        async move { other.deduct_quota(charge("u", "payment", 1)).await.map(|reply| reply.into_inner()) }
    }));
    let (here, there) = futures_util::join!(here, there);
    let passed = here.iter().chain(&there).filter(|reply| reply.is_ok()).count();
    assert_eq!(passed, 50);
    one.assert_audit_is_clean().await;
    two.stop().await;
}

/// Accounts are locked in the same order, in whatever order callers name them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_two_processes_on_the_same_users_do_not_deadlock() {
    const USERS: usize = 40;
    let mariadb = OwnServer::start().await;
    // Small batches, for many transactions instead of a few large ones.
    let small = [("billing.settlement", "{lanes: 4, batch: 10, max_wait: 60s}"), ("server.grpc.timeout", "60s")];
    let one = Service::start_on(Database::on(mariadb.create_database().await), &small).await;
    let two = App::start(one.database.config(&small)).await.unwrap();
    let other = BillingInternalServiceClient::connect(format!("http://{}", two.grpc_addr)).await.unwrap();
    // All rows exist, including those of the daily rollup.
    for user in 0..USERS {
        one.deduct(charge(&format!("u{user:02}"), "asset", 1)).await;
    }
    let batches = (0..600).map(|batch| {
        let mut client = if batch % 2 == 0 { one.internal.clone() } else { other.clone() };
        // The steps are coprime to the number of users, so each batch has all users in another order.
        let step = [1, 3, 7, 9, 11, 13, 17, 19, 21, 23, 27, 29, 31, 33, 37, 39][batch % 16];
        let users = (0..USERS).map(move |i| (batch + i * step) % USERS);
        let items = users.map(|user| traced(&format!("b{batch}"), charge(&format!("u{user:02}"), "asset", 1)));
        let request = BatchDeductQuotaRequest { items: items.collect() };
        async move {
            // On a busy machine, a wait for a lock may take too long. Then some items are sent again.
            for _ in 0..10 {
                let results = client.batch_deduct_quota(request.clone()).await.unwrap().into_inner().results;
                let mut refused = results.into_iter().filter_map(|result| result.error).peekable();
                if refused.peek().is_none() {
                    return;
                }
                assert!(refused.all(|error| error.error_code == "10014"));
            }
            panic!("a batch does not succeed");
        }
    });
    // Enough batches, so that each lane of both servers always has a waiting transaction.
    stream::iter(batches).buffer_unordered(20).collect::<()>().await;
    let status = one
        .database
        .rows(&["variable_value"], "FROM information_schema.global_status WHERE variable_name = 'INNODB_DEADLOCKS'");
    assert_eq!(status.await, [["0"]]);
    assert_eq!(one.state("u00").await.1[2], 601);
    one.assert_audit_is_clean().await;
    two.stop().await;
}

/// Reservations of different users lock different rows in every table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reservations_of_different_users_never_wait_for_each_other() {
    let mariadb = OwnServer::start().await;
    let four = [("billing.settlement.lanes", "4")];
    let service = Service::start_on(Database::on(mariadb.create_database().await), &four).await;
    for user in 0..8 {
        service.check(&format!("u{user}"), "asset", 1).await;
    }
    let pairs = (0..8).map(|user| {
        let mut client = service.internal.clone();
        async move {
            for pair in 0..60 {
                let (user_id, trace_id) = (format!("u{user}"), format!("r{pair}"));
                let reserve = ReserveQuotaRequest {
                    user_id: user_id.clone(),
                    trace_id: trace_id.clone(),
                    service_name: "asset".into(),
                    count: 1,
                    ..Default::default()
                };
                client.reserve_quota(reserve).await.unwrap();
                let commit = CommitReservationRequest { user_id, trace_id, ..Default::default() };
                client.commit_reservation(commit).await.unwrap();
            }
        }
    });
    join_all(pairs).await;
    let waits = "FROM information_schema.global_status WHERE variable_name = 'INNODB_ROW_LOCK_WAITS'";
    assert_eq!(service.database.rows(&["variable_value"], waits).await, [["0"]]);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_first_calls_of_new_users_do_not_collide(#[values(MySql, Sqlite)] on: Backend) {
    let service = Arc::new(Service::start(on).await);
    let calls = (0..300).map(|i| {
        let service = service.clone();
        tokio::spawn(async move {
            let user = format!("new-{}", i % 20);
            match i / 20 % 3 {
                0 => assert!(service.check(&user, "passport", 1).await.allowed),
                1 => assert!(service.deduct(charge(&user, "passport", 1)).await.success),
                _ => assert_eq!(service.account(&user).await.quotas.len(), 3),
            }
        })
    });
    for call in join_all(calls).await {
        call.unwrap();
    }
    for user in 0..20 {
        assert_eq!(service.state(&format!("new-{user}")).await, (0.0, [5, 0, 0]));
    }
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_charges_with_one_id_charge_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.use_up_free_quota("u", "payment").await;
    service.adjust("u", 5.0).await;
    let replies = join_all((0..40).map(|_| service.deduct(traced("t", charge("u", "payment", 3))))).await;
    assert_eq!(replies.iter().filter(|reply| !reply.replayed).count(), 1);
    assert!(replies.iter().all(|reply| reply.record_id == replies[0].record_id && reply.balance == 4.7));
    assert_eq!(service.account("u").await.balance, 4.7);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_traffic_leaves_books_that_balance(#[values(MySql, Sqlite)] on: Backend) {
    let service = Arc::new(Service::start_with(on, &[("billing.settlement.lanes", "3")]).await);
    let calls = (0..600).map(|i: i32| {
        let service = service.clone();
        tokio::spawn(async move {
            let user = format!("user-{}", i % 7);
            let name = ["passport", "payment", "asset"][i as usize % 3];
            match i % 5 {
                0 => service.adjust(&user, f64::from(i % 50 + 1)).await,
                1 => return service.try_deduct(traced(&format!("t{}", i % 30), charge(&user, name, i % 11 + 1))).await,
                2 => return service.try_deduct(charge(&user, name, 700)).await,
                _ => drop(service.check(&user, name, 3).await),
            }
            Ok(Default::default())
        })
    });
    let mut charged = 0;
    for call in join_all(calls).await {
        match call.unwrap() {
            Ok(reply) => charged += i32::from(reply.success),
            Err(refused) => assert!(["10001", "10007"].contains(&code_of(&refused).1.as_str()), "{refused:?}"),
        }
    }
    assert!(charged > 60, "only {charged} charges succeeded");
    let report = service.database.audit().await;
    assert_eq!((report.users, report.difference_count), (7, 0), "{:#?}", report.differences);
}
