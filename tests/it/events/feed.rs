//! The feed: filters, cursors, and readers that miss nothing.

use std::collections::BTreeMap;

use billing_service::service::proto::ListEventsRequest;
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, Row};
use tonic::Code;

use super::{all, data, read_on, types};
use crate::{
    account_status::set_status,
    cache::processes::servers::pair,
    harness::{Backend, MySql, Service, Sqlite, caller::Client, code_of},
};

#[rstest]
#[tokio::test]
async fn the_list_filters_by_type_and_user_and_its_cursor_goes_on(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for user in ["a", "b", "a", "b"] {
        set_status(&service.internal, user, "FROZEN").await;
        set_status(&service.internal, user, "ACTIVE").await;
    }
    service.use_up_free_quota("c", "asset").await;
    let (status, body) = service.internal_get("/internal/v1/billing/events?user_id=a&limit=3").await;
    assert_eq!((status, body["events"].as_array().unwrap().len(), &body["has_more"]), (200, 3, &json!(true)));
    let next = body["next"].as_str().unwrap();
    let (_, rest) = service.internal_get(&format!("/internal/v1/billing/events?user_id=a&limit=3&after={next}")).await;
    assert_eq!((rest["events"].as_array().unwrap().len(), &rest["has_more"]), (1, &json!(false)));
    let (_, typed) = service.internal_get("/internal/v1/billing/events?types=quota.threshold,month.closed").await;
    let percents: Vec<i64> = typed["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            serde_json::from_str::<Value>(event["data"].as_str().unwrap()).unwrap()["percent"].as_i64().unwrap()
        })
        .collect();
    assert_eq!(percents, [50, 80, 100]);
    // One page at a time shows the same as all at once.
    assert_eq!(read_on(&service.internal, "", 1).await.0, all(&service.internal).await);
    for bad in ["after=x", "types=none", "limit=1001", "limit=-1"] {
        assert_eq!(service.internal_get(&format!("/internal/v1/billing/events?{bad}")).await.0, 400, "{bad}");
    }
}

#[rstest]
#[tokio::test]
async fn a_cursor_from_before_a_restore_of_an_older_copy_is_refused(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for status in ["FROZEN", "ACTIVE", "FROZEN"] {
        set_status(&service.internal, "u", status).await;
    }
    let (events, cursor) = read_on(&service.internal, "", 100).await;
    assert_eq!(events.len(), 3);
    service.database.execute("DELETE FROM event WHERE position > 1").await;
    service.database.execute("UPDATE event_feed SET position = 1").await;
    let request = ListEventsRequest { after: cursor, ..Default::default() };
    let refused = service.internal.clone().list_events(request.clone()).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()));
    assert!(refused.message().starts_with("after: is of another feed"), "{refused:?}");
    assert_eq!(all(&service.internal).await, events[..1]);
    // The feed has grown beyond the cursor, by other events.
    for status in ["ACTIVE", "FROZEN", "ACTIVE"] {
        set_status(&service.internal, "u", status).await;
    }
    assert_eq!(all(&service.internal).await.len(), 4);
    let refused = service.internal.clone().list_events(request).await.unwrap_err();
    assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()));
}

#[tokio::test]
async fn an_event_that_becomes_visible_late_comes_behind_the_cursor() {
    let service = Service::start(MySql).await;
    set_status(&service.internal, "a", "FROZEN").await;
    let (first, cursor) = read_on(&service.internal, "", 100).await;
    assert_eq!(types(&first), ["account.status"]);
    // This transaction takes its number before the next one, and commits after it.
    let mut late = service.database.mysql().await;
    let mut transaction = late.begin().await.unwrap();
    transaction
        .execute(
            "INSERT INTO event (event_id, type, data, created_at) \
             VALUES ('01a1fdc0-db6d-77eb-953c-86aecbccde43', 'month.closed', '{}', UTC_TIMESTAMP(6))",
        )
        .await
        .unwrap();
    set_status(&service.internal, "b", "FROZEN").await;
    let (second, cursor) = read_on(&service.internal, &cursor, 100).await;
    assert_eq!(second.iter().map(|event| event.user_id.as_str()).collect::<Vec<_>>(), ["b"]);
    transaction.commit().await.unwrap();
    let (third, cursor) = read_on(&service.internal, &cursor, 100).await;
    assert_eq!(types(&third), ["month.closed"]);
    assert!(read_on(&service.internal, &cursor, 100).await.0.is_empty());
    let seqs = sqlx::query("SELECT seq FROM event ORDER BY position").fetch_all(&mut late).await.unwrap();
    let seqs: Vec<i64> = seqs.iter().map(|row| row.get(0)).collect();
    assert!(seqs[2] < seqs[1], "the late event has the lower number: {seqs:?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_beside_writers_on_two_servers_miss_nothing(#[values(MySql, Sqlite)] on: Backend) {
    let (one, other) = pair(on).await;
    assert_readers_miss_nothing(&one, &other).await;
}

/// Two servers write events, and a reader of each reads them meanwhile.
pub async fn assert_readers_miss_nothing(one: &Service, other: &Service) {
    const USERS: usize = 6;
    const CHANGES: usize = 15;
    let writers = (0..USERS).map(|user| {
        let server = if user % 2 == 0 { one } else { other };
        async move {
            for change in 0..CHANGES {
                let status = if change % 2 == 0 { "FROZEN" } else { "ACTIVE" };
                set_status(&server.internal, &format!("u{user}"), status).await;
            }
        }
    });
    let reader = async |client: &Client| {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        while seen.len() < USERS * CHANGES {
            let (events, next) = read_on(client, &cursor, 7).await;
            seen.extend(events);
            cursor = next;
        }
        seen
    };
    let (_, first, second) = tokio::join!(join_all(writers), reader(&one.internal), reader(&other.internal));
    assert_eq!(first, second);
    assert_eq!(first, all(&one.internal).await);
    let mut by_user: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for event in &first {
        by_user.entry(&event.user_id).or_default().push(data(event)["after"].clone());
    }
    for (user, states) in by_user {
        let expected: Vec<_> = (0..CHANGES).map(|change| if change % 2 == 0 { "FROZEN" } else { "ACTIVE" }).collect();
        assert_eq!(states, expected, "{user}");
    }
}
