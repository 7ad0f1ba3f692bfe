//! Receivers that do not accept: down, slow, gone, or every other time.

use std::{collections::BTreeSet, sync::Mutex};

use billing_service::{
    app,
    biz::values::calendar::Clock,
    service::proto::{PutWebhookRequest, RedeliverWebhookRequest},
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use rstest::rstest;

use super::{
    SETTINGS, assert_in_order, deliveries, events_of, put, put_request,
    receiver::{Answer, Receiver},
    start, webhook, write_events,
};
use crate::harness::{Backend, MySql, Service, Sqlite, wait::until};

#[rstest]
#[tokio::test]
async fn a_receiver_that_is_down_for_an_hour_gets_everything_and_holds_nobody_up(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    let began = Utc::now().trunc_subsecs(6);
    let mut now = began;
    service.clock.stop_at(now);
    let clock = service.clock.clone();
    receiver.answer("/down", move |_, _| {
        let is_down = clock.now() < began + TimeDelta::minutes(60);
        Answer::Status(if is_down { 503 } else { 200 })
    });
    for name in ["down", "up"] {
        put(&service.internal, name, &receiver.url(&format!("/{name}"))).await;
    }
    let events = events_of(&["a", "b", "c"], 4);
    write_events(&service.database, events.iter().copied()).await;
    until("the other gets all", async || receiver.received("/up").len() >= events.len()).await;
    assert_in_order(&receiver.accepted("/up"), &events);
    // The attempts of the three users that are saved, newest first.
    let failed = async || {
        let mut failed = deliveries(&service.internal, "down", "failed").await;
        failed.retain(|failed| !failed.user_id.starts_with("marker"));
        failed
    };
    until("each user was tried once", async || failed().await.len() == 3).await;
    let state = webhook(&service.internal, "down").await;
    assert_eq!((state.state.as_str(), state.failures), ("failing", 3));
    assert!(failed().await.iter().all(|failed| failed.status == 503 && failed.failure == "status"));

    // The pauses are as stated: before a pause ends nothing is tried, and after it every user is, once.
    for (round, pause) in [5, 30, 120, 600].into_iter().enumerate() {
        let tries = 3 * (round + 1);
        let earliest = now + TimeDelta::seconds(pause);
        for failed in failed().await.iter().take(3) {
            let planned = failed.next_at.unwrap();
            let planned = DateTime::from_timestamp(planned.seconds, planned.nanos.try_into().unwrap()).unwrap();
            let latest = earliest + TimeDelta::seconds(pause) / 10;
            assert!((earliest..=latest).contains(&planned), "{planned} in place of {earliest}");
        }
        service.clock.stop_at(earliest - TimeDelta::milliseconds(1));
        // A further event for the other webhook shows that the deliverer has looked at the new time.
        let marker = format!("marker{pause}");
        write_events(&service.database, [(marker.as_str(), 0)]).await;
        until("the marker arrives", async || receiver.received("/up").len() == events.len() + round + 1).await;
        assert_eq!(failed().await.len(), tries, "nothing is tried before {pause} s");
        now = earliest + TimeDelta::seconds(pause) / 10;
        service.clock.stop_at(now);
        until("every user is tried again", async || failed().await.len() == tries + 3).await;
    }
    assert!(receiver.accepted("/down").is_empty());
    now += TimeDelta::minutes(66);
    service.clock.stop_at(now);
    until("all arrive after the hour", async || receiver.accepted("/down").len() >= events.len() + 4).await;
    let mut of_users = receiver.accepted("/down");
    of_users.retain(|(user, _)| !user.starts_with("marker"));
    assert_in_order(&of_users, &events);
    assert_eq!(of_users.len(), events.len(), "each was accepted once");
    until("it is well again", async || webhook(&service.internal, "down").await.state == "active").await;
    until("nothing waits", async || webhook(&service.internal, "down").await.behind == 0).await;
    until("no user waits", async || service.database.rows(&["COUNT(*)"], "FROM webhook_retry").await == [["0"]]).await;
}

#[rstest]
#[tokio::test]
async fn a_receiver_that_fails_every_other_time_gets_everything_in_order(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    // Every other attempt at each event.
    let failed = Mutex::new(BTreeSet::new());
    receiver.answer("/a", move |received, _| {
        let (mut failed, event) = (failed.lock().unwrap(), received.event());
        Answer::Status(if failed.remove(&event) || !failed.insert(event) { 200 } else { 500 })
    });
    put(&service.internal, "w", &receiver.url("/a")).await;
    let events = events_of(&["a", "b", "", "c"], 6);
    write_events(&service.database, events.iter().copied()).await;
    until("all arrive", async || {
        service.clock.advance(TimeDelta::seconds(6));
        receiver.accepted("/a").len() >= events.len()
    })
    .await;
    assert_in_order(&receiver.accepted("/a"), &events);
    assert_eq!(receiver.received("/a").len(), 2 * events.len());
}

#[rstest]
#[tokio::test]
async fn the_failures_of_one_user_hold_no_other_user_up(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    receiver.answer("/a", |received, _| Answer::Status(if received.event().0 == "bad" { 422 } else { 200 }));
    put(&service.internal, "w", &receiver.url("/a")).await;
    let events = events_of(&["bad", "x", "y"], 20);
    write_events(&service.database, events.iter().copied()).await;
    until("the others get theirs", async || receiver.accepted("/a").len() == 40).await;
    let bad = receiver.received("/a").into_iter().filter(|received| received.event().0 == "bad");
    assert_eq!(bad.map(|received| received.event().1).collect::<Vec<_>>(), [0], "only the first one was tried");
    receiver.answer("/a", |_, _| Answer::Status(200));
    until("the rest arrives", async || {
        service.clock.advance(TimeDelta::seconds(6));
        receiver.accepted("/a").len() == events.len()
    })
    .await;
    assert_in_order(&receiver.accepted("/a"), &events);
}

#[rstest]
#[tokio::test]
async fn a_slow_receiver_holds_nobody_up_and_its_events_are_repeated(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    receiver.answer("/slow", |_, earlier| if earlier < 3 { Answer::Hang } else { Answer::Status(204) });
    for name in ["slow", "fast"] {
        put(&service.internal, name, &receiver.url(&format!("/{name}"))).await;
    }
    let users = ["a", "b", "c"];
    let events = events_of(&users, 30);
    write_events(&service.database, events.iter().copied()).await;
    until("the fast one gets all", async || receiver.received("/fast").len() == events.len()).await;
    assert_eq!(receiver.received("/slow").len(), 3, "one of each user is on its way");
    assert!(receiver.accepted("/slow").is_empty());
    // The limit of an attempt is ten real seconds.
    until("the attempts end", async || deliveries(&service.internal, "slow", "failed").await.len() == 3).await;
    let failed = deliveries(&service.internal, "slow", "failed").await;
    assert!(failed.iter().all(|failed| failed.failure == "timeout" && failed.took_ms >= 9_900), "{failed:?}");
    service.clock.advance(TimeDelta::seconds(6));
    until("the slow one gets all", async || receiver.accepted("/slow").len() >= events.len()).await;
    assert_in_order(&receiver.accepted("/slow"), &events);
    receiver.release();
}

#[rstest]
#[tokio::test]
async fn redirects_are_not_followed_and_broken_answers_are_repeated(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    let elsewhere = receiver.url("/elsewhere");
    receiver.answer("/moved", move |_, _| Answer::Redirect(elsewhere.clone()));
    receiver.answer("/closes", |_, earlier| if earlier == 0 { Answer::Close } else { Answer::Status(200) });
    for name in ["moved", "closes"] {
        put(&service.internal, name, &receiver.url(&format!("/{name}"))).await;
    }
    // Nobody listens here.
    put(&service.internal, "nobody", "http://127.0.0.1:1/").await;
    put(&service.internal, "unknown", "http://no-such-host.invalid/").await;
    write_events(&service.database, [("u", 0)]).await;
    for (name, failure, status) in
        [("moved", "redirect", 307), ("closes", "closed", 0), ("nobody", "connect", 0), ("unknown", "connect", 0)]
    {
        until("the attempt fails", async || !deliveries(&service.internal, name, "failed").await.is_empty()).await;
        let failed = &deliveries(&service.internal, name, "failed").await[0];
        assert_eq!((failed.failure.as_str(), failed.status), (failure, status), "{name}");
    }
    service.clock.advance(TimeDelta::seconds(6));
    until("the broken one is repeated", async || receiver.accepted("/closes").len() == 1).await;
    until("the redirect is met again", async || receiver.received("/moved").len() == 2).await;
    assert!(receiver.received("/elsewhere").is_empty(), "the redirect was followed");
    let metrics = service.metrics().await;
    assert!(metrics.contains("billing_webhook_failed_total{reason=\"closed\"} 1\n"), "{metrics}");
}

#[rstest]
#[tokio::test]
async fn a_webhook_that_is_gone_ends_at_once_until_it_is_activated(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    receiver.answer("/gone", |_, _| Answer::Status(410));
    put(&service.internal, "w", &receiver.url("/gone")).await;
    put(&service.internal, "other", &receiver.url("/other")).await;
    let events = events_of(&["u"], 5);
    write_events(&service.database, events.iter().copied()).await;
    until("it has failed", async || webhook(&service.internal, "w").await.state == "failed").await;
    let failed = webhook(&service.internal, "w").await;
    assert!(failed.reason.contains("410") && failed.failed_at.is_some(), "{failed:?}");
    service.clock.advance(TimeDelta::days(2));
    write_events(&service.database, [("v", 0)]).await;
    until("the other goes on", async || receiver.received("/other").len() == 6).await;
    assert_eq!(receiver.received("/gone").len(), 1);
    until("the metrics show it", async || service.metrics().await.contains("\nbilling_webhooks_failed 1\n")).await;

    // Its events wait for it.
    receiver.answer("/gone", |_, _| Answer::Status(200));
    let again = PutWebhookRequest { active: Some(true), ..put_request("w", &receiver.url("/gone")) };
    let reply = service.internal.clone().put_webhook(again).await.unwrap().into_inner();
    assert!(reply.changed && reply.secret.is_empty());
    until("all arrive", async || receiver.accepted("/gone").len() == 6).await;
    assert_in_order(&receiver.accepted("/gone"), &[events, vec![("v", 0)]].concat());
}

#[rstest]
#[tokio::test]
async fn a_webhook_fails_when_an_event_was_not_accepted_for_three_days(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    receiver.answer("/a", |_, _| Answer::Status(500));
    put(&service.internal, "w", &receiver.url("/a")).await;
    let began = Utc::now().trunc_subsecs(6);
    service.clock.stop_at(began);
    write_events(&service.database, events_of(&["u"], 3)).await;
    // The clock goes from each attempt to the next.
    let mut attempts = 0;
    let planned = loop {
        until("a further attempt is saved", async || {
            deliveries(&service.internal, "w", "failed").await.len() > attempts
        })
        .await;
        let last = deliveries(&service.internal, "w", "failed").await.remove(0);
        attempts += 1;
        match last.next_at {
            Some(next) => {
                let next = DateTime::from_timestamp(next.seconds, next.nanos.try_into().unwrap()).unwrap();
                service.clock.stop_at(next);
            }
            None => break last.began_at.unwrap(),
        }
    };
    let last = DateTime::from_timestamp(planned.seconds, planned.nanos.try_into().unwrap()).unwrap();
    assert_eq!(last - began, TimeDelta::days(3), "the last attempt is at the end of three days");
    until("it has failed", async || webhook(&service.internal, "w").await.state == "failed").await;
    let failed = webhook(&service.internal, "w").await;
    assert!(failed.reason.contains("three days") && failed.failed_at.is_some(), "{failed:?}");
    let tries = receiver.received("/a");
    assert_eq!(tries.len(), attempts);
    assert!((15..=18).contains(&attempts), "{attempts} attempts");
    assert!(tries.iter().all(|tried| tried.event() == ("u".into(), 0)), "a later event came first");
    assert_eq!(
        tries.iter().map(|tried| tried.header("webhook-id")).collect::<std::collections::BTreeSet<_>>().len(),
        1
    );
    until("the metrics show it", async || service.metrics().await.contains("\nbilling_webhooks_failed 1\n")).await;

    // RedeliverWebhook without an event goes on from where it stopped.
    receiver.answer("/a", |_, _| Answer::Status(200));
    let all = RedeliverWebhookRequest { webhook_id: "w".into(), event_id: String::new() };
    service.internal.clone().redeliver_webhook(all).await.unwrap();
    until("all arrive", async || receiver.accepted("/a").len() == 3).await;
    assert_in_order(&receiver.accepted("/a"), &events_of(&["u"], 3));
}

#[rstest]
#[tokio::test]
async fn a_user_whose_event_was_not_accepted_for_three_days_fails_alone(#[values(MySql, Sqlite)] on: Backend) {
    let (service, receiver) = (start(on).await, Receiver::start().await);
    receiver.answer("/a", |received, _| Answer::Status(if received.event().0 == "bad" { 422 } else { 200 }));
    put(&service.internal, "w", &receiver.url("/a")).await;
    let began = Utc::now().trunc_subsecs(6);
    service.clock.stop_at(began);
    write_events(&service.database, events_of(&["bad"], 2)).await;
    let failed = async || deliveries(&service.internal, "w", "failed").await;
    for round in 0.. {
        until("a further attempt is saved", async || failed().await.len() > round).await;
        let Some(next) = failed().await.remove(0).next_at else { break };
        // Another user has an event in between.
        write_events(&service.database, [("good", round as i64)]).await;
        until("the other event arrives", async || receiver.accepted("/a").len() > round).await;
        service.clock.stop_at(DateTime::from_timestamp(next.seconds, next.nanos.try_into().unwrap()).unwrap());
    }
    until("the user has failed", async || webhook(&service.internal, "w").await.failed_users == 1).await;
    let shown = webhook(&service.internal, "w").await;
    assert!(shown.failed_at.is_none() && shown.state != "failed", "{shown:?}");
    until("the metrics show it", async || {
        let metrics = service.metrics().await;
        metrics.contains("\nbilling_webhook_failed_users 1\n") && metrics.contains("\nbilling_webhook_held_back 0\n")
    })
    .await;

    // Nothing of the user is sent any more, also by another process. Others go on.
    let (tries, accepted) = (failed().await.len(), receiver.accepted("/a").len());
    let clock = service.clock.clone();
    let Service { app, database, .. } = service;
    app.stop().await;
    let service = Service::start_on(database, &SETTINGS).await;
    service.clock.stop_at(clock.now() + TimeDelta::days(1));
    write_events(&service.database, [("bad", 2), ("good", 100)]).await;
    until("the others go on", async || receiver.accepted("/a").len() > accepted).await;
    until("nothing is unread", async || webhook(&service.internal, "w").await.behind == 0).await;
    assert_eq!(deliveries(&service.internal, "w", "failed").await.len(), tries);

    // The events that wait are sent in their order when an operator asks for them.
    receiver.answer("/a", |_, _| Answer::Status(200));
    let all = RedeliverWebhookRequest { webhook_id: "w".into(), event_id: String::new() };
    service.internal.clone().redeliver_webhook(all).await.unwrap();
    until("the user gets all", async || receiver.accepted("/a").iter().filter(|(user, _)| user == "bad").count() == 3)
        .await;
    let of_user: Vec<_> = receiver.accepted("/a").into_iter().filter(|(user, _)| user == "bad").collect();
    assert_in_order(&of_user, &events_of(&["bad"], 3));
    until("nobody has failed", async || webhook(&service.internal, "w").await.failed_users == 0).await;
}

#[rstest]
#[tokio::test]
async fn a_failed_webhook_is_counted_although_the_retries_cannot_be(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    put(&service.internal, "w", "http://127.0.0.1:1/").await;
    service.database.execute("DROP TABLE webhook_retry").await;
    let failed = match on {
        MySql => "UPDATE webhook SET failed_at = UTC_TIMESTAMP(6), reason = 'gone'",
        Sqlite => "UPDATE webhook SET failed_at = 1, reason = 'gone'",
    };
    service.database.execute(failed).await;
    until("the alert has its gauge", async || service.metrics().await.contains("\nbilling_webhooks_failed 1\n")).await;
}

#[rstest]
#[tokio::test]
async fn the_retries_of_a_failed_webhook_do_not_count_and_its_failed_users_are_still_listed(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let service = start(on).await;
    let database = &service.database;
    for id in ["active", "failed"] {
        put(&service.internal, id, "http://127.0.0.1:1/").await;
    }
    // The server does not try them in the meantime.
    let (at, next) = match on {
        MySql => ("UTC_TIMESTAMP(6)", "UTC_TIMESTAMP(6) + INTERVAL 1 DAY"),
        Sqlite => ("1", "9000000000000000"),
    };
    for id in ["active", "failed"] {
        let rows = format!("('{id}', 'a', 1, 1, {at}, {next}, NULL), ('{id}', 'b', 1, 9, {at}, {next}, {at})");
        let columns = "webhook_id, user_id, next_position, attempts, first_at, next_at, failed_at";
        database.execute(&format!("INSERT INTO webhook_retry ({columns}) VALUES {rows}")).await;
    }
    database.execute(&format!("UPDATE webhook SET failed_at = {at}, reason = 'x' WHERE webhook_id = 'failed'")).await;
    let store = app::connect(&database.config(&SETTINGS)).await.unwrap();
    let sums = store.retry_sums().await.unwrap();
    let sums: Vec<_> = sums.iter().map(|sum| (sum.webhook.as_str(), sum.retries, sum.failed)).collect();
    assert_eq!(sums, [("active", 1, 1)]);
    store.close().await;
    let (active, failed) = (webhook(&service.internal, "active").await, webhook(&service.internal, "failed").await);
    assert_eq!((active.held_back_users, active.failed_users), (1, 1));
    assert_eq!((failed.held_back_users, failed.failed_users), (0, 1));
}
