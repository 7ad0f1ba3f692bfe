//! Transactions whose records an earlier release has moved alone move once.

use rstest::rstest;

use super::{charge_all, charge_of, count, keep_months, move_all_but, move_or_count};
use crate::harness::{Backend, MySql, Service, Sqlite};

#[rstest]
#[tokio::test]
async fn the_transactions_of_records_that_an_earlier_release_moved_follow_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-01-05T04:00:00Z");
    // More than one chunk.
    for batch in 0..3 {
        charge_all(&service, (0..500).map(|n| charge_of(0, format!("{batch}-{n}")))).await;
    }
    service.deduct(charge_of(1, "alone".into())).await;
    service.clock.set("2026-09-05T04:00:00Z");
    service.deduct(charge_of(0, "kept".into())).await;
    let columns =
        "billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id, late_of";
    let old = "FROM billing_record WHERE trace_id <> 'kept'";
    let copy = format!("INSERT INTO billing_record_archive ({columns}) SELECT {columns} {old}");
    service.database.execute(&copy).await;
    service.database.execute(&format!("DELETE {old}")).await;
    service.clock.set("2026-11-05T04:00:00Z");

    let counted = move_or_count(&service.database, &service.clock, 3, true).await;
    let moved = move_all_but(&service.database, &service.clock, 3).await;
    assert_eq!((moved.records, moved.transactions, moved.contested), (0, 1_501, 0));
    assert_eq!(counted, moved);
    assert_eq!(count(&service.database, "billing_transaction_archive").await, 1_501);
    assert_eq!(count(&service.database, "billing_transaction WHERE status = 'COMMITTED'").await, 1);
    assert_eq!(count(&service.database, "transactions_archived").await, 1);
    service.assert_audit_is_clean().await;
    // It is done, and archived records are not read again.
    let again = "UPDATE billing_record_archive SET trace_id = 'kept' WHERE trace_id = 'alone'";
    service.database.execute(again).await;
    assert_eq!(keep_months(&service.database, &service.clock, 3).await, 0);
    assert_eq!(count(&service.database, "billing_transaction_archive").await, 1_501);
}
