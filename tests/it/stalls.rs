//! Rows that another session locks, and unreadable rows: they only affect their own account.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use billing_service::{
    app::{self, App},
    biz::{jobs::rollup::rebuild_rollup, values::calendar::Calendar},
    service::proto::{
        BatchDeductQuotaRequest, CommitReservationRequest, DeductQuotaReply, DeductQuotaRequest, ReserveQuotaRequest,
        SetApiKeyQuotaRequest, SetUserLimitsRequest, billing_internal_service_client::BillingInternalServiceClient,
    },
};
use futures_util::{StreamExt, future::join_all, stream};
use rstest::rstest;
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::{task::JoinHandle, time::sleep};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, charge, code_of,
    mariadb::OwnServer,
    payments::Paying,
    process::{CRON, run},
    progress::Unwatched,
    traced,
    wait::{soon, until},
};

const OTHERS: usize = 220;
const CALLERS: usize = 50;

/// No wait ends before the test releases its lock.
const LONG: &[(&str, &str)] =
    &[("billing.settlement", "{lanes: 2, max_wait: 60s, retry_timeout: 60s}"), ("server.grpc.timeout", "60s")];

/// A session that locks rows until it is released.
struct Holder(sqlx::MySqlConnection);

impl Holder {
    async fn lock(database: &Database, rows: &str) -> Self {
        let mut connection = database.mysql().await;
        let sql = AssertSqlSafe(format!("START TRANSACTION; SELECT * FROM {rows} FOR UPDATE"));
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        Self(connection)
    }

    async fn release(mut self) {
        sqlx::raw_sql("ROLLBACK").execute(&mut self.0).await.unwrap();
        self.0.close().await.unwrap();
    }
}

type Call = JoinHandle<Result<DeductQuotaReply, Status>>;

/// Sends a charge without waiting for its answer.
fn send(service: &Service, request: DeductQuotaRequest) -> Call {
    let mut client = service.internal.clone();
    tokio::spawn(async move { client.deduct_quota(request).await.map(|reply| reply.into_inner()) })
}

/// Charges all other users concurrently. All charges must succeed.
async fn charge_others(service: &Service, round: &str) {
    let calls = (0..OTHERS).map(|user| {
        let request = traced(round, charge(&format!("innocent-{user}"), "asset", 1));
        async move { service.try_deduct(request).await }
    });
    let replies: Vec<_> = soon(stream::iter(calls).buffer_unordered(CALLERS).collect()).await;
    let refused: Vec<_> = replies.into_iter().filter_map(Result::err).collect();
    assert!(refused.is_empty(), "{} charges of other users were refused: {:?}", refused.len(), refused.first());
}

#[rstest]
#[case::balance("user_balance WHERE user_id = 'locked'")]
#[case::quota("free_quota WHERE user_id = 'locked'")]
#[case::caps("tenant_quota WHERE user_id = 'locked'")]
#[case::key("api_key_quota WHERE api_key_id = 'key'")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_lock_of_another_session_only_delays_its_account(#[case] rows: &str) {
    let service = Service::start_with(MySql, LONG).await;
    let limit = SetUserLimitsRequest { user_id: "locked".into(), daily_limit: Some(1_000), ..Default::default() };
    service.internal.clone().set_user_limits(limit).await.unwrap();
    bind(&service, "key", "requests", 1_000.0).await;
    let of_locked = |trace: &str| {
        let charge = DeductQuotaRequest { api_key_id: "key".into(), ..charge("locked", "asset", 1) };
        traced(trace, charge)
    };
    service.deduct(of_locked("before")).await;
    let reserve = ReserveQuotaRequest {
        user_id: "locked".into(),
        trace_id: "reserved".into(),
        service_name: "asset".into(),
        count: 2,
        api_key_id: "key".into(),
        ..Default::default()
    };
    service.internal.clone().reserve_quota(reserve).await.unwrap();
    charge_others(&service, "before").await;

    let holder = Holder::lock(&service.database, rows).await;
    let mut client = service.internal.clone();
    let commit =
        CommitReservationRequest { user_id: "locked".into(), trace_id: "reserved".into(), ..Default::default() };
    let commit = tokio::spawn(async move { client.commit_reservation(commit).await });
    charge_others(&service, "commit").await;
    let mut calls = Vec::new();
    for round in 0..3 {
        calls.push(send(&service, of_locked(&format!("held-{round}"))));
        charge_others(&service, &format!("held-{round}")).await;
    }
    assert!(!commit.is_finished() && calls.iter().all(|call| !call.is_finished()));
    holder.release().await;
    assert!(soon(commit).await.unwrap().unwrap().into_inner().success);
    for call in calls {
        assert!(!soon(call).await.unwrap().unwrap().replayed);
    }
    for round in 0..3 {
        assert!(service.deduct(of_locked(&format!("held-{round}"))).await.replayed);
    }
    assert_eq!(service.state("locked").await.1[2], 6);
    assert_eq!(used_of(&service.database, "key").await, [["5"]]);
    service.assert_audit_is_clean().await;
}

/// A waiting transaction would also block the other accounts that it has locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_transaction_of_a_locked_account_waits() {
    let service = Service::start_with(MySql, LONG).await;
    let users = (0..10).map(|user| format!("innocent-{user}")).chain(["locked".to_owned()]);
    let items: Vec<_> = users.map(|user| traced("t", charge(&user, "asset", 1))).collect();
    for item in &items {
        service.check(&item.user_id, "asset", 1).await;
    }
    let holder = Holder::lock(&service.database, "user_balance WHERE user_id = 'locked'").await;
    let mut client = service.internal.clone();
    let batch = tokio::spawn(async move { client.batch_deduct_quota(BatchDeductQuotaRequest { items }).await });
    let waiting = async || {
        // InnoDB refreshes its list of transactions only after 100 ms without a read.
        sleep(Duration::from_millis(150)).await;
        let of_service = "FROM information_schema.innodb_trx JOIN information_schema.processlist \
            ON id = trx_mysql_thread_id WHERE db = DATABASE() AND trx_state = 'LOCK WAIT'";
        service.database.rows(&["trx_query"], of_service).await.concat()
    };
    let mut queries = Vec::new();
    until("a transaction waits for the lock", async || {
        queries = waiting().await;
        !queries.is_empty()
    })
    .await;
    assert!(queries.iter().all(|query| query.contains("'locked'") && !query.contains("innocent")), "{queries:?}");
    until("the other users are charged", async || {
        let charged = "FROM billing_transaction WHERE user_id LIKE 'innocent-%'";
        service.database.rows(&["COUNT(*)"], charged).await == [["10"]]
    })
    .await;
    assert!(!batch.is_finished());
    holder.release().await;
    let results = soon(batch).await.unwrap().unwrap().into_inner().results;
    assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
    service.assert_audit_is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_of_a_locked_account_gets_an_answer_in_time_and_a_retry_succeeds() {
    let changes = [("billing.settlement", "{max_wait: 20s, retry_timeout: 1s}")];
    let service = Service::start_with(MySql, &changes).await;
    service.check("locked", "asset", 1).await;
    let holder = Holder::lock(&service.database, "user_balance WHERE user_id = 'locked'").await;
    for trace in ["one", "two"] {
        let refused = soon(service.try_deduct(traced(trace, charge("locked", "asset", 1)))).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::Unavailable, "10014".into()));
    }
    charge_others(&service, "held").await;
    holder.release().await;
    for trace in ["one", "two"] {
        service.deduct(traced(trace, charge("locked", "asset", 1))).await;
    }
    assert_eq!(service.state("locked").await.1[2], 2);
    service.assert_audit_is_clean().await;
}

/// The database ends the transaction of a host that died between its two round trips.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_locks_of_a_dead_host_only_delay_their_accounts() {
    const HELD: usize = 30;
    let service = Service::start_with(MySql, LONG).await;
    let of_held = |user: usize, trace: &str| traced(trace, charge(&format!("held-{user}"), "asset", 1));
    for user in 0..HELD {
        service.deduct(of_held(user, "before")).await;
    }
    charge_others(&service, "before").await;
    let mut dead = Holder::lock(&service.database, "user_balance WHERE user_id LIKE 'held-%'").await;
    sqlx::raw_sql("SET SESSION idle_transaction_timeout = 5").execute(&mut dead.0).await.unwrap();
    let calls: Vec<_> = (0..HELD).map(|user| send(&service, of_held(user, "held"))).collect();
    charge_others(&service, "held").await;
    for call in calls {
        assert!(!soon(call).await.unwrap().unwrap().replayed);
    }
    service.assert_audit_is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rebuild_of_a_large_rollup_does_not_delay_other_users() {
    let service = Service::start_with(MySql, LONG).await;
    service.deduct(charge("large", "asset", 1)).await;
    charge_others(&service, "before").await;
    let records = "INSERT INTO billing_record \
        (billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date) \
        SELECT UUID(), 'large', 'asset', 2, 0, 1, NOW(6), DATE_SUB(CURDATE(), INTERVAL seq % 300 DAY) FROM seq_1_to_60000";
    service.database.execute(records).await;
    let store = app::connect(&service.database.config(&[])).await.unwrap();
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, service.clock.clone());
    let rebuilding = tokio::spawn(async move {
        rebuild_rollup(&*store, &calendar, false, &Unwatched).await.unwrap();
        store.close().await;
    });
    let mut round = 0;
    while !rebuilding.is_finished() {
        let call = send(&service, traced(&format!("during-{round}"), charge("large", "asset", 1)));
        charge_others(&service, &format!("during-{round}")).await;
        soon(call).await.unwrap().unwrap();
        round += 1;
    }
    rebuilding.await.unwrap();
    assert!(round > 0);
    let (counted, recorded) = ("SUM(paid_records + free_records)", "COUNT(*)");
    let counted = service.database.rows(&[counted], "FROM usage_daily WHERE user_id = 'large'").await;
    assert_eq!(counted, service.database.rows(&[recorded], "FROM billing_record WHERE user_id = 'large'").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_user_of_two_servers_makes_progress_on_both() {
    const EACH: usize = 600;
    let one = Service::start(MySql).await;
    let two = App::start(one.database.config(&[])).await.unwrap();
    let other = BillingInternalServiceClient::connect(format!("http://{}", two.grpc_addr)).await.unwrap();
    one.check("hot", "asset", 1).await;
    let left = [AtomicUsize::new(EACH), AtomicUsize::new(EACH)];
    let callers = (0..40).map(|caller| {
        let (mut client, left) =
            if caller % 2 == 0 { (one.internal.clone(), &left[0]) } else { (other.clone(), &left[1]) };
        async move {
            while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                client.deduct_quota(charge("hot", "passport", 1)).await.unwrap();
            }
        }
    });
    join_all(callers).await;
    assert_eq!(one.state("hot").await.1[0], 2 * EACH as i32);
    one.assert_audit_is_clean().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_parking_only_refuses_charges_of_locked_accounts() {
    let changes = [
        ("billing.settlement", "{max_wait: 60s, retry_timeout: 60s, parked_accounts: 1, parked_postings: 2}"),
        ("server.grpc.timeout", "60s"),
    ];
    let service = Service::start_with(MySql, &changes).await;
    for user in ["locked-1", "locked-2"] {
        service.check(user, "asset", 1).await;
    }
    charge_others(&service, "before").await;
    let holder = Holder::lock(&service.database, "user_balance WHERE user_id LIKE 'locked-%'").await;
    let mut calls = Vec::new();
    for trace in ["one", "two"] {
        calls.push(send(&service, traced(trace, charge("locked-1", "asset", 1))));
        charge_others(&service, trace).await;
    }
    for (user, trace) in [("locked-1", "three"), ("locked-2", "one")] {
        let refused = soon(service.try_deduct(traced(trace, charge(user, "asset", 1)))).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::Unavailable, "10014".into()));
    }
    charge_others(&service, "full").await;
    let shows = async |accounts: u32, postings: u32| {
        let text = service.metrics().await;
        let lines = [format!("billing_parked_accounts {accounts}"), format!("billing_parked_postings {postings}")];
        lines.iter().all(|line| text.lines().any(|shown| shown == line))
    };
    assert!(shows(1, 2).await, "{}", service.metrics().await);
    holder.release().await;
    for call in calls {
        assert!(!soon(call).await.unwrap().unwrap().replayed);
    }
    until("nothing is parked", async || shows(0, 0).await).await;
    assert_eq!((service.state("locked-1").await.1[2], service.state("locked-2").await.1[2]), (2, 0));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[case::quota("free_quota SET total_quota", "1000", "quota of asset")]
#[case::caps("tenant_quota SET daily_used", "1", "caps with daily_limit")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_row_only_affects_its_account(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] column: &str,
    #[case] right: &str,
    #[case] found: &str,
) {
    let service = Service::start_with(on, &[("billing.settlement.quarantine", "0.5s")]).await;
    let limit = SetUserLimitsRequest { user_id: "broken".into(), daily_limit: Some(1_000), ..Default::default() };
    service.internal.clone().set_user_limits(limit).await.unwrap();
    service.deduct(charge("broken", "asset", 1)).await;
    charge_others(&service, "before").await;
    let set = async |value: &str| {
        let and = if column.starts_with("free") { " AND service_name = 'asset'" } else { "" };
        let sql = format!("UPDATE {column} = {value} WHERE user_id = 'broken'{and}");
        service.database.execute(&sql).await;
    };
    set("-1").await;

    let mut calls = Vec::new();
    for round in 0..3 {
        calls.push(send(&service, traced(&format!("broken-{round}"), charge("broken", "asset", 1))));
        charge_others(&service, &format!("broken-{round}")).await;
    }
    let refused: Vec<_> = join_all(calls).await.into_iter().map(|reply| reply.unwrap().unwrap_err()).collect();
    assert_eq!(refused[0].code(), Code::Internal);
    assert!(refused.iter().all(|refused| [Code::Internal, Code::Unavailable].contains(&refused.code())));
    let conf = service.database.config_file(&[]);
    let audit = run(CRON, &["-conf", conf.to_str().unwrap(), "--once", "audit"], &[]);
    let printed = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert_eq!(audit.status.code(), Some(1), "{printed}");
    assert!(printed.contains("user broken: stored row says") && printed.contains(found), "{printed}");

    set(right).await;
    until("the account is out of quarantine", async || {
        service.try_deduct(traced("mended", charge("broken", "asset", 1))).await.is_ok()
    })
    .await;
    assert_eq!(service.state("broken").await.1[2], 2);
    service.assert_audit_is_clean().await;
}

async fn bind(service: &Service, key: &str, quota_type: &str, limit: f64) {
    let request = SetApiKeyQuotaRequest {
        api_key_id: key.into(),
        quota_type: quota_type.into(),
        period: "total".into(),
        limit: Some(limit),
    };
    service.internal.clone().set_api_key_quota(request).await.unwrap();
}

async fn used_of(database: &Database, key: &str) -> Vec<Vec<String>> {
    database
        .rows(&["used"], &format!("FROM api_key_quota WHERE api_key_id = '{key}' AND quota_type = 'requests'"))
        .await
}

/// The status of InnoDB, with the latest deadlock.
async fn innodb_status(database: &Database) -> String {
    let mut connection = database.mysql().await;
    let row = sqlx::query("SHOW ENGINE INNODB STATUS").fetch_one(&mut connection).await.unwrap();
    row.get(2)
}

/// Each user reserves with one key and charges with other keys, in another order than other users. So lanes
/// and servers need the same keys at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reservations_and_charges_of_crossing_keys_never_deadlock() {
    const USERS: usize = 24;
    const KEYS: usize = 6;
    const ROUNDS: usize = 12;
    let mariadb = OwnServer::start().await;
    let many = [
        ("billing.settlement", "{lanes: 4, batch: 10, max_wait: 60s, retry_timeout: 60s}"),
        ("server.grpc.timeout", "60s"),
    ];
    let one = Service::start_on(Database::on(mariadb.create_database().await), &many).await;
    let two = App::start(one.database.config(&many)).await.unwrap();
    let other = BillingInternalServiceClient::connect(format!("http://{}", two.grpc_addr)).await.unwrap();
    let key = |number: usize| format!("key-{}", number % KEYS);
    for number in 0..KEYS {
        for quota_type in ["requests", "tokens", "amount"] {
            bind(&one, &key(number), quota_type, 1_000_000.0).await;
        }
    }
    for user in 0..USERS {
        one.check(&format!("u{user}"), "asset", 1).await;
    }
    let callers = (0..USERS).map(|user| {
        let mut client = if user % 2 == 0 { one.internal.clone() } else { other.clone() };
        async move {
            for round in 0..ROUNDS {
                let (user_id, trace_id) = (format!("u{user}"), format!("r{round}"));
                let reserve = ReserveQuotaRequest {
                    user_id: user_id.clone(),
                    trace_id: trace_id.clone(),
                    service_name: "asset".into(),
                    count: 1,
                    api_key_id: key(user + round),
                    ..Default::default()
                };
                client.reserve_quota(reserve).await.unwrap();
                let commit = CommitReservationRequest { user_id: user_id.clone(), trace_id, ..Default::default() };
                let charges = [1, 3].map(|step| DeductQuotaRequest {
                    api_key_id: key(KEYS * user - user + step * round),
                    ..traced(&format!("c{round}-{step}"), charge(&user_id, "asset", 1))
                });
                let (mut second, mut third) = (client.clone(), client.clone());
                let [first_charge, second_charge] = charges;
                let (committed, first, next) = futures_util::join!(
                    client.commit_reservation(commit),
                    second.deduct_quota(first_charge),
                    third.deduct_quota(second_charge),
                );
                committed.unwrap();
                first.unwrap();
                next.unwrap();
            }
        }
    });
    join_all(callers).await;
    let deadlocks = "FROM information_schema.global_status WHERE variable_name = 'INNODB_DEADLOCKS'";
    let deadlocks = one.database.rows(&["variable_value"], deadlocks).await;
    assert_eq!(deadlocks, [["0"]], "{}", innodb_status(&one.database).await);
    let all = (USERS * ROUNDS * 3).to_string();
    let used = one.database.rows(&["SUM(used)"], "FROM api_key_quota WHERE quota_type = 'requests'").await;
    assert_eq!(used, [[all.as_str()]]);
    one.assert_audit_is_clean().await;
    two.stop().await;
}

/// Shorter than the wait for a lock, so a charge behind a waiting one is refused.
const STRICT: &[(&str, &str)] =
    &[("billing.settlement", "{lanes: 2, max_wait: 1800ms, retry_timeout: 60s}"), ("server.grpc.timeout", "60s")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_new_accounts_in_a_locked_range_wait() {
    let service = Service::start_with(MySql, STRICT).await;
    service.deduct(charge("locked", "asset", 1)).await;
    charge_others(&service, "before").await;
    // The session also locks the gaps before its rows.
    let holder = Holder::lock(&service.database, "free_quota WHERE user_id = 'locked'").await;
    let new: Vec<_> = (0..6).map(|user| send(&service, charge(&format!("locke-{user}"), "asset", 1))).collect();
    for round in 0..3 {
        charge_others(&service, &format!("during-{round}")).await;
    }
    assert!(new.iter().all(|call| !call.is_finished()));
    holder.release().await;
    for call in new {
        soon(call).await.unwrap().unwrap();
    }
    service.assert_audit_is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_repeat_of_a_locked_transaction_waits() {
    let service = Service::start_with(MySql, STRICT).await;
    let first = traced("first", charge("locked", "asset", 1));
    service.deduct(first.clone()).await;
    charge_others(&service, "before").await;
    let row = "billing_transaction WHERE user_id = 'locked' AND trace_id = 'first'";
    let holder = Holder::lock(&service.database, row).await;
    let repeat = send(&service, first);
    for round in 0..3 {
        charge_others(&service, &format!("during-{round}")).await;
    }
    holder.release().await;
    assert!(soon(repeat).await.unwrap().unwrap().replayed);
    service.assert_audit_is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_top_ups_of_a_locked_account_wait() {
    let paying = Paying::start_with(MySql, STRICT).await;
    let service = &paying.service;
    service.deduct(charge("locked", "asset", 1)).await;
    charge_others(service, "before").await;
    let holder = Holder::lock(&service.database, "user_balance WHERE user_id = 'locked'").await;
    let top_ups = join_all((0..8).map(|_| paying.try_recharge("locked", 1.0)));
    let charges = async {
        for round in 0..3 {
            charge_others(service, &format!("during-{round}")).await;
        }
    };
    let (refused, ()) = tokio::join!(top_ups, charges);
    for refused in refused {
        let refused = refused.unwrap_err();
        assert_eq!(code_of(&refused), (Code::Unavailable, "10014".into()));
        let details = refused.get_error_details();
        let id = details.error_info().unwrap().metadata.get("idempotency_key").cloned();
        assert!(id.is_some_and(|id| !id.is_empty()), "a retry with the key finds the order");
    }
    holder.release().await;
    paying.recharge("locked", 1.0).await;
    assert_eq!(paying.orders("locked").await.len(), 1, "refused top-ups leave no order");
    service.assert_audit_is_clean().await;
}
