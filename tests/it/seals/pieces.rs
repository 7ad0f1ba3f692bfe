//! The statements of a large account, each of few rows.

use std::collections::BTreeSet;

use billing_service::biz::jobs::audit::{AtOnce, AuditReport};
use rstest::rstest;

use super::a_year;
use crate::harness::{Backend, MySql, Service, Sqlite, charge};

/// Each account with more than two records is a large one, with two or three rows in a statement.
const FEW: [AtOnce; 2] =
    [AtOnce { records: 2, of_one_user: 3, users: 2 }, AtOnce { records: 2, of_one_user: 2, users: 1 }];

/// The transactions of a user that a report names.
fn named(report: &AuditReport, user: &str) -> BTreeSet<String> {
    let name = format!("user {user}: transaction ");
    let lines = report.differences.iter().map(ToString::to_string);
    lines.filter_map(|line| Some(line.strip_prefix(&name)?.split(' ').next()?.to_owned())).collect()
}

/// Reported usage that went on after the month of its charge had closed: another record, of now. As in the service, the
/// transaction gets no late day, because its charge was in time.
async fn goes_on(service: &Service, trace: &str) {
    let of_stream = format!("user_id = 'bob' AND trace_id = '{trace}'");
    let (amount, now) = (service.sql_amount(10), service.sql_time("2026-11-20T04:00:00Z"));
    service.record("bob", trace, &now, "2026-11-20").await;
    for sql in [
        format!(
            "UPDATE billing_transaction SET charged_by = 1, paid_count = paid_count + 2, amount = amount + {amount} \
             WHERE {of_stream}"
        ),
        format!("UPDATE user_balance SET balance = balance - {amount}, version = version + 1 WHERE user_id = 'bob'"),
        format!(
            "INSERT INTO usage_daily (user_id, usage_date, service_name, free_count, paid_count, amount, free_records, \
             paid_records) VALUES ('bob', '2026-11-20', 'asset', 0, 2, {amount}, 0, 1)"
        ),
        format!("UPDATE billing_record SET late_of = '2026-10' WHERE {of_stream} AND usage_date = '2026-11-20'"),
    ] {
        service.database.execute(&sql).await;
    }
}

#[rstest]
#[tokio::test]
async fn small_statements_find_no_difference_where_large_ones_find_none(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    service.commit_units("ann", "late").await;
    goes_on(&service, "charge-10").await;
    service.deduct(charge("ann", "asset", 3)).await;
    service.assert_audit_is_clean().await;
    for few in FEW {
        for report in [service.whole_audit_in(few).await, service.nightly_audit_in(few).await] {
            assert_eq!((report.difference_count, report.suspects), (0, 0), "{few:?}: {:#?}", report.differences);
        }
    }
    let (sealed, lines) = service.seal_in(FEW[0]).await;
    assert_eq!((sealed.accounts, sealed.left, sealed.lacking), (3, 0, 0), "{lines:?}");
    for few in FEW {
        for report in [service.whole_audit_in(few).await, service.nightly_audit_in(few).await] {
            assert_eq!((report.difference_count, report.suspects), (0, 0), "{few:?}: {:#?}", report.differences);
        }
    }
    service.clock.set("2026-12-05T04:00:00Z");
    let (sealed, lines) = service.seal_in(FEW[0]).await;
    assert_eq!((sealed.accounts, sealed.left, sealed.lacking), (2, 0, 0), "{lines:?}");
    service.assert_seals_hold().await;
}

#[rstest]
#[tokio::test]
async fn small_statements_name_a_difference_wherever_they_begin_and_end(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    for number in 1..=11 {
        let (trace, hidden) = (format!("charge-{number}"), format!("hidden-{number}"));
        let of_charge = format!("user_id = 'ann' AND trace_id = '{trace}'");
        let (more, less) = (
            format!("UPDATE billing_transaction SET paid_count = paid_count + 1 WHERE {of_charge}"),
            format!("UPDATE billing_transaction SET paid_count = paid_count - 1 WHERE {of_charge}"),
        );
        service.database.execute(&more).await;
        for few in FEW {
            assert_eq!(named(&service.whole_audit_in(few).await, "ann"), [trace.clone()].into(), "{few:?}");
            assert_eq!(named(&service.nightly_audit_in(few).await, "ann"), [trace.clone()].into(), "{few:?}");
        }
        service.database.execute(&less).await;
        // The records lead to no transaction, and the transaction has no records but in `record_id`.
        let hide =
            format!("UPDATE billing_transaction SET trace_id = '{hidden}', record_id = 'gone' WHERE {of_charge}");
        let id = service.database.rows(&["record_id"], &format!("FROM billing_transaction WHERE {of_charge}")).await;
        let show = format!(
            "UPDATE billing_transaction SET trace_id = '{trace}', record_id = '{}' WHERE trace_id = '{hidden}'",
            id[0][0]
        );
        // Refunds look for their charges, and are not of interest here.
        service.database.execute(&hide).await;
        for few in FEW {
            let found = named(&service.whole_audit_in(few).await, "ann");
            assert_eq!(found, [trace.clone(), hidden.clone()].into(), "{few:?}");
        }
        service.database.execute(&show).await;
    }
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn a_charge_without_records_is_not_sealed_wherever_its_statement_begins(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    // Before, between and behind the other trace ids.
    for trace in ["a", "charge-1", "charge-2", "charge-3", "charge-4", "charge-5", "zz"].map(|near| format!("{near}-"))
    {
        service.charge_in_part("bob", &trace, "2026-10-20T04:00:00Z", false).await;
        for few in FEW {
            // The last account is sealed by the first run.
            let (sealed, lines) = service.seal_in(few).await;
            assert_eq!(sealed.left, 1, "{trace}: {lines:?}");
            assert_eq!(lines, ["user bob: has differences; not sealed"], "{trace}");
        }
        service.database.execute(&format!("DELETE FROM billing_transaction WHERE trace_id = '{trace}'")).await;
    }
    assert_eq!(service.seal().await.accounts, 1);
    service.assert_seals_hold().await;
}
