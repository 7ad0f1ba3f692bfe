//! The history of `make demo`: its books are right, and a second run changes nothing.

use chrono::{DateTime, Utc};

use super::{
    visitor::Visitor,
    year::{DAYS, fill},
};
use crate::harness::{Database, Service, Sqlite, TestClock};

/// As `configs/local.yaml`, on free ports.
pub const SETTINGS: [(&str, &str); 5] = [
    ("console", "{enabled: true, demo_user: demo}"),
    ("billing.model_services", "{llm: tokens}"),
    ("billing.models", "{gpt-4.1: {input: 15, cached_input: 4, output: 60}, gpt-4.1-mini: {input: 3, output: 12}}"),
    ("billing.free_quotas", "{passport: 10000, payment: 1000, asset: 1000, llm: 1000}"),
    ("payment_service", "{sandbox: true, grpc_addr: '127.0.0.1:0'}"),
];

/// The last moment of the history.
pub fn end() -> DateTime<Utc> {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

/// A server over the history, at its end, with further settings.
pub async fn service_with(further: &[(&str, &str)]) -> Service {
    let database = Database::create(Sqlite).await;
    let calls = fill(database.config(&SETTINGS), "demo", end(), DAYS).await.unwrap();
    assert!(calls > 4_000, "{calls}");
    let service = at_the_end(database, further).await;
    super::summed(&service, "demo").await;
    service
}

async fn at_the_end(database: Database, further: &[(&str, &str)]) -> Service {
    let (config, clock) = (database.config(&[&SETTINGS[..], further].concat()), TestClock::real());
    clock.stop_at(end());
    Service::start_with_clock(database, config, clock).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_year_of_a_demo_user_has_right_books_and_comes_once() {
    let service = service_with(&[]).await;
    let before = service.account("demo").await;
    let database = service.database;
    service.app.stop().await;
    database.assert_audit_is_clean().await;
    fill(database.config(&SETTINGS), "demo", end(), DAYS).await.unwrap();
    let service = at_the_end(database, &[]).await;
    let after = service.account("demo").await;
    assert_eq!((after.balance, after.held, after.quotas), (before.balance, before.held, before.quotas));
    assert!(after.balance > 1.0 && after.held > 0.0, "{} {}", after.balance, after.held);
    let visitor = Visitor::of(&service);
    for page in super::PAGES {
        assert!(visitor.get(page).await.html.len() < 100_000, "{page}");
    }
    for month in ["2025-12", "2026-06", "2026-11"] {
        let statement = visitor.get(&format!("/console/statement?month={month}")).await.text();
        assert!(
            statement.contains("Charges \u{b7} llm \u{b7} gpt-4.1") && statement.contains("Top-ups"),
            "{statement}"
        );
    }
}

/// The last step of the history on accounts for which the days before left nothing.
#[tokio::test]
async fn a_call_is_in_progress_on_each_last_day_also_with_an_empty_balance() {
    let database = Database::create(Sqlite).await;
    let last_days = ["2026-02-28T00:00:00Z", "2026-10-01T12:00:00Z", "2026-11-30T23:59:59Z", "2028-02-29T12:00:00Z"];
    for (number, last) in last_days.iter().enumerate() {
        let user = format!("u{number}");
        fill(database.config(&SETTINGS), &user, last.parse().unwrap(), 0).await.unwrap();
        let held =
            database.rows(&["COUNT(*)"], &format!("FROM user_balance WHERE user_id = '{user}' AND held > 0")).await;
        assert_eq!(held, [["1"]], "{last}");
    }
}
