//! Deaths at the statements of a report that tells of the stop of a stream. Then the gateway opens the stream again.

use billing_service::service::proto::{ReserveQuotaRequest, StreamFinish};
use rstest::rstest;

use super::{
    client_of, data, events_of,
    gate::{Death, Gate, SlowGate},
    types,
};
use crate::{
    harness::{
        Database, Sqlite, caller::Client, load::credit, mariadb::OwnServer, process::ServerProcess, wait::until,
    },
    metering::{Gateway, models_with, stream},
};

/// The statements of the report, in no order.
const STATEMENTS: [&str; 3] =
    ["BEFORE UPDATE ON billing_transaction", "BEFORE INSERT ON event", "AFTER INSERT ON event"];

fn stream_of(user: &str) -> ReserveQuotaRequest {
    ReserveQuotaRequest { user_id: user.into(), ..stream("s", "rag", "dear", (1, 3)) }
}

/// A broken stream waits for its gateway, so that its charge does not tell of the stop in place of a report.
fn settings() -> Vec<(&'static str, &'static str)> {
    let patient = ("billing.streams", "{progress: 20ms, grace: 10m, idle_timeout: 10m}");
    [&models_with(patient.0, patient.1)[..], &[("server.grpc.timeout", "5s")]].concat()
}

/// Opens a stream whose next token uses up hold and balance.
async fn open(client: &mut Client, user: &str) -> Gateway {
    client.adjust_balance(credit(user, 10.0)).await.unwrap();
    let (mut gateway, _) = Gateway::try_open(client.clone(), stream_of(user)).await.unwrap();
    let state = gateway.deliver_durably(0, 8).await;
    assert_eq!((state.held, state.stop), (10.0, false));
    gateway
}

async fn stop(gateway: &mut Gateway) {
    gateway.output(" hello").await;
    gateway.state(|state| state.stop).await;
}

/// Opens the stream again, is told to stop again, and finishes. The stop left one event.
async fn assert_once(client: Client, user: &str, death: &str) {
    let mut opened = None;
    until("the stream is open again", async || {
        opened = Gateway::try_open(client.clone(), stream_of(user)).await.ok();
        opened.is_some()
    })
    .await;
    let (mut gateway, again) = opened.unwrap();
    assert!(again.replayed);
    // A gateway sends all output again. This is more than hold and balance, whether the ninth token was counted or lost.
    gateway.output(" hello".repeat(12)).await;
    gateway.state(|state| state.stop).await;
    gateway.finish(StreamFinish::default()).await.unwrap();
    let events: Vec<_> = events_of(&client, user).await.into_iter().filter(|e| e.r#type == "stream.stopped").collect();
    assert_eq!(types(&events), ["stream.stopped"], "after a death at {death}");
    assert_eq!(data(&events[0])["cause"], "balance");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_a_statement_of_a_stop_leaves_its_event_once_in_mariadb(
    #[values(Death::Database, Death::Server, Death::ServerBeforeCommit)] death: Death,
) {
    let mut mariadb = OwnServer::start().await;
    let database = Database::on(mariadb.create_database().await);
    let conf = database.config_file(&settings());
    let mut server = ServerProcess::start_beside(&conf).await;
    for (number, statement) in STATEMENTS.iter().enumerate() {
        let user = format!("u{number}");
        let mut gateway = open(&mut client_of(&server).await, &user).await;
        let gate = Gate::close(&database, statement, &user).await;
        stop(&mut gateway).await;
        gate.die(death, &mut mariadb, &database, &mut server, &conf).await;
        drop(gateway);
        assert_once(client_of(&server).await, &user, statement).await;
    }
    database.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_of_the_server_at_a_statement_of_a_stop_leaves_its_event_once_in_a_file() {
    let database = Database::create(Sqlite).await;
    let conf = database.config_file(&settings());
    let mut server = ServerProcess::start_beside(&conf).await;
    SlowGate::prepare(&database).await;
    for (number, statement) in STATEMENTS.iter().enumerate() {
        let user = format!("u{number}");
        let mut gateway = open(&mut client_of(&server).await, &user).await;
        let gate = SlowGate::close(&database, statement).await;
        stop(&mut gateway).await;
        gate.die(&mut server, &conf).await;
        drop(gateway);
        assert_once(client_of(&server).await, &user, statement).await;
    }
    database.assert_audit_is_clean().await;
}
