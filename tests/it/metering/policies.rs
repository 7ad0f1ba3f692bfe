//! The policies of services for work beyond its hold and for expired holds.

use billing_service::service::proto::{CommitReservationReply, CommitReservationRequest, StreamFinish};
use chrono::TimeDelta;
use rstest::rstest;

use super::{Gateway, models_with, stream, usage, words};
use crate::harness::{
    Backend, MySql, Service, Sqlite, charge,
    process::{CRON, run},
};

/// Runs the sweep as a command. Returns its output.
pub async fn sweep(service: &Service, changes: &[(&str, &str)]) -> String {
    let conf = service.database.config_file(changes);
    // Runs in another thread, so that streams go on.
    let sweeping = tokio::task::spawn_blocking(move || {
        run(CRON, &["-conf", conf.to_str().unwrap(), "--once", "expire-reservations"], &[])
    });
    let swept = sweeping.await.unwrap();
    assert!(swept.status.success(), "{}", String::from_utf8_lossy(&swept.stderr));
    String::from_utf8(swept.stdout).unwrap()
}

fn commit(tokens: i32) -> CommitReservationRequest {
    let (user_id, trace_id) = ("u".into(), "r".into());
    CommitReservationRequest { user_id, trace_id, usage: usage(0, 0, tokens), ..Default::default() }
}

/// A user with 8 yuan, a hold of 5, and a commit of 12.
async fn overrun(on: Backend, policy: &str) -> (Service, CommitReservationReply) {
    let service = Service::start_with(on, &models_with("billing.reservations", policy)).await;
    service.adjust("u", 8.0).await;
    service.internal.clone().reserve_quota(stream("r", "rag", "dear", (0, 5))).await.unwrap();
    let first = service.internal.clone().commit_reservation(commit(12)).await.unwrap().into_inner();
    let again = service.internal.clone().commit_reservation(commit(12)).await.unwrap().into_inner();
    assert_eq!(again, CommitReservationReply { replayed: true, ..first.clone() });
    let made = service.metered("r").await;
    assert_eq!((made.amount, made.shortfall, made.usage), (first.amount, first.shortfall, usage(0, 0, 12)));
    assert_eq!(made.amount + made.shortfall, 12.0);
    let metrics = service.metrics().await;
    assert!(metrics.contains(&format!("\nbilling_shortfall_amount_total {}\n", first.shortfall)), "{metrics}");
    service.assert_nothing_is_held("u").await;
    (service, first)
}

#[rstest]
#[case::charged_by_default("{}", 12.0, -4.0)]
#[case::charged("{rag: {above_hold: charge}}", 12.0, -4.0)]
#[case::capped("{rag: {above_hold: cap}}", 5.0, 3.0)]
#[case::spilled("{rag: {above_hold: spill}}", 8.0, 0.0)]
#[case::of_another_service("{llm: {above_hold: cap}}", 12.0, -4.0)]
#[tokio::test]
async fn the_policy_of_the_service_decides_the_charge_beyond_the_hold(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] policy: &str,
    #[case] amount: f64,
    #[case] balance: f64,
) {
    let (_, committed) = overrun(on, policy).await;
    assert_eq!((committed.amount, committed.balance, committed.shortfall), (amount, balance, 12.0 - amount));
}

/// The policy spill does not use the balance that others hold.
#[rstest]
#[tokio::test]
async fn a_spill_leaves_the_holds_of_others_alone(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &models_with("billing.reservations", "{rag: {above_hold: spill}}")).await;
    service.adjust("u", 10.0).await;
    for (trace, tokens) in [("r", 5), ("other", 3)] {
        service.internal.clone().reserve_quota(stream(trace, "rag", "dear", (0, tokens))).await.unwrap();
    }
    let committed = service.internal.clone().commit_reservation(commit(12)).await.unwrap().into_inner();
    assert_eq!((committed.amount, committed.balance, committed.shortfall), (7.0, 3.0, 5.0));
    assert_eq!(service.account("u").await.held, 3.0);
    service.assert_audit_is_clean().await;
}

/// Under every policy, free quota pays first, and is not part of the shortfall.
#[rstest]
#[tokio::test]
async fn free_quota_is_used_before_any_policy(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &models_with("billing.reservations", "{chat: {above_hold: cap}}")).await;
    service.internal.clone().reserve_quota(stream("r", "chat", "dear", (0, 10))).await.unwrap();
    let committed = service.internal.clone().commit_reservation(commit(120)).await.unwrap().into_inner();
    assert_eq!((committed.free_count, committed.paid_count), (100, 20));
    assert_eq!((committed.amount, committed.shortfall), (0.0, 20.0));
    service.assert_nothing_is_held("u").await;
}

#[rstest]
#[case::committed("{}", "COMMITTED", 7.0)]
#[case::released("{rag: {on_expiry: release}}", "EXPIRED", 0.0)]
#[tokio::test]
async fn the_policy_of_the_service_decides_the_charge_of_an_expired_hold(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] policy: &str,
    #[case] status: &str,
    #[case] amount: f64,
) {
    let changes = models_with("billing.reservations", policy);
    let service = Service::start_with(on, &changes).await;
    service.adjust("u", 100.0).await;
    service.internal.clone().reserve_quota(stream("silent", "rag", "dear", (3, 20))).await.unwrap();
    let (mut gateway, _) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    gateway.deliver_durably(0, 4).await;
    // As if the server of the stream had died: for cron, the last report is old.
    service.database.execute(&service.expired("s")).await;
    service.database.execute(&service.expired("silent")).await;
    let sum = sweep(&service, &changes).await;
    let ended = if amount > 0.0 { "1 hold freed, 1 stream charged" } else { "2 holds freed, 0 streams charged" };
    assert_eq!(sum, format!("expire-reservations: {ended}, 0 failed\n"));
    let made = service.metered("s").await;
    assert_eq!((made.status.as_str(), made.amount, made.usage), (status, amount, usage(3, 0, 4)));
    assert_eq!(service.metered("silent").await.status, "EXPIRED");
    assert_eq!(service.account("u").await.balance, 100.0 - amount);

    if status == "EXPIRED" {
        // A late commit still charges the delivered work.
        let late = CommitReservationRequest { trace_id: "s".into(), output_text: Some(words(6)), ..commit(0) };
        let late = CommitReservationRequest { usage: None, ..late };
        assert_eq!(service.internal.clone().commit_reservation(late).await.unwrap().into_inner().amount, 9.0);
    }
    service.assert_nothing_is_held("u").await;
}

/// A broken stream does not count as expired: its server knows the delivered tokens.
#[rstest]
#[tokio::test]
async fn a_broken_stream_is_charged_under_every_expiry_policy(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &models_with("billing.reservations", "{rag: {on_expiry: release}}")).await;
    service.adjust("u", 100.0).await;
    let (mut gateway, _) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    gateway.deliver(0, 4).await;
    drop(gateway);
    assert_eq!(service.ended("s", "COMMITTED").await.amount, 7.0);
    service.assert_nothing_is_held("u").await;
}

/// The stream lasts longer than a hold.
#[rstest]
#[tokio::test]
async fn a_live_stream_does_not_expire(#[values(MySql, Sqlite)] on: Backend) {
    // The hold is renewed after half of its time to live.
    let ttl = ("billing.reservation_ttl", "10s");
    let patient = models_with("billing.streams", "{progress: 20ms, grace: 50ms, idle_timeout: 60s}");
    let changes = [patient, vec![ttl]].concat();
    let service = Service::start_with(on, &changes).await;
    service.adjust("u", 100.0).await;
    let (mut gateway, opened) = Gateway::open(&service, stream("s", "rag", "dear", (3, 20))).await;
    let first = opened.expires_at.unwrap();
    gateway.deliver_durably(0, 4).await;
    // The hold is renewed although no message arrives.
    crate::harness::wait::until("the first hold would have expired", async || {
        let (now, expires_at) = (chrono::Utc::now().timestamp(), service.metered("s").await.expires_at.unwrap());
        first.seconds < now && now < expires_at.seconds
    })
    .await;
    assert_eq!(sweep(&service, &changes).await, "expire-reservations: 0 holds freed, 0 streams charged, 0 failed\n");
    service.deduct(charge("u", "passport", 1)).await;
    assert_eq!(gateway.finish(StreamFinish::default()).await.unwrap().amount, 7.0);
    service.assert_nothing_is_held("u").await;
}

impl Service {
    /// SQL that moves the expiry of a hold to the past.
    pub fn expired(&self, trace: &str) -> String {
        let ago = chrono::Utc::now() - TimeDelta::days(1);
        match self.database.backend {
            MySql => format!(
                "UPDATE billing_transaction SET expires_at = '{0}' WHERE trace_id = '{trace}'; \
                 UPDATE reservation_expiry SET expires_at = '{0}' WHERE trace_id = '{trace}'",
                ago.naive_utc()
            ),
            Sqlite => format!(
                "UPDATE billing_transaction SET expires_at = {} WHERE trace_id = '{trace}'",
                ago.timestamp_micros()
            ),
        }
    }
}
