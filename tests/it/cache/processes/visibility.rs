//! The checks of a server show its own acknowledged changes at once, and those of another server soon.

use std::sync::atomic::{AtomicBool, Ordering};

use billing_service::service::proto::{
    CheckQuotaRequest, CommitReservationRequest, ReleaseReservationRequest, ReserveQuotaRequest,
};
use futures_util::future::join_all;
use rstest::rstest;

use super::servers::{
    beside, bind_key, call, cap, check, keyed_call, keyed_charge, pair, second, until_cached, with_redis,
    within_a_second,
};
use crate::harness::{Backend, Database, MySql, Service, Sqlite, charge, payments::Paying};

#[derive(Debug, Clone, Copy)]
enum Change {
    Charge,
    KeyedCharge,
    Reserve,
    Release,
    Commit,
    Credit,
    Debit,
    TopUp,
    Caps,
    OtherCaps,
    NoCaps,
    KeyQuota,
    OtherKeyQuota,
    NoKeyQuota,
}

/// In this order, each change has an effect.
const CHANGES: [Change; 14] = [
    Change::Charge,
    Change::Credit,
    Change::Reserve,
    Change::Release,
    Change::Debit,
    Change::Commit,
    Change::TopUp,
    Change::KeyQuota,
    Change::KeyedCharge,
    Change::OtherKeyQuota,
    Change::NoKeyQuota,
    Change::Caps,
    Change::OtherCaps,
    Change::NoCaps,
];

impl Change {
    async fn make(self, paying: &Paying) {
        let service = &paying.service;
        let mut internal = service.internal.clone();
        match self {
            Self::Charge => drop(service.deduct(charge("u", "asset", 999)).await),
            Self::KeyedCharge => drop(service.deduct(keyed_charge()).await),
            Self::Credit => service.adjust("u", 4.0).await,
            Self::Debit => service.adjust("u", -0.5).await,
            Self::Reserve => drop(internal.reserve_quota(hold("released")).await.unwrap()),
            Self::Release => {
                let release = ReleaseReservationRequest { user_id: "u".into(), trace_id: "released".into() };
                internal.release_reservation(release).await.unwrap();
            }
            Self::Commit => {
                internal.reserve_quota(hold("committed")).await.unwrap();
                let commit = CommitReservationRequest {
                    user_id: "u".into(),
                    trace_id: "committed".into(),
                    ..Default::default()
                };
                internal.commit_reservation(commit).await.unwrap();
            }
            Self::TopUp => {
                let order = paying.recharge("u", 3.0).await;
                paying.press(&order.payment_url, "SUCCESS").await;
                paying.until_order_is(&order.order_id, "success").await;
                // The order shows the commit, which the caches of the server follow.
                let shows = async || service.check("u", "asset", 1).await.balance > 6.0;
                within_a_second("the top-up shows", shows).await;
            }
            Self::Caps => cap(&internal, Some(7), Some(70)).await,
            Self::OtherCaps => cap(&internal, Some(0), None).await,
            Self::NoCaps => cap(&internal, None, None).await,
            Self::KeyQuota => bind_key(&internal, "requests", 1.0).await,
            Self::OtherKeyQuota => bind_key(&internal, "requests", 2.0).await,
            Self::NoKeyQuota => bind_key(&internal, "requests", None).await,
        }
    }

    /// The check that shows the change.
    fn shows_in(self) -> CheckQuotaRequest {
        match self {
            // More than is left while the hold is open.
            Self::Reserve | Self::Release => CheckQuotaRequest { count: 80, ..call("u") },
            _ => keyed_call(),
        }
    }

    /// Whether no reply changes: a key quota that is not used up does not show.
    fn is_silent(self) -> bool {
        matches!(self, Self::KeyQuota | Self::NoKeyQuota)
    }
}

fn hold(trace: &str) -> ReserveQuotaRequest {
    ReserveQuotaRequest {
        user_id: "u".into(),
        trace_id: trace.into(),
        service_name: "asset".into(),
        count: 10,
        ..Default::default()
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_shows_its_changes_at_once_and_another_server_shows_them_soon(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start(on).await;
    let other = second(&paying.service).await;
    for change in CHANGES {
        let request = change.shows_in();
        let before = check(&paying.service.internal, request.clone()).await;
        within_a_second("they agree", async || check(&other.internal, request.clone()).await == before).await;
        change.make(&paying).await;
        let after = check(&paying.service.internal, request.clone()).await;
        assert!(change.is_silent() || after != before, "{change:?} does not show: {before:?}");
        let what = format!("{change:?} shows at the other server");
        within_a_second(&what, async || check(&other.internal, request.clone()).await == after).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn near_a_limit_every_server_obeys_redis_at_once() {
    let (one, other) = pair(MySql).await;
    one.use_up_free_quota("u", "asset").await;
    one.adjust("u", 2.5).await;
    until_cached(&one.database, "u", "2.5").await;
    for left in (0..50).rev() {
        assert!(check(&other.internal, call("u")).await.allowed);
        let balance = one.deduct(charge("u", "asset", 1)).await.balance;
        until_cached(&one.database, "u", &balance.to_string()).await;
        let reply = check(&other.internal, call("u")).await;
        assert_eq!((reply.balance, reply.allowed), (balance, left > 0));
    }
}

#[derive(Clone, Copy)]
enum Stores {
    MySqlAndRedis,
    MySqlAlone,
    Sqlite,
}

async fn start_on(stores: Stores) -> Service {
    let database = match stores {
        Stores::MySqlAndRedis => Database::create(MySql).await,
        Stores::MySqlAlone => with_redis(Database::create(MySql).await, None),
        Stores::Sqlite => Database::create(Sqlite).await,
    };
    Service::start_on(database, &[]).await
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_after_an_acknowledged_charge_always_shows_it(
    #[values(Stores::MySqlAndRedis, Stores::MySqlAlone, Stores::Sqlite)] stores: Stores,
    #[values(true, false)] is_near_a_limit: bool,
) {
    const CHARGES: i32 = 250;
    let service = start_on(stores).await;
    service.use_up_free_quota("u", "asset").await;
    let (balance, requests) = if is_near_a_limit { (25.0, CHARGES) } else { (900_000_000.0, 1_000_000) };
    service.adjust("u", balance).await;
    cap(&service.internal, Some(100_000_000), None).await;
    bind_key(&service.internal, "requests", f64::from(requests)).await;
    let other = Service::start_on(beside(&service.database), &[]).await;
    let is_over = AtomicBool::new(false);
    // These checks keep loads and reads in flight whenever a charge commits.
    let checks = join_all((0..6).map(|number| {
        let client = if number % 3 == 0 { &other.internal } else { &service.internal };
        let is_over = &is_over;
        async move {
            while !is_over.load(Ordering::Relaxed) {
                check(client, if number % 2 == 0 { keyed_call() } else { call("u") }).await;
            }
        }
    }));
    let charging = async {
        for made in 1..=CHARGES {
            let charged = service.deduct(keyed_charge()).await;
            let reply = check(&service.internal, keyed_call()).await;
            assert_eq!((reply.balance, reply.daily_remaining), (charged.balance, Some(100_000_000 - made)));
            assert_eq!(reply.reason, if made < requests { "balance" } else { "api key quota" });
        }
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(checks, charging);
}
