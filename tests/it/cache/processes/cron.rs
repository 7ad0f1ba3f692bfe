//! Jobs that change accounts while servers run.

use std::path::PathBuf;

use billing_service::{
    app,
    biz::values::calendar::SystemClock,
    service::proto::{CheckQuotaRequest, ReserveQuotaRequest},
};
use rstest::rstest;
use serde_json::json;

use super::servers::{call, cap, check, within_a_second};
use crate::harness::{
    Backend, MySql, Service, Sqlite,
    payments::{Paying, settings},
    process::{CRON, run},
    redis::Proxy,
    wait::until,
};

/// Runs a job without blocking the other tasks of the test. Returns its output.
async fn once(conf: PathBuf, job: &'static str) -> String {
    let running = move || run(CRON, &["-conf", conf.to_str().unwrap(), "--once", job], &[]);
    let done = tokio::task::spawn_blocking(running).await.unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_show_holds_that_cron_freed(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &[("billing.reservation_ttl", "1ms")]).await;
    // The holds also count as requests. The job takes these requests back.
    cap(&service.internal, Some(60), None).await;
    for number in 0..50 {
        let hold = ReserveQuotaRequest {
            user_id: "u".into(),
            trace_id: format!("r{number}"),
            service_name: "asset".into(),
            count: 20,
            ..Default::default()
        };
        service.internal.clone().reserve_quota(hold).await.unwrap();
    }
    let held = check(&service.internal, call("u")).await;
    assert_eq!(
        (held.reason.as_str(), held.free_remaining, held.daily_remaining),
        ("insufficient balance", 0, Some(10))
    );
    let conf = service.database.config_file(&[]);
    assert_eq!(
        once(conf, "expire-reservations").await,
        "expire-reservations: 50 holds freed, 0 streams charged, 0 failed\n"
    );
    within_a_second("the check shows the freed balance", async || {
        let reply = check(&service.internal, call("u")).await;
        (reply.free_remaining, reply.daily_remaining) == (1_000, Some(60))
    })
    .await;
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_show_top_ups_that_cron_found(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    paying.switch(json!({"lose": true}));
    let order = paying.recharge("u", 50.0).await;
    paying.press(&order.payment_url, "SUCCESS").await;
    let paid_call = || CheckQuotaRequest { count: 2_000, ..call("u") };
    let before = check(&paying.service.internal, paid_call()).await;
    assert_eq!((before.reason.as_str(), before.balance), ("insufficient balance", 0.0));
    let changes = settings(&paying.sandbox, &[("payment_service.reconcile_after", "1ms")]);
    let printed = once(paying.service.database.config_file(&changes), "reconcile-recharges").await;
    assert_eq!(printed, "reconcile-recharges: 1 credited, 0 failed, 0 expired, 0 left, 0 errors\n");
    within_a_second("the check shows the credit", async || {
        let reply = check(&paying.service.internal, paid_call()).await;
        (reply.reason.as_str(), reply.balance) == ("balance", 50.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_finishes_before_redis_answers_waits_for_its_updates() {
    let service = Service::start_with(MySql, &[("billing.reservation_ttl", "1ms")]).await;
    let hold = ReserveQuotaRequest {
        user_id: "u".into(),
        trace_id: "r".into(),
        service_name: "asset".into(),
        count: 1_000,
        ..Default::default()
    };
    service.internal.clone().reserve_quota(hold).await.unwrap();
    assert!(!check(&service.internal, call("u")).await.allowed);
    let proxy = Proxy::start(service.database.redis.as_ref().unwrap().addr.clone()).await;
    proxy.stall(true);
    let config = service.database.config(&[("data.redis.addr", &format!("'{}'", proxy.addr()))]);
    let store = app::connect(&config).await.unwrap();
    let cut = tokio_util::sync::CancellationToken::new();
    let sweeping = app::sweep(&config, store.clone(), SystemClock, &cut);
    let answering = async {
        let freed = async || service.database.rows(&["status"], "FROM billing_transaction").await == [["EXPIRED"]];
        until("the hold is freed", freed).await;
        proxy.stall(false);
    };
    let (swept, ()) = tokio::join!(sweeping, answering);
    assert_eq!(swept.unwrap().freed, 1);
    assert!(check(&service.internal, call("u")).await.allowed);
    store.close().await;
}
