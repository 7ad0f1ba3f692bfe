//! Stored texts of a later release, and damaged ones. They stop neither a charge nor the feed.

use rstest::rstest;

use super::{all, types};
use crate::harness::{Backend, MySql, Service, Sqlite, charge, code_of, traced};

const LATER: &str = r#"{"levels":{}}"#;

#[rstest]
#[tokio::test]
async fn alerts_that_cannot_be_read_stop_no_charge_and_keep_their_text(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.adjust("u", 1.0).await;
    service.database.execute(&format!("UPDATE user_balance SET alerts = '{LATER}'")).await;
    service.deduct(traced("half", charge("u", "asset", 500))).await;
    let refused = service.try_deduct(traced("dear", charge("u", "asset", 5_000))).await.unwrap_err();
    assert_eq!(code_of(&refused).1, "10001");
    let events = all(&service.internal).await;
    assert_eq!(types(&events), ["quota.threshold", "balance.exhausted"], "the configured percentages");
    let stored = service.database.rows(&["alerts"], "FROM user_balance").await;
    assert_eq!(stored, [[LATER]], "the flag was written, and the text is the same");
    let report = service.database.audit().await;
    let found: Vec<_> = report.differences.iter().map(ToString::to_string).collect();
    assert!(
        found.len() == 1 && found[0].starts_with("user u: stored row says stored alerts is not valid"),
        "{found:?}"
    );
}

#[rstest]
#[tokio::test]
async fn an_event_of_an_unknown_type_is_listed_with_its_type(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let now = if on == MySql { "UTC_TIMESTAMP(6)" } else { "1790000000000000" };
    let values = format!("('01a1fdc0-db6d-77eb-953c-86aecbccde43', 'invoice.issued', '{{}}', {now})");
    service.database.execute(&format!("INSERT INTO event (event_id, type, data, created_at) VALUES {values}")).await;
    assert_eq!(types(&all(&service.internal).await), ["invoice.issued"]);
}
