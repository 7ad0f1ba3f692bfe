//! Reservations: a reserve, and then a commit, a release or an expiry.

use billing_service::{
    app,
    service::{
        proto::{
            CommitReservationReply, CommitReservationRequest, GetTransactionReply, GetTransactionRequest,
            ReleaseReservationReply, ReleaseReservationRequest, ReserveQuotaReply, ReserveQuotaRequest, Usage,
        },
        timestamp::Timestamp,
    },
};
use chrono::TimeDelta;
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;
use tonic::{Code, Status};

use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, charge, code_of,
    process::{CRON, run},
    traced,
};

fn hold(user: &str, trace: &str, service: &str, count: i32) -> ReserveQuotaRequest {
    ReserveQuotaRequest {
        user_id: user.into(),
        trace_id: trace.into(),
        service_name: service.into(),
        count,
        ..Default::default()
    }
}

fn delivered(user: &str, trace: &str, count: Option<i32>) -> CommitReservationRequest {
    CommitReservationRequest { user_id: user.into(), trace_id: trace.into(), count, ..Default::default() }
}

impl Service {
    async fn try_reserve(&self, request: ReserveQuotaRequest) -> Result<ReserveQuotaReply, Status> {
        self.internal.clone().reserve_quota(request).await.map(|reply| reply.into_inner())
    }

    async fn reserve(&self, request: ReserveQuotaRequest) -> ReserveQuotaReply {
        self.try_reserve(request).await.unwrap()
    }

    async fn try_commit(&self, request: CommitReservationRequest) -> Result<CommitReservationReply, Status> {
        self.internal.clone().commit_reservation(request).await.map(|reply| reply.into_inner())
    }

    async fn commit(&self, request: CommitReservationRequest) -> CommitReservationReply {
        self.try_commit(request).await.unwrap()
    }

    async fn try_release(&self, user: &str, trace: &str) -> Result<ReleaseReservationReply, Status> {
        let request = ReleaseReservationRequest { user_id: user.into(), trace_id: trace.into() };
        self.internal.clone().release_reservation(request).await.map(|reply| reply.into_inner())
    }

    pub async fn transaction(&self, user: &str, trace: &str) -> GetTransactionReply {
        let request = GetTransactionRequest { user_id: user.into(), trace_id: trace.into() };
        self.internal.clone().get_transaction(request).await.unwrap().into_inner()
    }

    async fn status(&self, user: &str, trace: &str) -> String {
        self.transaction(user, trace).await.status
    }

    /// Balance, held balance, and remaining free units of `service`.
    async fn funds(&self, user: &str, service: &str) -> (f64, f64, i32) {
        let account = self.account(user).await;
        (account.balance, account.held, self.check(user, service, 1).await.free_remaining)
    }

    /// Runs the sweep like cron, with the clock of the service.
    async fn sweep(&self) -> (u64, u64) {
        let config = self.database.config(&[]);
        let store = app::connect(&config).await.unwrap();
        let swept = app::sweep(&config, store.clone(), self.clock.clone(), &tokio_util::sync::CancellationToken::new())
            .await
            .unwrap();
        store.close().await;
        (swept.freed, swept.failed)
    }

    /// A user with `balance` and without free units of `asset`.
    async fn paying_user(&self, user: &str, balance: f64) {
        self.use_up_free_quota(user, "asset").await;
        self.adjust(user, balance).await;
    }
}

async fn held_until(service: &Service, trace: &str) -> Timestamp {
    service.transaction("u", trace).await.expires_at.unwrap()
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    code_of(&answer.unwrap_err())
}

fn wrong_state() -> (Code, String) {
    (Code::FailedPrecondition, "10011".into())
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reserve_holds_the_cost_of_a_charge_and_a_commit_takes_it(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 5.0).await;
    let held = service.reserve(hold("u", "r", "asset", 1010)).await;
    assert_eq!((held.free_count, held.paid_count, held.amount), (1000, 10, 0.5));
    assert_eq!((held.status.as_str(), held.replayed), ("PENDING", false));
    assert_eq!(service.funds("u", "asset").await, (5.0, 0.5, 0));
    assert_eq!(service.state("u").await.1[2], 0, "held units are not used");

    // Other calls can only use the rest.
    let refused = refusal(service.try_deduct(charge("u", "asset", 100)).await);
    assert_eq!(refused, (Code::FailedPrecondition, "10001".into()));
    assert_eq!(refusal(service.try_reserve(hold("u", "other", "asset", 91)).await).1, "10001");
    assert_eq!(service.check("u", "asset", 91).await.reason, "insufficient balance");

    let committed = service.commit(delivered("u", "r", None)).await;
    assert_eq!((committed.free_count, committed.paid_count, committed.amount), (1000, 10, 0.5));
    assert_eq!((committed.balance, committed.free_remaining, committed.replayed), (4.5, 0, false));
    assert_eq!(service.funds("u", "asset").await, (4.5, 0.0, 0));
    let transaction = service.transaction("u", "r").await;
    assert_eq!((transaction.status.as_str(), transaction.amount, transaction.held_amount), ("COMMITTED", 0.5, 0.5));
    assert_eq!(transaction.record_id, committed.record_id);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_below_the_hold_frees_the_rest(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 5.0).await;
    service.reserve(hold("u", "r", "asset", 1010)).await;
    let committed = service.commit(delivered("u", "r", Some(400))).await;
    assert_eq!((committed.free_count, committed.paid_count, committed.amount), (400, 0, 0.0));
    assert_eq!(service.funds("u", "asset").await, (5.0, 0.0, 600));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_above_the_hold_charges_everything_even_below_zero(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.paying_user("u", 1.0).await;
    service.reserve(hold("u", "r", "asset", 20)).await;
    let committed = service.commit(CommitReservationRequest { cost: 2.5, ..delivered("u", "r", Some(30)) }).await;
    assert_eq!((committed.paid_count, committed.amount, committed.balance), (30, 2.5, -1.5));
    assert_eq!(refusal(service.try_deduct(charge("u", "asset", 1)).await).1, "10001");
    assert!(service.check("u", "passport", 1).await.allowed, "free calls go on");
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_commit_charges_once_and_a_different_one_is_a_conflict(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.paying_user("u", 10.0).await;
    service.reserve(hold("u", "r", "asset", 10)).await;
    let usage = Some(Usage { input_tokens: 7, output_tokens: 5, cached_input_tokens: 2, ..Default::default() });
    let request = CommitReservationRequest { cost: 0.25, usage, ..delivered("u", "r", Some(10)) };
    let first = service.commit(request.clone()).await;
    // An absent count means the reserved count, so the content is the same.
    for same in [request.clone(), CommitReservationRequest { count: None, ..request.clone() }] {
        let again = service.commit(same).await;
        assert_eq!(again, CommitReservationReply { replayed: true, ..first.clone() });
    }
    for (other, field) in [
        (CommitReservationRequest { count: Some(9), ..request.clone() }, "count"),
        (CommitReservationRequest { cost: 0.26, ..request.clone() }, "cost"),
        (CommitReservationRequest { usage: None, ..request.clone() }, "usage"),
    ] {
        let conflict = service.try_commit(other).await.unwrap_err();
        assert_eq!(code_of(&conflict), (Code::AlreadyExists, "10007".into()));
        assert!(conflict.message().ends_with(field), "{}", conflict.message());
    }
    assert_eq!(service.transaction("u", "r").await.usage, usage);
    assert_eq!(service.funds("u", "asset").await, (9.75, 0.0, 0));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_reserve_holds_once_and_returns_the_current_status(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.paying_user("u", 1.0).await;
    let request = hold("u", "r", "asset", 10);
    let first = service.reserve(request.clone()).await;
    assert_eq!(service.reserve(request.clone()).await, ReserveQuotaReply { replayed: true, ..first.clone() });
    assert_eq!(service.funds("u", "asset").await, (1.0, 0.5, 0));
    let conflict = service.try_reserve(hold("u", "r", "asset", 11)).await.unwrap_err();
    assert!(conflict.message().ends_with("count"), "{}", conflict.message());

    service.commit(CommitReservationRequest { usage: Some(Usage::default()), ..delivered("u", "r", None) }).await;
    let again = service.reserve(request).await;
    assert_eq!(again, ReserveQuotaReply { status: "COMMITTED".into(), replayed: true, ..first });
    assert_eq!(service.funds("u", "asset").await, (0.5, 0.0, 0));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_charge_and_a_reservation_cannot_share_an_id(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.deduct(traced("c", charge("u", "asset", 1))).await;
    assert_eq!(refusal(service.try_reserve(hold("u", "c", "asset", 1)).await).1, "10007");
    assert_eq!(refusal(service.try_commit(delivered("u", "c", None)).await), wrong_state());
    assert_eq!(refusal(service.try_release("u", "c").await), wrong_state());
    service.reserve(hold("u", "r", "asset", 1)).await;
    assert_eq!(refusal(service.try_deduct(traced("r", charge("u", "asset", 1))).await).1, "10007");
    // The same id of another user is another id.
    assert!(!service.reserve(hold("v", "c", "asset", 1)).await.replayed);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_frees_the_hold_once_and_is_final(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 1.0).await;
    service.reserve(hold("u", "r", "asset", 1005)).await;
    assert!(!service.try_release("u", "r").await.unwrap().replayed);
    assert_eq!(service.funds("u", "asset").await, (1.0, 0.0, 1000));
    assert!(service.try_release("u", "r").await.unwrap().replayed);
    assert_eq!(refusal(service.try_commit(delivered("u", "r", None)).await), wrong_state());
    let again = service.try_reserve(hold("u", "r", "asset", 1005)).await;
    assert_eq!(refusal(again), wrong_state(), "a caller must not deliver after a release");
    assert_eq!(service.funds("u", "asset").await, (1.0, 0.0, 1000));

    service.reserve(hold("u", "done", "asset", 1)).await;
    service.commit(delivered("u", "done", None)).await;
    assert_eq!(refusal(service.try_release("u", "done").await), wrong_state());
    let unknown = (Code::NotFound, "10010".to_owned());
    assert_eq!(refusal(service.try_release("u", "nothing").await), unknown);
    assert_eq!(refusal(service.try_commit(delivered("u", "nothing", None)).await), unknown);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_hold_is_freed_and_a_late_commit_still_charges(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    // The month must not turn during the test, because free quota starts again with it.
    service.clock.set("2026-11-20T04:00:00Z");
    service.paying_user("u", 1.0).await;
    service.reserve(hold("u", "late", "asset", 20)).await;
    let (made, expires) = (service.transaction("u", "late").await.created_at, held_until(&service, "late").await);
    assert_eq!(expires.seconds - made.unwrap().seconds, 600);
    service.reserve(hold("u", "unswept", "payment", 7)).await;

    service.clock.advance(TimeDelta::minutes(9));
    assert_eq!(service.sweep().await, (0, 0));
    // After its expiry and before the sweep, a hold works like an open one.
    service.clock.advance(TimeDelta::minutes(1));
    assert_eq!(service.commit(delivered("u", "unswept", None)).await.free_count, 7);
    assert_eq!(service.sweep().await, (1, 0));
    assert_eq!(service.sweep().await, (0, 0));
    assert_eq!(service.funds("u", "asset").await, (1.0, 0.0, 0));
    assert_eq!(service.status("u", "late").await, "EXPIRED");

    // The freed balance was spent. The work was delivered, so the commit still charges.
    service.deduct(charge("u", "asset", 20)).await;
    let committed = service.commit(delivered("u", "late", None)).await;
    assert_eq!((committed.amount, committed.balance), (1.0, -1.0));
    assert_eq!(service.status("u", "late").await, "COMMITTED");
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_after_the_expiry_prevents_a_commit(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("billing.reservation_ttl", "1m")]).await;
    service.reserve(hold("u", "r", "asset", 20)).await;
    service.clock.advance(TimeDelta::minutes(2));
    assert_eq!(service.sweep().await, (1, 0));
    assert!(service.try_release("u", "r").await.unwrap().success);
    assert_eq!(refusal(service.try_commit(delivered("u", "r", None)).await), wrong_state());
    assert_eq!(service.funds("u", "asset").await, (0.0, 0.0, 1000));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_counts_in_the_month_and_day_of_its_reserve(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    // Five minutes before the end of October in Shanghai.
    service.clock.set("2026-10-31T15:55:00Z");
    service.deduct(charge("u", "asset", 990)).await;
    service.reserve(hold("u", "r", "asset", 10)).await;
    service.clock.advance(TimeDelta::minutes(10));
    assert_eq!(service.account("u").await.quotas[0].reset_month, "2026-11");
    let committed = service.commit(delivered("u", "r", Some(10))).await;
    assert_eq!((committed.free_count, committed.free_remaining), (10, 0));
    assert_eq!(service.state("u").await.1, [0, 0, 0], "nothing is used in November");
    let (_, usage) =
        service.get("/api/v1/billing/usage?user_id=u&service_name=asset&from=2026-10-31&to=2026-11-01").await;
    let counts = |day: usize| usage["series"][0]["days"][day]["free_count"].clone();
    assert_eq!((counts(0), counts(1)), (json!(1000), json!(0)));
    let (_, records) = service.get("/api/v1/billing/records?user_id=u&from=2026-10-31&to=2026-10-31").await;
    assert_eq!((records["total"].clone(), records["records"].as_array().unwrap().len()), (json!(2), 2));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_commits_releases_and_sweeps_settle_each_hold_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("billing.reservation_ttl", "1m")]).await;
    service.paying_user("u", 100.0).await;
    for i in 0..60 {
        service.reserve(hold("u", &format!("r{i}"), "asset", 10)).await;
    }
    service.clock.advance(TimeDelta::minutes(1));
    let (sweeps, ends) = tokio::join!(
        join_all((0..3).map(|_| service.sweep())),
        join_all((0..60).map(|i| {
            let service = &service;
            async move {
                let trace = format!("r{i}");
                match i % 3 {
                    0 => service.try_commit(delivered("u", &trace, None)).await.map(|_| true),
                    1 => service.try_release("u", &trace).await.map(|_| false),
                    _ => {
                        let commit = service.try_commit(delivered("u", &trace, None));
                        let release = service.try_release("u", &trace);
                        let (commit, release) = tokio::join!(commit, release);
                        assert_ne!(commit.is_ok(), release.is_ok(), "{commit:?} {release:?}");
                        Ok(commit.is_ok())
                    }
                }
            }
        }))
    );
    let committed = ends.into_iter().filter(|end| *end.as_ref().unwrap()).count();
    assert!(sweeps.iter().all(|(_, failed)| *failed == 0));
    let (balance, held, _) = service.funds("u", "asset").await;
    let charged = i32::try_from(committed).unwrap() * 50;
    assert_eq!(((balance * 100.0).round() as i32, held), (10_000 - charged, 0.0));
    for i in 0..60 {
        assert!(["COMMITTED", "RELEASED"].contains(&service.status("u", &format!("r{i}")).await.as_str()));
    }
    service.assert_audit_is_clean().await;
}

/// MySQL has a table of open expiries. It must not keep ended reservations.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_open_reservations_wait_for_their_expiry(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("billing.reservation_ttl", "1m")]).await;
    for trace in ["swept", "late"] {
        service.reserve(hold("u", trace, "asset", 1)).await;
    }
    service.clock.advance(TimeDelta::minutes(1));
    assert_eq!(service.sweep().await, (2, 0));
    for trace in ["committed", "released"] {
        service.reserve(hold("u", trace, "asset", 1)).await;
    }
    service.commit(delivered("u", "committed", None)).await;
    service.commit(delivered("u", "late", None)).await;
    service.try_release("u", "released").await.unwrap();
    service.try_release("u", "swept").await.unwrap();
    // A reservation that ended early is removed at its expiry.
    service.clock.advance(TimeDelta::seconds(50));
    service.reserve(hold("u", "open", "asset", 1)).await;
    service.clock.advance(TimeDelta::seconds(20));
    assert_eq!(service.sweep().await, (0, 0));
    let waiting = match on {
        MySql => "FROM reservation_expiry",
        Sqlite => "FROM billing_transaction WHERE status = 'PENDING'",
    };
    assert_eq!(service.database.rows(&["trace_id"], waiting).await, [["open"]]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_reserves_never_hold_more_than_the_balance(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.paying_user("u", 5.0).await;
    let holds = join_all((0..40).map(|i| service.try_reserve(hold_of(i)))).await;
    fn hold_of(i: i32) -> ReserveQuotaRequest {
        hold("u", &format!("r{i}"), "asset", 10)
    }
    assert_eq!(holds.iter().filter(|held| held.is_ok()).count(), 10);
    assert_eq!(service.funds("u", "asset").await, (5.0, 5.0, 0));
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_debit_cannot_take_held_balance(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.paying_user("u", 1.0).await;
    service.reserve(hold("u", "r", "asset", 10)).await;
    let debit = |amount: f64| service.post("/internal/v1/billing/adjust", debit_of(amount));
    fn debit_of(amount: f64) -> String {
        json!({"user_id": "u", "amount": amount, "reason": "debit", "adjustment_id": format!("d{amount}")}).to_string()
    }
    assert_eq!(debit(-0.500001).await.0, 400);
    assert_eq!(debit(-0.5).await.0, 200);
    assert_eq!(service.funds("u", "asset").await, (0.5, 0.5, 0));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reservations_work_over_rest_too(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let (status, held) =
        service.post("/internal/v1/billing/reserve", r#"{"userId":"u","serviceName":"asset","count":"3"}"#).await;
    assert_eq!((status, &held["free_count"], &held["status"]), (200, &json!(3), &json!("PENDING")));
    // The server made an id for a request without one. It can be used in a path.
    let trace = held["trace_id"].as_str().unwrap();
    let (_, found) = service.internal_get(&format!("/internal/v1/billing/transactions/u/{trace}")).await;
    assert_eq!((&found["held_free_count"], &found["amount"]), (&json!(3), &json!(0.0)));
    let body = json!({"user_id": "u", "trace_id": trace, "count": 2}).to_string();
    let (_, committed) = service.post("/internal/v1/billing/commit", body).await;
    assert_eq!(committed["free_remaining"], 998);
    service
        .post("/internal/v1/billing/reserve", r#"{"user_id":"u","service_name":"asset","count":3,"trace_id":"a/b"}"#)
        .await;
    let (_, found) = service.internal_get("/internal/v1/billing/transactions/u/a%2Fb").await;
    assert_eq!(found["status"], "PENDING");
    let (_, released) = service.post("/internal/v1/billing/release", r#"{"user_id":"u","trace_id":"a/b"}"#).await;
    assert_eq!(released, json!({"success": true, "replayed": false}));
    let (status, missing) = service.internal_get("/internal/v1/billing/transactions/u/none").await;
    assert_eq!((status, &missing["metadata"]["error_code"]), (404, &json!("10010")));
    for (path, body, field) in [
        ("commit", r#"{"user_id":"u","trace_id":"t","count":0}"#, "count"),
        ("commit", r#"{"user_id":"u"}"#, "trace_id"),
        ("commit", r#"{"user_id":"u","trace_id":"t","cost":-1}"#, "cost"),
        ("release", r#"{"trace_id":"t"}"#, "user_id"),
        ("reserve", r#"{"user_id":"u","service_name":"asset"}"#, "count"),
    ] {
        let (status, error) = service.post(&format!("/internal/v1/billing/{path}"), body).await;
        assert_eq!((status, &error["metadata"]["field"]), (400, &json!(field)), "{path} {body}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cron_frees_expired_holds(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("billing.reservation_ttl", "1ms")]).await;
    for i in 0..3 {
        service.reserve(hold("u", &format!("r{i}"), "asset", 1)).await;
    }
    let freed = sweep_by_cron(&service.database);
    assert_eq!(freed, "expire-reservations: 3 holds freed, 0 streams charged, 0 failed\n");
    assert_eq!(sweep_by_cron(&service.database), "expire-reservations: 0 holds freed, 0 streams charged, 0 failed\n");
    assert_eq!(service.funds("u", "asset").await, (0.0, 0.0, 1000));
    service.assert_audit_is_clean().await;
}

fn sweep_by_cron(database: &Database) -> String {
    let conf = database.config_file(&[]);
    let done = run(CRON, &["-conf", conf.to_str().unwrap(), "--once", "expire-reservations"], &[]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}
