//! The whole audit names each sealed row, and each seal, that was changed.

use billing_service::biz::jobs::audit::AtOnce;
use rstest::rstest;

use super::{a_year, month};
use crate::harness::{Backend, MySql, Sqlite, charge};

/// Changes of sealed rows with their reversals, and the line of the whole audit that names each.
const CHANGES: [(&str, &str, &str); 33] = [
    (
        "UPDATE billing_transaction SET held_free = 1 WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET held_free = NULL WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: seal of 2026-10: transactions says",
    ),
    (
        "UPDATE billing_transaction SET full_cost = 1 WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET full_cost = NULL WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: seal of 2026-10: transactions says",
    ),
    (
        "UPDATE billing_transaction SET estimated_output_tokens = 7 WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET estimated_output_tokens = NULL WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: seal of 2026-10: transactions says",
    ),
    (
        "UPDATE billing_transaction SET reports = '[1]' WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET reports = NULL WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: seal of 2026-10: transactions says",
    ),
    (
        "UPDATE quota_opening SET units = units + 1 WHERE user_id = 'bob'",
        "UPDATE quota_opening SET units = units - 1 WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: openings says",
    ),
    (
        "UPDATE quota_opening SET reset_month = '2025-11' WHERE user_id = 'bob'",
        "UPDATE quota_opening SET reset_month = '2025-12' WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: openings says",
    ),
    (
        "UPDATE sealed_month SET month = '2026-09' WHERE user_id = 'bob'",
        "UPDATE sealed_month SET month = '2026-10' WHERE user_id = 'bob'",
        "user bob: seal of 2026-09: records says",
    ),
    (
        "UPDATE sealed_account SET month = '2026-09' WHERE user_id = 'bob'",
        "UPDATE sealed_account SET month = '2026-10' WHERE user_id = 'bob'",
        "user bob: last seal, of 2026-10: month says 2026-09",
    ),
    (
        "UPDATE sealed_account SET given_back = given_back + 1 WHERE user_id = 'bob'",
        "UPDATE sealed_account SET given_back = given_back - 1 WHERE user_id = 'bob'",
        "user bob: last seal, of 2026-10: amount given back says",
    ),
    (
        "UPDATE sealed_account SET given_back_count = given_back_count + 1 WHERE user_id = 'bob'",
        "UPDATE sealed_account SET given_back_count = given_back_count - 1 WHERE user_id = 'bob'",
        "user bob: last seal, of 2026-10: units given back says",
    ),
    (
        "UPDATE sealed_account SET seal = CONCAT(SUBSTR(seal, 2), SUBSTR(seal, 1, 1)) WHERE user_id = 'bob'",
        "UPDATE sealed_account SET seal = CONCAT(SUBSTR(seal, 64), SUBSTR(seal, 1, 63)) WHERE user_id = 'bob'",
        "user bob: last seal, of 2026-10: hash says",
    ),
    (
        "UPDATE sealed_account SET balance = balance + 1 WHERE user_id = 'old'",
        "UPDATE sealed_account SET balance = balance - 1 WHERE user_id = 'old'",
        "user old: last seal, of 2026-10: closing balance says",
    ),
    (
        "UPDATE billing_record SET service_name = 'paxxport' WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_record SET service_name = 'asset' WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: seal of 2026-10: records says",
    ),
    (
        "UPDATE billing_record SET late_of = '2026-01' WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_record SET late_of = NULL WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: seal of 2026-10: records says",
    ),
    (
        "UPDATE billing_transaction SET model = 'gpt' WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET model = NULL WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: seal of 2026-10: transactions says",
    ),
    (
        "UPDATE billing_transaction SET input_price = 1 WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET input_price = NULL WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: seal of 2026-10: transactions says",
    ),
    (
        "UPDATE billing_transaction SET free_remaining_after = free_remaining_after + 1 \
         WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET free_remaining_after = free_remaining_after - 1 \
         WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: seal of 2026-10: transactions says",
    ),
    (
        "UPDATE charge_refund SET count = count + 1 WHERE user_id = 'bob' AND refund_id = 'refund-3'",
        "UPDATE charge_refund SET count = count - 1 WHERE user_id = 'bob' AND refund_id = 'refund-3'",
        "user bob: seal of 2026-10: refunds says",
    ),
    (
        "UPDATE recharge_refund SET reason = 'gift' WHERE user_id = 'bob'",
        "UPDATE recharge_refund SET reason = '' WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: top-up refunds says",
    ),
    (
        "UPDATE recharge_refund SET is_forced = 1 WHERE user_id = 'bob'",
        "UPDATE recharge_refund SET is_forced = 0 WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: top-up refunds says",
    ),
    (
        "UPDATE recharge_order SET idempotency_key = 'k' WHERE user_id = 'bob'",
        "UPDATE recharge_order SET idempotency_key = NULL WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: top-ups says",
    ),
    (
        "UPDATE billing_transaction SET charged_by = 1 WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET charged_by = NULL WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: seal of 2026-10: transactions says",
    ),
    (
        "UPDATE billing_transaction SET free_count = free_count - 1, paid_count = paid_count + 1 \
         WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET free_count = free_count + 1, paid_count = paid_count - 1 \
         WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "user ann: transaction charge-4 says 4 free and 6 paid units for 0.25, should be 5 free and 5 paid units for 0.25",
    ),
    (
        "UPDATE billing_transaction SET trace_id = 'hidden' WHERE user_id = 'ann' AND trace_id = 'charge-4'",
        "UPDATE billing_transaction SET trace_id = 'charge-4' WHERE user_id = 'ann' AND trace_id = 'hidden'",
        "user ann: transaction hidden says",
    ),
    (
        "UPDATE charge_refund SET reason = 'gift' WHERE user_id = 'bob' AND refund_id = 'refund-3'",
        "UPDATE charge_refund SET reason = 'not delivered' WHERE user_id = 'bob' AND refund_id = 'refund-3'",
        "user bob: seal of 2026-10: refunds says",
    ),
    (
        "UPDATE balance_adjustment SET operator = CONCAT(operator, 'x') WHERE user_id = 'bob'",
        "UPDATE balance_adjustment SET operator = REPLACE(operator, 'x', '') WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: adjustments says",
    ),
    (
        "UPDATE recharge_order SET payment_order_id = 'other' WHERE user_id = 'bob'",
        "UPDATE recharge_order SET payment_order_id = 'payment-bob' WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: top-ups says",
    ),
    (
        "UPDATE recharge_refund SET kind = 'reported' WHERE user_id = 'bob'",
        "UPDATE recharge_refund SET kind = 'requested' WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: top-up refunds says",
    ),
    (
        "UPDATE sealed_month SET content = REPLACE(content, 'records:', 'records:1') WHERE user_id = 'bob'",
        "UPDATE sealed_month SET content = REPLACE(content, 'records:1', 'records:') WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: records says",
    ),
    (
        "UPDATE sealed_month SET balance = balance + 1 WHERE user_id = 'bob'",
        "UPDATE sealed_month SET balance = balance - 1 WHERE user_id = 'bob'",
        "user bob: seal of 2026-10: closing balance says",
    ),
    (
        "UPDATE sealed_month SET seal = CONCAT('!', SUBSTR(seal, 2)) WHERE user_id = 'old'",
        "",
        "user old: seal of 2026-10: hash says",
    ),
    (
        "UPDATE sealed_account SET charged = charged + 1 WHERE user_id = 'bob'",
        "UPDATE sealed_account SET charged = charged - 1 WHERE user_id = 'bob'",
        "user bob: last seal, of 2026-10: charged amount says",
    ),
    (
        "DELETE FROM sealed_account WHERE user_id = 'ann'",
        "",
        "user ann: last seal, of 2026-10: account says none, should be one",
    ),
];

#[rstest]
#[tokio::test]
async fn the_whole_audit_names_each_sealed_row_that_was_changed(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    assert_eq!(service.seal().await.accounts, 3);
    let mut known = Vec::new();
    for (change, undo, line) in CHANGES {
        service.database.execute(change).await;
        let found = service.database.audit().await;
        let lines: Vec<String> = found.differences.iter().map(ToString::to_string).collect();
        assert!(lines.iter().any(|found| found.starts_with(line)), "{change}: {lines:#?}");
        if undo.is_empty() {
            known = lines;
            continue;
        }
        service.database.execute(undo).await;
        let left: Vec<String> = service.database.audit().await.differences.iter().map(ToString::to_string).collect();
        assert_eq!(left, known, "after {undo}");
    }
    // The end of the last seal.
    let [wrong, right] = ["2026-09-30T16:00:00Z", "2026-10-31T16:00:00Z"].map(|at| service.sql_time(at));
    let end = |at: &str| format!("UPDATE sealed_account SET sealed_until = {at} WHERE user_id = 'bob'");
    service.database.execute(&end(&wrong)).await;
    let found = service.found_in_all().await;
    assert!(found.iter().any(|line| line.starts_with("user bob: last seal, of 2026-10: end says")), "{found:#?}");
    service.database.execute(&end(&right)).await;
    // The version only tells the nightly audit which accounts to read.
    service.database.execute("UPDATE sealed_account SET version = version + 1 WHERE user_id = 'bob'").await;
    assert_eq!(service.found_in_all().await, known);
    // A record that is gone, with everything that follows from it.
    let gone = "user_id = 'bob' AND trace_id = 'charge-7'";
    service.database.execute(&format!("DELETE FROM billing_record WHERE {gone}")).await;
    let lines: Vec<String> = service.database.audit().await.differences.iter().map(ToString::to_string).collect();
    assert!(lines.iter().any(|line| line.starts_with("user bob: seal of 2026-10: records says 26 with")), "{lines:#?}");
}

#[rstest]
#[tokio::test]
async fn the_whole_audit_names_accounts_whose_seals_were_dropped(#[values(MySql, Sqlite)] on: Backend) {
    let service = a_year(on).await;
    // Before the first run no account has a seal, and none lacks one.
    service.assert_audit_is_clean().await;
    assert_eq!(service.seal().await.accounts, 3);
    let kept = "UPDATE sealed_account SET month = '2026-10' WHERE user_id = 'bob'";
    service.clock.set("2026-12-05T04:00:00Z");
    service.deduct(charge("bob", "asset", 8)).await;
    assert_eq!(service.seal().await.month, month("2026-11"));
    service.assert_audit_is_clean().await;
    for table in ["sealed_month", "sealed_account"] {
        service.database.execute(&format!("DELETE FROM {table} WHERE user_id = 'ann'")).await;
    }
    service.database.execute("DELETE FROM sealed_month WHERE user_id = 'bob' AND month = '2026-11'").await;
    service.database.execute(kept).await;
    let found = service.found_in_all().await;
    assert!(found.iter().any(|line| line == "user ann: last seal says none, should be 2026-11"), "{found:#?}");
    assert!(found.iter().any(|line| line.starts_with("user bob: last seal, of 2026-10: ")), "{found:#?}");

    // The last seal of bob, with the figures of the one before it.
    let restored = "DELETE FROM sealed_account WHERE user_id = 'bob'";
    service.database.execute(restored).await;
    service.database.execute("DELETE FROM sealed_month WHERE user_id = 'bob'").await;
    service.database.execute("UPDATE all_sealed SET month = '2026-10'").await;
    let found = service.found_in_all().await;
    assert_eq!(
        found,
        ["user ann: last seal says none, should be 2026-10", "user bob: last seal says none, should be 2026-10"]
    );
    // The next run names both, and seals them anew.
    let (sealed, lines) = service.seal_in(AtOnce::default()).await;
    assert_eq!((sealed.accounts, sealed.left, sealed.lacking), (2, 0, 2));
    let lacked = "lacked seals up to 2026-10: they were deleted, or an earlier run left it; sealed anew";
    assert_eq!(lines, [format!("user ann: {lacked}"), format!("user bob: {lacked}")]);
    service.assert_audit_is_clean().await;
    assert_eq!(service.seal().await.lacking, 0);
}
