//! One process delivers at a time: the lease, its fence, and the death of its holder.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use billing_service::{
    app,
    biz::{
        jobs::{
            deliver_webhooks::{JOB, SAVED_ROWS},
            runs::{Begun, Run},
        },
        values::ids::{UserId, WebhookId},
        webhooks::{
            delivery::StoredRetry,
            store::{Holder, SavedWebhook},
        },
    },
    data::Store,
};
use chrono::{DateTime, TimeDelta, Utc};
use rstest::rstest;
use tonic::transport::Channel;

use super::{
    SETTINGS, assert_in_order, deliveries, events_of, put,
    receiver::{Answer, Receiver},
    webhook, write_events,
};
use crate::{
    cache::processes::servers::beside,
    harness::{Backend, Database, MySql, Service, Sqlite, caller::Client, process::ServerProcess, wait::until},
};

/// Ends the lease as if its time had passed.
async fn expire_lease(database: &Database) {
    let long_ago = match database.backend {
        MySql => "'2020-01-01'",
        Sqlite => "0",
    };
    database.execute(&format!("UPDATE job_lease SET ends_at = {long_ago} WHERE job = '{JOB}'")).await;
}

async fn client_of(server: &ServerProcess) -> Client {
    Client::new(Channel::from_shared(server.grpc.clone()).unwrap().connect().await.unwrap())
}

/// A run of a server.
pub fn run(owner: &str) -> Run {
    Run { job: JOB, period: "server".into(), is_by_hand: true, owner: owner.into() }
}

/// The progress of the webhook `w`, of which only the position has changed.
pub fn moved_to(position: u64, made_at: DateTime<Utc>) -> SavedWebhook {
    SavedWebhook {
        id: WebhookId::from_stored("w"),
        made_at,
        restarts: 0,
        position,
        attempts: 0,
        accepted: 0,
        failures: 0,
        failing_since: None,
        failed: None,
        retries: Vec::new(),
        ended: Vec::new(),
        log: Vec::new(),
        resent: Vec::new(),
    }
}

async fn position(database: &Database) -> String {
    database.rows(&["position"], "FROM webhook WHERE webhook_id = 'w'").await[0][0].clone()
}

#[rstest]
#[tokio::test]
async fn only_the_holder_of_the_lease_saves_progress(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, &SETTINGS).await;
    put(&service.internal, "w", "http://127.0.0.1:1/").await;
    let Service { app, database, .. } = service;
    app.stop().await;
    let store: Arc<dyn Store> = app::connect(&database.config(&SETTINGS)).await.unwrap();
    let made_at = store.webhooks().await.unwrap().webhooks[0].created_at;
    let change = |position| moved_to(position, made_at);
    let save = async |owner: &str, position: u64| {
        let holder = Holder { job: JOB, owner: owner.into() };
        store.save_deliveries(&holder, &[change(position)]).await.unwrap()
    };
    assert!(!save("one", 5).await, "nobody has the lease");
    assert!(matches!(store.begin_run(&run("one")).await.unwrap(), Begun::Ours { .. }));
    assert!(matches!(store.begin_run(&run("other")).await.unwrap(), Begun::Elsewhere));
    assert!(save("one", 7).await);
    assert!(!save("other", 9).await);
    assert_eq!(position(&database).await, "7");
    expire_lease(&database).await;
    assert!(!save("one", 11).await, "its lease has ended, although nobody has taken it");
    assert!(matches!(store.begin_run(&run("other")).await.unwrap(), Begun::Ours { .. }));
    assert!(!save("one", 13).await);
    assert!(save("other", 15).await);
    assert_eq!(position(&database).await, "15");

    // The progress of a webhook that was deleted and made anew is not that of the new one.
    let earlier = SavedWebhook { made_at: made_at - TimeDelta::microseconds(1), ..change(17) };
    let holder = Holder { job: JOB, owner: "other".into() };
    assert!(store.save_deliveries(&holder, &[earlier]).await.unwrap());
    assert_eq!(position(&database).await, "15");

    // A save of the most rows.
    let keys = || (0..SAVED_ROWS).map(|number| Some(UserId::from_stored(format!("u{number}"))));
    let retry = |key| StoredRetry { key, next: 1, attempts: 1, first_at: None, next_at: made_at, failed_at: None };
    let begun = SavedWebhook { retries: keys().map(retry).collect(), ..change(15) };
    let ended = SavedWebhook { ended: keys().collect(), ..change(15) };
    for (part, left) in [(begun, SAVED_ROWS), (ended, 0)] {
        assert!(store.save_deliveries(&holder, &[part]).await.unwrap());
        let rows = database.rows(&["COUNT(*)"], "FROM webhook_retry").await;
        assert_eq!(rows, [[left.to_string()]]);
    }
    store.close().await;
}

#[rstest]
#[tokio::test]
async fn two_servers_and_a_cron_send_each_event_once(#[values(MySql, Sqlite)] on: Backend) {
    let one = Service::start_with(on, &SETTINGS).await;
    let other = Service::start_on(beside(&one.database), &SETTINGS).await;
    let receiver = Receiver::start().await;
    put(&one.internal, "w", &receiver.url("/a")).await;
    let events = events_of(&["a", "b", "c"], 40);
    for part in events.chunks(30) {
        write_events(&one.database, part.iter().copied()).await;
        // A further process that asks for the lease does not get it.
        let store = app::connect(&beside(&one.database).config(&SETTINGS)).await.unwrap();
        assert!(matches!(store.begin_run(&run("third")).await.unwrap(), Begun::Elsewhere));
        store.close().await;
    }
    until("all arrive", async || receiver.received("/a").len() >= events.len()).await;
    until("all is saved", async || webhook(&one.internal, "w").await.behind == 0).await;
    assert_eq!(receiver.received("/a").len(), events.len(), "each once");
    assert_in_order(&receiver.accepted("/a"), &events);

    // When the holder stops, the other goes on.
    let database = beside(&one.database);
    one.app.stop().await;
    write_events(&database, [("d", 0)]).await;
    until("the other delivers", async || receiver.received("/a").len() > events.len()).await;
    other.app.stop().await;
}

#[tokio::test]
async fn a_server_whose_begin_fails_behind_the_lease_delivers_with_the_same_lease() {
    let database = Database::create(MySql).await;
    // The tables are there, and nobody delivers.
    let Service { app, database, .. } = Service::start_on(database, &[]).await;
    app.stop().await;
    let fail = "CREATE TRIGGER fails BEFORE INSERT ON job_run FOR EACH ROW \
                SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'a failure for a test'";
    database.execute(fail).await;
    let (service, receiver) = (Service::start_on(database, &SETTINGS).await, Receiver::start().await);
    let owner = async || {
        let rows = service.database.rows(&["owner"], &format!("FROM job_lease WHERE job = '{JOB}'")).await;
        rows.first().map(|row| row[0].clone()).unwrap_or_default()
    };
    until("the lease is taken", async || !owner().await.is_empty()).await;
    let first = owner().await;
    service.database.execute("DROP TRIGGER fails").await;
    put(&service.internal, "w", &receiver.url("/a")).await;
    write_events(&service.database, [("u", 0)]).await;
    // Otherwise the lease has nobody for a minute, which is longer than this waits.
    until("the event arrives", async || receiver.received("/a").len() == 1).await;
    assert_eq!(owner().await, first);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_deliverer_loses_no_event_and_no_order(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(&SETTINGS);
    let receiver = Receiver::start().await;
    // Two events fail at their first attempts, so that a user has a retry while the process dies. Further events than
    // these get no answer, so that some are on their way and many are read.
    let answered = Arc::new(AtomicUsize::new(100));
    let (tried, most) = (Mutex::new(BTreeSet::new()), answered.clone());
    receiver.answer("/a", move |received, earlier| {
        if earlier >= most.load(SeqCst) {
            return Answer::Hang;
        }
        let event = received.event();
        let fails = event.0 == "b" && event.1 % 4 == 1 && tried.lock().unwrap().insert(event.1);
        Answer::Status(if fails { 500 } else { 200 })
    });
    let mut server = ServerProcess::start_beside(&conf).await;
    put(&client_of(&server).await, "w", &receiver.url("/a")).await;
    // Many users with few events, which wait in memory, and a user with so many that they wait in a retry.
    let users: Vec<String> = (0..60).map(|user| format!("u{user}")).chain(["b".into(), String::new()]).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let later = events_of(&users, 4).into_iter().map(|(user, number)| (user, number + 4));
    let events: Vec<_> = events_of(&users, 4).into_iter().chain(events_of(&["many"], 60)).chain(later).collect();
    write_events(&database, events.iter().copied()).await;
    for kill in 1..=4 {
        until("one gets no answer", async || receiver.received("/a").len() > answered.load(SeqCst)).await;
        let received = receiver.received("/a");
        let last = received.iter().rev().find(|received| received.accepted).unwrap().header("webhook-id");
        let client = client_of(&server).await;
        until("the answers are saved", async || {
            deliveries(&client, "w", "accepted").await.iter().any(|saved| saved.event_id == last)
        })
        .await;
        server.kill();
        expire_lease(&database).await;
        let next = if kill == 4 { usize::MAX } else { receiver.received("/a").len() + 100 };
        answered.store(next, SeqCst);
        server = ServerProcess::start_beside(&conf).await;
    }
    // The retry waits twice for five seconds of this machine.
    let distinct = || receiver.accepted("/a").into_iter().collect::<BTreeSet<_>>().len();
    until("all arrive", async || distinct() == events.len()).await;
    assert_in_order(&receiver.accepted("/a"), &events);
    let repeats = receiver.accepted("/a").len() - events.len();
    assert!(repeats < 4 * 30, "{repeats} repeats of saved events");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deliverer_that_was_suspended_beyond_its_lease_saves_nothing_any_more(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(&SETTINGS);
    let receiver = Receiver::start().await;
    let (first, mut log) = ServerProcess::start_logged(&conf);
    put(&client_of(&first).await, "w", &receiver.url("/a")).await;
    write_events(&database, [("u", 0)]).await;
    until("the first delivers", async || receiver.received("/a").len() == 1).await;
    until("it has saved", async || webhook(&client_of(&first).await, "w").await.behind == 0).await;
    first.signal("STOP");
    expire_lease(&database).await;
    let second = ServerProcess::start_beside(&conf).await;
    write_events(&database, [("u", 1), ("v", 0)]).await;
    until("the second delivers", async || receiver.received("/a").len() == 3).await;
    until("it has saved", async || webhook(&client_of(&second).await, "w").await.behind == 0).await;
    let saved = position(&database).await;
    first.signal("CONT");
    tokio::task::spawn_blocking(move || {
        log.line(|line| {
            line["fields"]["message"].as_str().is_some_and(|message| message.contains("lease of the webhooks lost"))
        })
    })
    .await
    .unwrap();
    assert_eq!(position(&database).await, saved);
    write_events(&database, [("u", 2)]).await;
    until("the second goes on", async || receiver.accepted("/a").contains(&("u".into(), 2))).await;
    assert_in_order(&receiver.accepted("/a"), &[("u", 0), ("u", 1), ("v", 0), ("u", 2)]);
    drop((first, second));
}
