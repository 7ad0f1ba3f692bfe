//! A narrow row and its content must agree. The whole audit names each pair that does not, and no charge is made on it.

use rstest::rstest;

use super::{a_year, keep_months};
use crate::harness::{Backend, MySql, Service, Sqlite, charge, traced};

/// The lines of the whole audit.
async fn found(service: &Service) -> Vec<String> {
    service.database.audit().await.differences.iter().map(ToString::to_string).collect()
}

#[rstest]
#[tokio::test]
async fn the_whole_audit_names_each_narrow_row_that_disagrees_with_its_content(#[values(MySql, Sqlite)] on: Backend) {
    for (damage, line) in [
        ("DELETE FROM billing_transaction_archive WHERE {first}", "archived transaction first without its content"),
        (
            "DELETE FROM billing_transaction WHERE {first}",
            "archived transaction first with status COMMITTED without a row in billing_transaction",
        ),
        (
            "UPDATE billing_transaction SET status = 'COMMITTED' WHERE {first}",
            "archived transaction first with status COMMITTED although the row in billing_transaction is not archived",
        ),
        (
            "UPDATE billing_transaction_archive SET status = 'RELEASED' WHERE {first}",
            "archived transaction first with status RELEASED with another status or time than its narrow row allows",
        ),
        (
            "UPDATE billing_transaction_archive SET user_id = 'only here' WHERE {first}",
            "user only here: stored row says archived transaction first",
        ),
    ] {
        let service = a_year(on).await;
        service.clock.set("2026-01-07T04:00:00Z");
        service.deduct(traced("first", charge("ann", "asset", 3))).await;
        service.clock.set("2026-11-21T04:00:00Z");
        keep_months(&service.database, &service.clock, 1).await;
        assert_eq!(found(&service).await, [""; 0]);
        service.database.execute(&damage.replace("{first}", "user_id = 'ann' AND trace_id = 'first'")).await;
        let lines = found(&service).await;
        assert!(lines.iter().any(|found| found.contains(line)), "{damage}: {lines:#?}");
    }
}

#[rstest]
#[tokio::test]
async fn an_archived_id_without_its_content_is_refused(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    service.clock.set("2026-01-07T04:00:00Z");
    service.deduct(traced("first", charge("ann", "asset", 3))).await;
    service.clock.set("2026-11-21T04:00:00Z");
    keep_months(&service.database, &service.clock, 1).await;
    service.database.execute("DELETE FROM billing_transaction_archive WHERE trace_id = 'first'").await;
    let balance = service.account("ann").await.balance;
    service.try_deduct(traced("first", charge("ann", "asset", 3))).await.unwrap_err();
    assert_eq!(service.account("ann").await.balance, balance);
    let (status, _) = service.internal_get("/internal/v1/billing/transactions/ann/first").await;
    assert_eq!(status, 500);
}
