//! Kills at every statement of a charge that crosses thresholds, and at any moment. A trigger holds the settlement at one
//! statement. Then the server or the database dies, and the caller sends the charge again.

use std::{collections::BTreeMap, path::PathBuf};

use billing_service::service::proto::{DeductQuotaRequest, SetApiKeyQuotaRequest, SetUserLimitsRequest};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;

use super::{
    all, client_of, data, events_of,
    gate::Death,
    rounds::{DeathRounds, Dies, Round, end_lookups, zone_at_noon},
    set_alerts, types,
};
use crate::harness::{
    Backend, Database, MySql, Sqlite, charge, load::credit, process::ServerProcess, traced, wait::until,
};

/// The statements of the charge, in no order: each path has its own.
const STATEMENTS: [&str; 7] = [
    "BEFORE INSERT ON billing_transaction",
    "BEFORE INSERT ON billing_record",
    "BEFORE INSERT ON usage_daily",
    "BEFORE UPDATE ON free_quota",
    "BEFORE INSERT ON event",
    "AFTER INSERT ON event",
    "BEFORE UPDATE ON user_balance",
];
/// Further ones of an account with a cap and an API key with a quota.
const OF_LIMITS: [&str; 2] = ["BEFORE UPDATE ON tenant_quota", "BEFORE UPDATE ON api_key_quota"];

/// The events of the charge.
const CROSSED: [&str; 4] = ["quota.threshold", "quota.threshold", "quota.threshold", "balance.low"];

/// The account of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Account {
    /// Its state is known to the server, so the charge is one packet.
    Known,
    /// It has a cap, and its API key has a quota, so it is locked and read before.
    Limited,
}

/// The user's charge that crosses half, four fifths and all of the free quota, and a balance of 9.
fn crossing(user: &str) -> DeductQuotaRequest {
    DeductQuotaRequest { api_key_id: format!("key-{user}"), ..traced("crossing", charge(user, "asset", 600)) }
}

impl Dies for Account {
    type Open = ();

    fn statements(self, _: Backend) -> Vec<&'static str> {
        let further = if self == Self::Limited { &OF_LIMITS[..] } else { &[] };
        [&STATEMENTS, further].concat()
    }

    /// 450 of 1,000 free units are used, and the balance is 10.
    async fn prepare(self, round: &Round<'_>) {
        let (mut client, user) = (round.client.clone(), round.user);
        if self == Self::Known {
            end_lookups(round).await;
        }
        set_alerts(&client, user, &[9.0], &[50, 80, 100]).await;
        client.adjust_balance(credit(user, 10.0)).await.unwrap();
        if self == Self::Limited {
            let caps = SetUserLimitsRequest { user_id: user.into(), daily_limit: Some(100), monthly_limit: None };
            client.set_user_limits(caps).await.unwrap();
            let quota = SetApiKeyQuotaRequest {
                api_key_id: format!("key-{user}"),
                quota_type: "requests".into(),
                period: "total".into(),
                limit: Some(100.0),
            };
            client.set_api_key_quota(quota).await.unwrap();
        }
        for count in [440, 10] {
            let used = DeductQuotaRequest { trace_id: count.to_string(), count, ..crossing(user) };
            client.deduct_quota(used).await.unwrap();
        }
    }

    async fn attempt(self, round: &Round<'_>, (): ()) {
        drop(round.client.clone().deduct_quota(crossing(round.user)).await);
    }

    async fn assert_once(self, round: &Round<'_>, death: Death, statement: &str) {
        let (mut client, user) = (round.client.clone(), round.user);
        let mut replayed = None;
        until("the charge has an answer", async || {
            replayed = client.deduct_quota(crossing(user)).await.ok().map(|reply| reply.into_inner().replayed);
            replayed.is_some()
        })
        .await;
        match death {
            Death::ServerBeforeCommit => assert_eq!(replayed, Some(true), "{statement}"),
            Death::Server => assert_eq!(replayed, Some(false), "{statement}"),
            // The server may have settled it again before.
            Death::Database => {}
        }
        assert!(client.deduct_quota(crossing(user)).await.unwrap().into_inner().replayed);
        let events = events_of(&client, user).await;
        assert_eq!(types(&events), CROSSED, "after a death at {statement}");
    }
}

fn configuration(database: &Database) -> PathBuf {
    database.config_file(&[("server.grpc.timeout", "5s"), ("billing.timezone", &zone_at_noon())])
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_any_statement_leaves_each_event_once_in_mariadb(
    #[values(Death::Database, Death::Server, Death::ServerBeforeCommit)] death: Death,
    #[values(Account::Known, Account::Limited)] account: Account,
) {
    DeathRounds::in_mariadb(death, configuration).await.run(&[account]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_of_the_server_at_any_statement_leaves_each_event_once_in_a_file() {
    DeathRounds::in_a_file(configuration).await.run(&[Account::Limited]).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_leaves_each_event_once(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(&[("billing.timezone", &zone_at_noon())]);
    let mut seen = BTreeMap::new();
    let call = |round: usize, number: usize| traced(&format!("r{round}-{number}"), charge("u", "asset", 10));
    let mut server = ServerProcess::start_beside(&conf).await;
    for round in 0..4 {
        let client = client_of(&server).await;
        let calls = (0..25).map(|number| {
            let (mut client, call) = (client.clone(), call(round, number));
            async move { client.deduct_quota(call).await.is_ok() }
        });
        let calls = tokio::spawn(join_all(calls.collect::<Vec<_>>()));
        server.kill();
        calls.await.unwrap();
        server = ServerProcess::start_beside(&conf).await;
        let client = client_of(&server).await;
        for number in 0..25 {
            client.clone().deduct_quota(call(round, number)).await.unwrap();
        }
        for event in all(&client).await {
            seen.insert(event.id.clone(), data(&event)["percent"].clone());
        }
    }
    let percents: Vec<_> = seen.values().cloned().collect();
    assert_eq!(percents, [json!(50), json!(80), json!(100)]);
}
