//! Kills at every statement of a charge that crosses thresholds, and at any moment. A trigger holds the settlement at one
//! statement. Then the server or the database dies, and the caller sends the charge again.

use std::collections::BTreeMap;

use billing_service::service::proto::{DeductQuotaRequest, SetApiKeyQuotaRequest, SetUserLimitsRequest};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, Row};
use tokio::task::JoinHandle;

use super::{all, client_of, data, events_of, set_alerts, types};
use crate::harness::{
    Backend, Database, MySql, Sqlite,
    caller::Client,
    charge,
    load::credit,
    mariadb::OwnServer,
    process::ServerProcess,
    traced,
    wait::{soon, until},
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// The database dies. The server goes on, and settles the charge again.
    Database,
    /// The server dies, and its transaction is rolled back.
    Server,
    /// The server dies, and its packet goes on to the end.
    ServerBeforeCommit,
}

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

/// Prepares a user with 450 used free units of 1,000, and a balance of 10.
async fn prepare(client: &mut Client, user: &str, account: Account) {
    set_alerts(client, user, &[9.0], &[50, 80, 100]).await;
    client.adjust_balance(credit(user, 10.0)).await.unwrap();
    if account == Account::Limited {
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
        client.deduct_quota(DeductQuotaRequest { trace_id: count.to_string(), count, ..crossing(user) }).await.unwrap();
    }
}

fn send(client: &Client, user: &str) -> JoinHandle<()> {
    let (mut client, request) = (client.clone(), crossing(user));
    tokio::spawn(async move { drop(client.deduct_quota(request).await) })
}

/// Sends the charge again until it has an answer, and checks the events.
async fn assert_once(mut client: Client, user: &str, death: Option<Death>, statement: &str) {
    let mut replayed = None;
    until("the charge has an answer", async || {
        replayed = client.deduct_quota(crossing(user)).await.ok().map(|reply| reply.into_inner().replayed);
        replayed.is_some()
    })
    .await;
    match death {
        Some(Death::ServerBeforeCommit) => assert_eq!(replayed, Some(true), "{statement}"),
        Some(Death::Server) => assert_eq!(replayed, Some(false), "{statement}"),
        // The server may have settled it again before.
        Some(Death::Database) | None => {}
    }
    assert!(client.deduct_quota(crossing(user)).await.unwrap().into_inner().replayed);
    let events = events_of(&client, user).await;
    assert_eq!(types(&events), CROSSED, "after a death at {statement}");
}

/// Holds the charge at a statement by a lock of the session of the test.
struct Gate(MySqlConnection);

impl Gate {
    /// A settlement that comes again after the death of the database keeps the lock of its gate, so each user has one
    /// of its own.
    async fn close(database: &Database, statement: &str, user: &str) -> Self {
        let mut session = database.mysql().await;
        let lock = AssertSqlSafe(format!("SELECT GET_LOCK('{user}', 0)"));
        let taken: i64 = sqlx::query(lock).fetch_one(&mut session).await.unwrap().get(0);
        assert_eq!(taken, 1);
        let trigger = format!("CREATE TRIGGER gate {statement} FOR EACH ROW SET @gate = GET_LOCK('{user}', 600)");
        session.execute(AssertSqlSafe(trigger)).await.unwrap();
        Self(session)
    }

    /// Waits until a session stands before the gate. Returns its number.
    async fn waiting(&mut self) -> i64 {
        let mut found = None;
        until("the charge stands at the statement", async || {
            let waiting = "SELECT id FROM information_schema.processlist WHERE state = 'User lock'";
            found = sqlx::query(waiting).fetch_optional(&mut self.0).await.unwrap().map(|row| row.get(0));
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    async fn kill(&mut self, session: i64) {
        self.0.execute(AssertSqlSafe(format!("KILL {session}"))).await.unwrap();
    }

    /// Lets the charge go on, waits for its end, and removes the gate.
    async fn open(mut self) {
        self.0.execute("DO RELEASE_ALL_LOCKS()").await.unwrap();
        self.remove().await;
    }

    /// The trigger waits for the end of transactions that have fired it.
    async fn remove(&mut self) {
        soon(self.0.execute("DROP TRIGGER gate")).await.unwrap();
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_any_statement_leaves_each_event_once_in_mariadb(
    #[values(Death::Database, Death::Server, Death::ServerBeforeCommit)] death: Death,
    #[values(Account::Known, Account::Limited)] account: Account,
) {
    let mut mariadb = OwnServer::start().await;
    let database = Database::on(mariadb.create_database().await);
    let conf = database.config_file(&[("server.grpc.timeout", "5s")]);
    let mut server = ServerProcess::start_beside(&conf).await;
    let further = if account == Account::Limited { &OF_LIMITS[..] } else { &[] };
    for (number, statement) in STATEMENTS.iter().chain(further).enumerate() {
        let user = format!("u{number}");
        let mut client = client_of(&server).await;
        prepare(&mut client, &user, account).await;
        let mut gate = Gate::close(&database, statement, &user).await;
        let sent = send(&client, &user);
        let waiting = gate.waiting().await;
        match death {
            Death::Database => {
                mariadb.kill_and_start_again().await;
                Gate(database.mysql().await).remove().await;
            }
            Death::Server | Death::ServerBeforeCommit => {
                server.kill();
                if death == Death::Server {
                    gate.kill(waiting).await;
                }
                gate.open().await;
                server = ServerProcess::start_beside(&conf).await;
            }
        }
        sent.await.unwrap();
        assert_once(client_of(&server).await, &user, Some(death), statement).await;
    }
    database.assert_audit_is_clean().await;
}

/// A view that takes hours, because SQLite has no locks to wait for.
const SLOW: &str = "CREATE VIEW slow AS WITH RECURSIVE number(value) AS \
    (SELECT 1 UNION ALL SELECT value + 1 FROM number LIMIT 1000000000000) SELECT COUNT(*) AS count FROM number";
/// Failed attempts to write in a row after which the server is taken to stand at the statement.
const BUSY: usize = 20;

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_of_the_server_at_any_statement_leaves_each_event_once_in_a_file() {
    let database = Database::create(Sqlite).await;
    let conf = database.config_file(&[("server.grpc.timeout", "5s")]);
    let mut server = ServerProcess::start_beside(&conf).await;
    database.sqlite().await.execute(SLOW).await.unwrap();
    for (number, statement) in STATEMENTS.iter().chain(&OF_LIMITS).enumerate() {
        let user = format!("u{number}");
        let mut client = client_of(&server).await;
        prepare(&mut client, &user, Account::Limited).await;
        let trigger = format!("CREATE TRIGGER gate {statement} BEGIN SELECT count FROM slow; END");
        database.sqlite().await.execute(AssertSqlSafe(trigger)).await.unwrap();
        let sent = send(&client, &user);
        stands(&database).await;
        server.kill();
        sent.await.unwrap();
        database.sqlite().await.execute("DROP TRIGGER gate").await.unwrap();
        server = ServerProcess::start_beside(&conf).await;
        assert_once(client_of(&server).await, &user, Some(Death::Server), statement).await;
    }
    database.assert_audit_is_clean().await;
}

/// Waits until another process holds the lock of the file, and goes on holding it.
async fn stands(database: &Database) {
    let mut session = database.sqlite().await;
    session.execute("PRAGMA busy_timeout = 0").await.unwrap();
    let mut refused = 0;
    until("the charge stands at the statement", async || {
        match session.execute("BEGIN IMMEDIATE").await {
            Ok(_) => {
                session.execute("ROLLBACK").await.unwrap();
                refused = 0;
            }
            Err(_) => refused += 1,
        }
        refused == BUSY
    })
    .await;
    session.close().await.unwrap();
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_leaves_each_event_once(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(&[]);
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
