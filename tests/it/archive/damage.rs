//! A narrow row and its content must agree. The whole audit names each pair that does not, and no charge is made on it.

use rstest::rstest;

use super::{a_year, count, keep_months, move_or_count, run_job};
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
            "archived transaction first with status RELEASED, and only COMMITTED ones move",
        ),
        (
            "UPDATE billing_transaction_archive SET charged_by = 1 WHERE {first}",
            "archived transaction first with status COMMITTED is a charge by report, to which a commit may add",
        ),
        (
            "UPDATE billing_transaction SET created_at = (SELECT * FROM (SELECT MIN(created_at) FROM billing_transaction) t) WHERE {first}",
            "archived transaction first with status COMMITTED has another time than its narrow row",
        ),
        (
            "UPDATE billing_transaction_archive SET user_id = 'only here' WHERE {first}",
            "user only here: stored row says archived transaction first",
        ),
    ] {
        let service = an_archived_charge(on).await;
        assert_eq!(found(&service).await, [""; 0]);
        service.database.execute(&damage.replace("{first}", "user_id = 'ann' AND trace_id = 'first'")).await;
        let lines = found(&service).await;
        assert!(lines.iter().any(|found| found.contains(line)), "{damage}: {lines:#?}");
    }
}

/// The charge `first` of ann, in the archive.
async fn an_archived_charge(on: Backend) -> Service {
    let service = a_year(on).await;
    service.clock.set("2026-01-07T04:00:00Z");
    service.deduct(traced("first", charge("ann", "asset", 3))).await;
    service.clock.set("2026-11-21T04:00:00Z");
    keep_months(&service.database, &service.clock, 1).await;
    service
}

#[rstest]
#[tokio::test]
async fn audits_name_the_seal_of_an_account_whose_archived_content_is_lost(#[values(MySql, Sqlite)] on: Backend) {
    for damage in [
        "DELETE FROM billing_transaction_archive WHERE {first}",
        "UPDATE billing_transaction SET created_at = (SELECT * FROM (SELECT MIN(created_at) FROM billing_transaction) t) WHERE {first}",
        "UPDATE billing_transaction_archive SET user_id = 'only here' WHERE {first}",
    ] {
        let service = an_archived_charge(on).await;
        assert_eq!(service.seal().await.accounts, 2);
        service.assert_audit_is_clean().await;
        service.database.execute(&damage.replace("{first}", "user_id = 'ann' AND trace_id = 'first'")).await;
        let of_bob = "UPDATE user_balance SET balance = balance + 1 WHERE user_id = 'bob'";
        service.database.execute(of_bob).await;
        let lines = found(&service).await;
        for line in ["user ann: seal of 2026-10: transactions", "user bob: balance"] {
            assert!(lines.iter().any(|found| found.starts_with(line)), "{damage}: {lines:#?}");
        }
        // The night audits an account whole if it differs elsewhere.
        service.database.execute(&of_bob.replace("bob", "ann")).await;
        let lines = service.found_at_night().await;
        for line in ["user ann: seal of 2026-10: transactions", "user ann: balance", "user bob: balance"] {
            assert!(lines.iter().any(|found| found.starts_with(line)), "{damage}: {lines:#?}");
        }
    }
}

#[rstest]
#[tokio::test]
async fn an_archived_id_without_its_content_is_refused(#[values(MySql, Sqlite)] on: Backend) {
    let service = an_archived_charge(on).await;
    service.database.execute("DELETE FROM billing_transaction_archive WHERE trace_id = 'first'").await;
    let balance = service.account("ann").await.balance;
    service.try_deduct(traced("first", charge("ann", "asset", 3))).await.unwrap_err();
    assert_eq!(service.account("ann").await.balance, balance);
    let (status, _) = service.internal_get("/internal/v1/billing/transactions/ann/first").await;
    assert_eq!(status, 500);
}

/// Something else has written one of the two rows. The job does not choose, and does not stop for others.
#[rstest]
#[tokio::test]
async fn a_transaction_whose_id_has_content_in_the_archive_already_stays_and_is_reported(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let service = a_year(on).await;
    service.clock.set("2026-01-07T04:00:00Z");
    let first = service.deduct(traced("first", charge("ann", "asset", 3))).await;
    service.clock.set("2026-11-21T04:00:00Z");
    let columns = "user_id, created_at, trace_id, status, service_name, count, free_count, paid_count, amount, record_id, \
        balance_after, free_remaining_after";
    let of_first = "FROM billing_transaction WHERE trace_id = 'first'";
    let content = format!("INSERT INTO billing_transaction_archive ({columns}) SELECT {columns} {of_first}");
    service.database.execute(&content).await;

    let stays = "archive-records: 1 transaction stays, because the archive has content with its id already; \
        `cron --once audit --full` names it";
    for (is_dry_run, verb) in [(true, "would be moved"), (false, "moved")] {
        let report = run_job(&service, "1", is_dry_run).await;
        let moved = format!("archive-records: 37 records and 18 transactions from before 2026-10 {verb}");
        assert_eq!((report.lines, report.is_good), (vec![moved, stays.to_owned()], false));
    }
    assert_eq!(count(&service.database, "billing_transaction_archive").await, 19);
    assert_eq!(service.deduct(traced("first", charge("ann", "asset", 3))).await.amount, first.amount);
    let line =
        "archived transaction first with status COMMITTED although the row in billing_transaction is not archived";
    let lines = found(&service).await;
    assert!(lines.len() == 1 && lines[0].contains("user ann") && lines[0].contains(line), "{lines:#?}");

    service.database.execute("DELETE FROM billing_transaction_archive WHERE trace_id = 'first'").await;
    assert_eq!(found(&service).await, [""; 0]);
    // Also those of records that are archived already.
    service.database.execute(&content).await;
    service.database.execute("DELETE FROM transactions_archived").await;
    for is_dry_run in [true, false] {
        let moved = move_or_count(&service.database, &service.clock, 1, is_dry_run).await;
        assert_eq!((moved.records, moved.transactions, moved.contested), (0, 0, 1));
    }
}
