//! The jobs of events: each month closes once, and old events are deleted.

use billing_service::{
    app::{
        self,
        cron::{Job, Runner},
    },
    biz::events::closing::announce_closed_months,
};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Counted, runner};
use crate::{
    account_status::set_status,
    events::{all, read_on},
    harness::{Backend, MySql, Service, Sqlite},
};

async fn lines(runner: &Runner, job: Job) -> Vec<String> {
    runner.run_now(job, false, &Counted::all()).await.unwrap().unwrap().lines
}

#[rstest]
#[tokio::test]
async fn each_month_that_closes_leaves_one_event(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let runner = runner(service.database.config(&[]), &service.clock, CancellationToken::new()).await;
    let none = ["close-months: 0 months have closed"];
    // October closed before the first run, and is no news.
    service.clock.set("2026-11-20T04:00:00Z");
    assert_eq!(lines(&runner, Job::CloseMonths).await, none);
    service.clock.set("2026-12-03T15:59:59Z");
    assert_eq!(lines(&runner, Job::CloseMonths).await, none);
    service.clock.set("2026-12-03T16:00:01Z");
    let dry = runner.dry_run(Job::CloseMonths, &Counted::all()).await.unwrap().lines;
    assert_eq!(dry, ["close-months: the months after 2026-10 up to 2026-11 have closed"]);
    assert!(all(&service.internal).await.is_empty());
    let closed = ["close-months: 2026-11 has closed", "close-months: 1 month has closed"];
    assert_eq!(lines(&runner, Job::CloseMonths).await, closed);
    assert_eq!(lines(&runner, Job::CloseMonths).await, none);
    // No cron ran for two months.
    service.clock.set("2027-02-20T04:00:00Z");
    assert_eq!(lines(&runner, Job::CloseMonths).await.last().unwrap(), "close-months: 2 months have closed");
    let events = all(&service.internal).await;
    let months: Vec<_> = events.iter().map(|event| (event.r#type.as_str(), event.data.as_str())).collect();
    let closed = |month: &str| json!({"month": month}).to_string();
    let expected = ["2026-11", "2026-12", "2027-01"].map(closed);
    assert_eq!(months, expected.iter().map(|month| ("month.closed", month.as_str())).collect::<Vec<_>>());
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crons_that_close_a_month_at_once_leave_one_event(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let config = service.database.config(&[]);
    let calendar = config.calendar(service.clock.clone());
    let crons = [app::connect(&config).await.unwrap(), app::connect(&config).await.unwrap()];
    service.clock.set("2026-11-20T04:00:00Z");
    announce_closed_months(&*crons[0], &calendar).await.unwrap();
    service.clock.set("2026-12-20T04:00:00Z");
    let announced = join_all((0..8).map(|number| announce_closed_months(&*crons[number % 2], &calendar))).await;
    // One that finds the row locked by another changes nothing.
    assert!(announced.iter().any(Result::is_ok), "{announced:?}");
    let events = all(&service.internal).await;
    assert_eq!(events.iter().map(|event| event.r#type.as_str()).collect::<Vec<_>>(), ["month.closed"]);
}

#[rstest]
#[tokio::test]
async fn old_events_are_deleted_and_a_cursor_goes_on_behind_them(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-10-01T04:00:00Z");
    set_status(&service.internal, "a", "FROZEN").await;
    set_status(&service.internal, "b", "FROZEN").await;
    let (_, cursor) = read_on(&service.internal, "", 1).await;
    service.clock.set("2026-11-20T04:00:00Z");
    set_status(&service.internal, "c", "FROZEN").await;
    let runner = runner(service.database.config(&[]), &service.clock, CancellationToken::new()).await;
    let dry = runner.dry_run(Job::ExpireEvents, &Counted::all()).await.unwrap().lines;
    assert_eq!(dry, ["expire-events: 2 events would be deleted"]);
    assert_eq!(lines(&runner, Job::ExpireEvents).await, ["expire-events: 2 events deleted"]);
    for after in ["", &cursor] {
        let users: Vec<_> =
            read_on(&service.internal, after, 10).await.0.into_iter().map(|event| event.user_id).collect();
        assert_eq!(users, ["c"], "after {after:?}");
    }
    assert_eq!(lines(&runner, Job::ExpireEvents).await, ["expire-events: 0 events deleted"]);
}

#[rstest]
#[tokio::test]
async fn old_events_behind_a_young_one_are_deleted_too(#[values(MySql, Sqlite)] on: Backend) {
    const OLD: usize = 1_010;
    let service = Service::start(on).await;
    service.clock.set("2026-11-20T04:00:00Z");
    let at = |old: bool| match (on, old) {
        (MySql, true) => "'2026-10-01 04:00:00'",
        (MySql, false) => "'2026-11-20 04:00:00'",
        (_, true) => "1790827200000000",
        (_, false) => "1795147200000000",
    };
    // The clock of one server was ahead.
    let rows: Vec<String> = (0..=OLD)
        .map(|number| format!("('{}', 'month.closed', '{{}}', {})", Uuid::now_v7(), at(number != 7)))
        .collect();
    let insert = "INSERT INTO event (event_id, type, data, created_at) VALUES ";
    service.database.execute(&format!("{insert}{}", rows.join(", "))).await;
    let runner = runner(service.database.config(&[]), &service.clock, CancellationToken::new()).await;
    let dry = runner.dry_run(Job::ExpireEvents, &Counted::all()).await.unwrap().lines;
    assert_eq!(dry, [format!("expire-events: {OLD} events would be deleted")]);
    assert_eq!(lines(&runner, Job::ExpireEvents).await, [format!("expire-events: {OLD} events deleted")]);
    assert_eq!(all(&service.internal).await.len(), 1);
}
