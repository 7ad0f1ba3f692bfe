//! Pages of the feed: their bound, and readers beside one that gives positions and does not finish.

use billing_service::service::proto::{ListEventsReply, ListEventsRequest};
use rstest::rstest;
use sqlx::{Connection, Executor};
use uuid::Uuid;

use super::{all, read_on, types};
use crate::{
    account_status::set_status,
    harness::{Backend, MySql, Service, Sqlite},
};

async fn page(service: &Service, request: ListEventsRequest) -> ListEventsReply {
    service.internal.clone().list_events(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_reader_does_not_wait_for_another_one_that_gives_positions() {
    let service = Service::start(MySql).await;
    set_status(&service.internal, "a", "FROZEN").await;
    assert_eq!(all(&service.internal).await.len(), 1);
    // Another reader stands still between its two packets.
    let mut other = service.database.mysql().await;
    let mut placing = other.begin().await.unwrap();
    placing.execute("SELECT position FROM event_feed WHERE id = 1 FOR UPDATE").await.unwrap();
    set_status(&service.internal, "b", "FROZEN").await;
    let placed = page(&service, ListEventsRequest::default()).await;
    assert_eq!((placed.events.len(), placed.has_more), (1, true), "the second event has no position yet");
    placing.rollback().await.unwrap();
    let (rest, _) = read_on(&service.internal, &placed.next, 100).await;
    assert_eq!(rest.iter().map(|event| event.user_id.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[rstest]
#[tokio::test]
async fn a_feed_that_cannot_give_positions_says_so(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    set_status(&service.internal, "a", "FROZEN").await;
    set_status(&service.internal, "a", "ACTIVE").await;
    assert_eq!(all(&service.internal).await.len(), 2);
    // The next position is in use already.
    service.database.execute("UPDATE event_feed SET position = 1").await;
    set_status(&service.internal, "b", "FROZEN").await;
    service.internal.clone().list_events(ListEventsRequest::default()).await.unwrap_err();
    service.database.execute("UPDATE event_feed SET position = 2").await;
    assert_eq!(all(&service.internal).await.len(), 3);
}

#[rstest]
#[tokio::test]
async fn a_page_of_a_rare_type_of_one_user_looks_at_a_bounded_number_of_events(#[values(MySql, Sqlite)] on: Backend) {
    const COMMON: usize = 10_000;
    let service = Service::start(on).await;
    let now = if on == MySql { "UTC_TIMESTAMP(6)" } else { "1790000000000000" };
    let rows: Vec<String> = (1..=COMMON)
        .map(|position| format!("({position}, '{}', 'balance.low', 'u', '{{}}', {now})", Uuid::now_v7()))
        .collect();
    let insert = "INSERT INTO event (position, event_id, type, user_id, data, created_at) VALUES ";
    for rows in rows.chunks(1_000) {
        service.database.execute(&format!("{insert}{}", rows.join(", "))).await;
    }
    service.database.execute(&format!("UPDATE event_feed SET position = {COMMON}")).await;
    set_status(&service.internal, "u", "FROZEN").await;
    let of_user = |after: &str| ListEventsRequest {
        user_id: "u".into(),
        types: "account.status".into(),
        after: after.into(),
        ..Default::default()
    };
    let first = page(&service, of_user("")).await;
    assert_eq!((first.events.len(), first.has_more), (0, true));
    let second = page(&service, of_user(&first.next)).await;
    assert_eq!((types(&second.events), second.has_more), (vec!["account.status"], false));
}
