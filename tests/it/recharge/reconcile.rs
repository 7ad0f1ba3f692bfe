//! Lost callbacks: `cron --once reconcile-recharges`.

use billing_service::{
    app,
    biz::{recharge::reconcile::ReconciledOrders, values::calendar::Clock},
};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;

use crate::harness::{
    Backend, MySql, Sqlite,
    payments::{Paying, settings, success},
    process::{CRON, run},
};

/// A clock that is ahead of the machine.
#[derive(Clone, Copy)]
pub struct In(TimeDelta);

impl Clock for In {
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.0
    }
}

pub const SOON: In = In(TimeDelta::minutes(6));
pub const NEXT_DAY: In = In(TimeDelta::hours(25));

/// A service whose payment-service loses every callback.
async fn lossy(on: Backend) -> Paying {
    let paying = Paying::start(on).await;
    paying.switch(json!({"lose": true}));
    paying
}

/// Runs the job like cron, with its own connection.
async fn reconcile(paying: &Paying, clock: In) -> anyhow::Result<ReconciledOrders> {
    reconcile_with(paying, clock, &[]).await
}

pub async fn reconcile_with(paying: &Paying, clock: In, changes: &[(&str, &str)]) -> anyhow::Result<ReconciledOrders> {
    let config = paying.service.database.config(&settings(&paying.sandbox, changes));
    let store = app::connect(&config).await.unwrap();
    let reconciled =
        app::reconcile_recharges(&config, store.clone(), clock, &tokio_util::sync::CancellationToken::new()).await;
    app::close(&*store).await;
    reconciled
}

#[rstest]
#[tokio::test]
async fn orders_without_a_callback_are_looked_up_and_settled(#[values(MySql, Sqlite)] on: Backend) {
    let paying = lossy(on).await;
    let paid = join_all((0..20).map(|_| paying.recharge("u", 5.0))).await;
    let (failed, waiting) = (paying.recharge("u", 5.0).await, paying.recharge("u", 5.0).await);
    for reply in &paid {
        paying.press(&reply.payment_url, "SUCCESS").await;
    }
    paying.press(&failed.payment_url, "FAILED").await;

    // Too early, because a callback may be in flight.
    assert_eq!(reconcile(&paying, In(TimeDelta::minutes(4))).await.unwrap(), ReconciledOrders::default());
    let settled = ReconciledOrders { credited: 20, failed: 1, left: 1, ..Default::default() };
    assert_eq!(reconcile(&paying, SOON).await.unwrap(), settled);
    assert_eq!(reconcile(&paying, SOON).await.unwrap(), ReconciledOrders { left: 1, ..Default::default() });
    assert_eq!(paying.order(&failed.order_id).await.status, "failed");
    assert_eq!(paying.order(&waiting.order_id).await.status, "pending");
    paying.assert_books("u", 100.0).await;
    // The callback arrives later.
    let payment = paying.order(&paid[0].order_id).await.payment_order_id;
    paying.notify(success(&paid[0].order_id, &payment, 5.0)).await.unwrap();
    paying.assert_books("u", 100.0).await;
}

#[rstest]
#[tokio::test]
async fn an_unpaid_order_expires_after_a_day_and_is_credited_if_paid_later(#[values(MySql, Sqlite)] on: Backend) {
    let paying = lossy(on).await;
    let (left, paid) = (paying.recharge("u", 5.0).await, paying.recharge("u", 5.0).await);
    paying.press(&paid.payment_url, "SUCCESS").await;
    let reconciled = ReconciledOrders { credited: 1, expired: 1, ..Default::default() };
    assert_eq!(reconcile(&paying, NEXT_DAY).await.unwrap(), reconciled);
    assert_eq!(reconcile(&paying, NEXT_DAY).await.unwrap(), ReconciledOrders::default());
    assert_eq!(paying.order(&left.order_id).await.status, "expired");
    paying.assert_books("u", 5.0).await;

    paying.sandbox.set_switches(Default::default());
    paying.press(&left.payment_url, "SUCCESS").await;
    paying.until_order_is(&left.order_id, "success").await;
    paying.assert_books("u", 10.0).await;
}

#[rstest]
#[tokio::test]
async fn a_payment_after_a_failed_attempt_is_found_too(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let (retried, given_up) = (paying.recharge("u", 5.0).await, paying.recharge("u", 5.0).await);
    for reply in [&retried, &given_up] {
        paying.press(&reply.payment_url, "FAILED").await;
        paying.until_order_is(&reply.order_id, "failed").await;
    }
    paying.switch(json!({"lose": true}));
    paying.press(&retried.payment_url, "SUCCESS").await;
    assert_eq!(reconcile(&paying, SOON).await.unwrap(), ReconciledOrders { credited: 1, ..Default::default() });
    assert_eq!(reconcile(&paying, SOON).await.unwrap(), ReconciledOrders::default());
    assert_eq!(paying.order(&given_up.order_id).await.status, "failed");
    paying.assert_books("u", 5.0).await;
}

#[rstest]
#[tokio::test]
async fn an_order_that_payment_service_never_saw_expires(#[values(MySql, Sqlite)] on: Backend) {
    let paying = lossy(on).await;
    paying.legacy_order("recharge_u_1793491200", "u", 25).await;
    assert_eq!(reconcile(&paying, SOON).await.unwrap(), ReconciledOrders { expired: 1, ..Default::default() });
    assert_eq!(paying.order("recharge_u_1793491200").await.status, "expired");
    paying.assert_books("u", 0.0).await;
}

#[rstest]
#[tokio::test]
async fn any_number_of_runs_beside_late_callbacks_credit_once(#[values(MySql, Sqlite)] on: Backend) {
    let paying = lossy(on).await;
    let orders = join_all((0..30).map(|number| paying.recharge(["a", "b", "c"][number % 3], 5.0))).await;
    for reply in &orders {
        paying.press(&reply.payment_url, "SUCCESS").await;
    }
    let mut payments = Vec::new();
    for reply in &orders {
        payments.push(paying.order(&reply.order_id).await.payment_order_id);
    }
    let callbacks = orders.iter().zip(&payments).map(|(reply, payment)| {
        let callback = success(&reply.order_id, payment, 5.0);
        async { paying.notify(callback).await.unwrap() }
    });
    let runs = join_all((0..3).map(|_| reconcile(&paying, SOON)));
    let (runs, _) = tokio::join!(runs, join_all(callbacks));
    assert!(runs.iter().all(|run| run.as_ref().unwrap().errors == 0), "{runs:?}");
    for user in ["a", "b", "c"] {
        paying.assert_books(user, 50.0).await;
    }
}

#[rstest]
#[tokio::test]
async fn the_exit_code_of_cron_shows_errors(#[values(MySql, Sqlite)] on: Backend) {
    let paying = lossy(on).await;
    let paid = paying.recharge("u", 5.0).await;
    paying.press(&paid.payment_url, "SUCCESS").await;
    let mut changes = settings(&paying.sandbox, &[("payment_service.reconcile_after", "1ms")]);
    let conf = paying.service.database.config_file(&changes);
    let once = async |conf: std::path::PathBuf| {
        let arguments = ["-conf".to_owned(), conf.display().to_string(), "--once".into(), "reconcile-recharges".into()];
        let running = move || run(CRON, &arguments.each_ref().map(String::as_str), &[]);
        tokio::task::spawn_blocking(running).await.unwrap()
    };
    let done = once(conf).await;
    let printed = String::from_utf8(done.stdout).unwrap();
    assert_eq!(printed, "reconcile-recharges: 1 credited, 0 failed, 0 expired, 0 left, 0 errors\n");
    assert!(done.status.success());
    paying.assert_books("u", 5.0).await;

    paying.recharge("u", 5.0).await;
    changes.extend([("payment_service.grpc_addr", "127.0.0.1:1"), ("payment_service.timeout", "200ms")]);
    let failed = once(paying.service.database.config_file(&changes)).await;
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("payment-service"), "{failed:?}");
}
