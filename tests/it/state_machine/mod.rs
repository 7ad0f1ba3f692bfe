//! Random histories of accounts against a reference model, in memory and on the real
//! databases: every answer, balance and quota equals the model's after every batch,
//! and the books audit clean. `PROPTEST_CASES` asks for more cases.

mod books;
mod model;
mod steps;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use billing_service::{
    app,
    biz::{
        account::{Balance, Quota},
        audit::{self, Evidence},
        calendar::{BillingTime, Calendar, SystemClock},
        catalog::{Catalog, Plan, Price},
        ids::{OrderId, UserId},
        key_quota::{KeyQuotaStore, NewKeyQuota, Period, QuotaType},
        limit::{Caps, LimitStore, Requests},
        money::Money,
        recharge::order::{Order, OrderStore},
        settlement::{ledger::Ledger, posting::Batch},
    },
    data::{
        Store, dsn,
        mysql::{MySqlStore, PoolLimits},
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rstest::rstest;

use self::{
    books::Books,
    model::{Answer, FREE_UNITS, KEY_AMOUNT, KEY_REQUESTS, Model, ORDERS, Shared, Step},
    steps::{
        Round, SERVICES, USERS, answer, api_key, moment, month, new_order, order_id, order_state, posting, rounds,
        service, user,
    },
};
use crate::harness::{Backend, Database, MySql, Sqlite};

/// Where a history is played.
trait Stage {
    async fn settle(&self, batch: &Batch) -> Vec<billing_service::biz::settlement::posting::Outcome>;
    async fn balance(&self, user: &UserId) -> Balance;
    /// `None` while it was never needed.
    async fn quota(&self, user: &UserId, month: u32, service: u8) -> Option<Quota>;
    async fn set_caps(&self, user: &UserId, caps: Caps, at: BillingTime);
    async fn requests(&self, user: &UserId) -> Option<Requests>;
    async fn set_key_quota(&self, quota: &NewKeyQuota, at: BillingTime);
    async fn keep_order(&self, order: &Order);
    async fn order(&self, id: &OrderId) -> Option<Order>;
    async fn evidence(&self, case: &str) -> Vec<Evidence>;
}

impl Stage for Books {
    async fn settle(&self, batch: &Batch) -> Vec<billing_service::biz::settlement::posting::Outcome> {
        Ledger::settle(self, batch).await.unwrap().outcomes
    }

    async fn balance(&self, user: &UserId) -> Balance {
        Books::balance(self, user)
    }

    async fn quota(&self, user: &UserId, number: u32, of: u8) -> Option<Quota> {
        Books::quota(self, &(user.clone(), month(number), service(of)))
    }

    async fn set_caps(&self, user: &UserId, caps: Caps, at: BillingTime) {
        Books::set_caps(self, user, caps, at);
    }

    async fn requests(&self, user: &UserId) -> Option<Requests> {
        Books::requests(self, user)
    }

    async fn set_key_quota(&self, quota: &NewKeyQuota, at: BillingTime) {
        self.keep_key_quota(quota, at);
    }

    async fn keep_order(&self, order: &Order) {
        Books::keep_order(self, order);
    }

    async fn order(&self, id: &OrderId) -> Option<Order> {
        Books::order(self, id)
    }

    async fn evidence(&self, case: &str) -> Vec<Evidence> {
        (0..USERS).map(|number| Books::evidence(self, &user(case, number))).collect()
    }
}

impl Stage for Arc<dyn Store> {
    async fn settle(&self, batch: &Batch) -> Vec<billing_service::biz::settlement::posting::Outcome> {
        Ledger::settle(&**self, batch).await.unwrap().outcomes
    }

    async fn balance(&self, user: &UserId) -> Balance {
        let account = self.account(user, month(0)).await.unwrap();
        account.map_or_else(Balance::default, |account| account.balance)
    }

    async fn quota(&self, user: &UserId, number: u32, of: u8) -> Option<Quota> {
        self.account(user, month(number)).await.unwrap()?.quotas.get(&service(of)).copied()
    }

    async fn set_caps(&self, user: &UserId, caps: Caps, at: BillingTime) {
        LimitStore::set_caps(&**self, user, caps, at).await.unwrap();
    }

    async fn requests(&self, user: &UserId) -> Option<Requests> {
        self.account(user, month(0)).await.unwrap()?.requests
    }

    async fn set_key_quota(&self, quota: &NewKeyQuota, at: BillingTime) {
        KeyQuotaStore::set_key_quota(&**self, quota, at).await.unwrap();
    }

    async fn keep_order(&self, order: &Order) {
        assert!(self.create_order(order).await.unwrap());
    }

    async fn order(&self, id: &OrderId) -> Option<Order> {
        OrderStore::order(&**self, id).await.unwrap()
    }

    async fn evidence(&self, case: &str) -> Vec<Evidence> {
        let all = (**self).evidence(Some(&UserId::from_stored(format!("{case}-"))), USERS.into()).await.unwrap();
        all.into_iter().filter(|evidence| evidence.user.as_str().starts_with(case)).collect()
    }
}

/// Plays one history on a stage and compares it with the model after every batch.
async fn play(stage: &impl Stage, case: &str, rounds: &[Round]) -> Result<(), TestCaseError> {
    let plan = Plan { price: Price::Unit(Money::ZERO), free_quota: FREE_UNITS, policy: Default::default() };
    let catalog = Arc::new(Catalog::new((0..SERVICES).map(|number| (service(number), plan))));
    let calendar = Calendar::new(chrono_tz::Asia::Shanghai, SystemClock);
    let start: DateTime<Utc> = "2026-11-15T00:00:00Z".parse().unwrap();
    let mut models: Vec<Model> = (0..USERS).map(Model::of).collect();
    let mut shared = Shared::default();
    for (kind, period, limit) in
        [(QuotaType::Requests, Period::Day, KEY_REQUESTS), (QuotaType::Amount, Period::Total, KEY_AMOUNT)]
    {
        let quota = NewKeyQuota { key: api_key(case), kind, period, limit: Some(limit) };
        stage.set_key_quota(&quota, calendar.at(start)).await;
    }
    for (number, order) in (0..USERS).flat_map(|number| (0..ORDERS).map(move |order| (number, order))) {
        stage.keep_order(&new_order(case, number, order, start)).await;
    }
    let (mut now, mut months) = (start, Vec::new());
    for round in rounds {
        // No two rounds happen at the same instant.
        now += TimeDelta::minutes(round.minutes.into()) + TimeDelta::milliseconds(1);
        let at: BillingTime = calendar.at(now);
        let moment = moment(at, start);
        months.push(moment.month);
        if let Some((number, caps)) = round.caps {
            let cap = |cap: usize| u32::try_from(cap).unwrap();
            let daily_and_monthly = caps.map(|(daily, monthly)| (cap(daily), cap(monthly))).unzip();
            let new = Caps { daily: daily_and_monthly.0, monthly: daily_and_monthly.1 };
            stage.set_caps(&user(case, number), new, at).await;
            models[usize::from(number)].set_caps(caps, moment);
        }
        let postings = round.steps.iter().map(|(number, step)| posting(case, *number, step)).collect();
        let batch = Batch { postings, at, catalog: catalog.clone() };
        let mut take = async || {
            let outcomes = stage.settle(&batch).await;
            let answers: Vec<_> =
                round.steps.iter().zip(&outcomes).map(|((_, step), outcome)| answer(step, outcome)).collect();
            let mut model = |(number, step): &(u8, Step)| models[usize::from(*number)].step(step, moment, &mut shared);
            let expected: Vec<_> = round.steps.iter().map(&mut model).collect();
            shared.payments.end_batch();
            (answers, expected)
        };
        let (mut answers, mut expected) = take().await;
        proptest::prop_assert_eq!(&answers, &expected);
        if round.answer_is_lost {
            // The engine settles the same batch again. What had passed is found, and is no
            // replay to the service; the model knows of no batches and calls it one.
            (answers, expected) = take().await;
            answers.iter_mut().chain(&mut expected).for_each(Answer::forget_replay);
            proptest::prop_assert_eq!(answers, expected);
        }

        for (number, model) in (0u8..).zip(&models) {
            let user = user(case, number);
            let balance = stage.balance(&user).await;
            proptest::prop_assert_eq!((balance.amount.micros(), balance.held.micros()), (model.balance, model.held()));
            let calls = stage.requests(&user).await.map(|requests| requests.used(at));
            let expected = model.calls(moment).map(|(daily, monthly)| (daily as u32, monthly as u32));
            // A user of whom nothing is known but caps has no account yet.
            let nothing = calls.is_none() && expected == Some((0, 0));
            proptest::prop_assert!(nothing || calls == expected, "{:?} is {:?}", calls, expected);
            proptest::prop_assert!(model.overdrawn || balance.available() >= Money::ZERO);
            for (month, of) in months.iter().flat_map(|month| (0..SERVICES).map(move |of| (*month, of))) {
                let quota = stage.quota(&user, month, of).await.unwrap_or_default();
                let expected = (model.used(month, of), model.held_free(month, of));
                proptest::prop_assert_eq!((quota.used, quota.held), expected);
                proptest::prop_assert!(quota.used + quota.held <= FREE_UNITS);
            }
        }
        for (number, order) in (0..USERS).flat_map(|number| (0..ORDERS).map(move |order| (number, order))) {
            let stored = stage.order(&order_id(case, number, order)).await.unwrap();
            proptest::prop_assert_eq!(order_state(&stored), models[usize::from(number)].orders[usize::from(order)]);
        }
        for evidence in stage.evidence(case).await {
            proptest::prop_assert_eq!(audit::compare(&evidence), vec![]);
        }
    }
    Ok(())
}

/// Runs so many cases, or more where the environment asks for more.
pub fn runner(cases: u32) -> TestRunner {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(0);
    let cases = cases.max(asked);
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

#[test]
fn random_histories_follow_the_model_in_memory() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runner(10_000).run(&rounds(), |rounds| runtime.block_on(play(&Books::default(), "u", &rounds))).unwrap();
}

#[rstest]
fn random_histories_follow_the_model(#[values(MySql, Sqlite)] on: Backend) {
    static CASES: AtomicU64 = AtomicU64::new(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_database, store) = runtime.block_on(async {
        let database = Database::create(on).await;
        let mut store = app::connect(&database.config(&[])).await.unwrap();
        if on == MySql {
            // One that never expects a repeat, and so meets each of them by surprise.
            store.close().await;
            let limits =
                PoolLimits { readers: 1, writers: 1, acquire_timeout: Duration::from_secs(5), wary_batches: 0 };
            store = Arc::new(MySqlStore::new(dsn::mysql(&database.source).unwrap(), limits));
        }
        (database, store)
    });
    runner(500)
        .run(&rounds(), |rounds| {
            let case = format!("{:08}", CASES.fetch_add(1, Ordering::Relaxed));
            runtime.block_on(play(&store, &case, &rounds))
        })
        .unwrap();
    runtime.block_on(store.close());
}
