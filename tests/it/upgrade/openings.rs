//! A value that was set by hand becomes an opening entry with the exact difference.

use super::legacy::{self, PLAIN, migrated};
use crate::harness::{Service, charge};

/// Users whose accounts do not match their history, each in another way.
const BY_HAND: &str = "
INSERT INTO user_balance (user_balance_id, user_id, balance) VALUES
    ('1', 'topped-up', 150.00), ('2', 'taken', 0.01), ('3', 'rounded', 9.88), ('4', 'fine', 9.90),
    ('5', 'Case', 5.00), ('6', 'padded ', 7.00), ('7', 'quota', 0), ('8', 'largest', 99999999.99);
INSERT INTO recharge_order (order_id, user_id, amount, payment_order_id, status) VALUES
    ('o1', 'topped-up', 100.00, 'p1', 'success'), ('o2', 'taken', 99999999.99, 'p2', 'success'),
    ('o3', 'rounded', 10.00, 'p3', ' Success '), ('o4', 'fine', 10.00, 'p4', 'success'),
    ('o5', 'fine', 55.00, 'p5', 'failed'), ('o6', 'case', 5.00, 'p6', 'success'),
    ('o7', 'padded', 7.00, 'p7', 'success'), ('o8', 'only-order', 3.00, 'p8', 'success'),
    ('o9', 'only-pending', 3.00, 'p9', NULL);
INSERT INTO billing_record (billing_record_id, user_id, service_name, type, amount, count, created_at) VALUES
    ('r1', 'rounded', 'payment', 2, 0.1234, 1, '2026-10-05 00:00:00'),
    ('r2', 'fine', 'payment', 2, 0.1000, 1, '2026-10-05 00:00:00'),
    ('r3', 'only-record', 'asset', 2, 0.5000, 10, '2026-10-05 00:00:00'),
    ('q1', 'quota', 'asset', 1, 0, 20, '2026-09-30 23:59:59'),
    ('q2', 'quota', 'asset', 1, 0, 30, '2026-10-01 00:00:00'),
    ('q3', 'quota', 'passport', 1, NULL, 5, '2026-10-01 00:00:00'),
    ('q4', 'quota', 'payment', 1, 0, 4, '2026-10-01 00:00:00'),
    ('q5', 'quota', 'asset', 1, 0, 2, NULL);
INSERT INTO free_quota (free_quota_id, user_id, service_name, total_quota, used_quota, reset_month) VALUES
    ('1', 'quota', 'asset', 1000, 20, '2026-09'), ('2', 'quota', 'asset', 1000, 0, '2026-10'),
    ('3', 'quota', 'passport', 1000, 1000, '2026-10'), ('4', 'only-quota', 'asset', 1000, 7, '2026-10'),
    ('5', 'only-quota', 'passport', 1000, NULL, '2026-10');
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_set_by_hand_become_opening_entries() {
    let database = legacy::database("Asia/Shanghai").await;
    database.execute(&PLAIN.tables()).await;
    database.execute(BY_HAND).await;
    let printed = migrated(&database, &[]);

    let balances = database.rows(&["user_id", "balance"], "FROM user_balance ORDER BY user_id").await;
    let balances: Vec<_> = balances.iter().map(|row| row.join(" ")).collect();
    assert_eq!(
        balances,
        [
            "Case 5.000000",
            "case 0.000000",
            "fine 9.900000",
            "largest 99999999.990000",
            "only-order 0.000000",
            "only-pending 0.000000",
            "only-quota 0.000000",
            "only-record 0.000000",
            "padded 7.000000",
            "quota 0.000000",
            "rounded 9.880000",
            "taken 0.010000",
            "topped-up 150.000000",
        ]
    );
    let openings = database
        .rows(&["user_id", "amount", "balance_after", "adjustment_id"], "FROM balance_adjustment ORDER BY user_id")
        .await;
    let openings: Vec<_> = openings.iter().map(|row| row.join(" ")).collect();
    assert_eq!(
        openings,
        [
            "Case 5.000000 5.000000 opening",
            "case -5.000000 0.000000 opening",
            "largest 99999999.990000 99999999.990000 opening",
            "only-order -3.000000 0.000000 opening",
            "only-record 0.500000 0.000000 opening",
            "rounded 0.003400 9.880000 opening",
            "taken -99999999.980000 0.010000 opening",
            "topped-up 50.000000 150.000000 opening",
        ]
    );
    let quotas = database
        .rows(&["user_id", "reset_month", "service_name", "units"], "FROM quota_opening ORDER BY 1, 2, 3")
        .await;
    let quotas: Vec<_> = quotas.iter().map(|row| row.join(" ")).collect();
    assert_eq!(
        quotas,
        [
            "only-quota 2026-10 asset 7",
            "quota 1970-01 asset -2",
            "quota 2026-10 asset -30",
            "quota 2026-10 passport 995",
            "quota 2026-10 payment -4",
        ]
    );
    database.assert_audit_is_clean().await;

    // The plan has printed these entries before.
    let balances = "balances: 11; 8 do not match their recharges and records and get \
                    opening entries, +100000055.4934 and -100000007.98 in total\n";
    assert!(printed.contains(balances), "{printed}");
    let quotas = "used quotas: 7; 5 do not match their free records of the month and get \
                  opening entries, +1002 and -36 in total\n";
    assert!(printed.contains(quotas), "{printed}");

    let service = Service::start_on(database, &[]).await;
    service.clock.set("2026-10-21T00:00:00Z");
    assert_eq!(service.state("quota").await, (0.0, [1000, 0, 0]));
    assert_eq!(service.deduct(charge("quota", "asset", 1)).await.free_remaining, 999);
    assert_eq!(service.deduct(charge("topped-up", "payment", 1001)).await.balance, 149.9);
    service.assert_audit_is_clean().await;
}

/// The entry only covers the differences from before the upgrade.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_finds_values_set_by_hand_after_the_upgrade() {
    let database = legacy::database("Asia/Shanghai").await;
    database.execute(&PLAIN.tables()).await;
    database.execute(BY_HAND).await;
    migrated(&database, &[]);
    database.execute("UPDATE user_balance SET balance = balance + 1 WHERE user_id = 'topped-up'").await;
    database.execute("UPDATE free_quota SET used_quota = 0 WHERE user_id = 'only-quota'").await;
    database.execute("UPDATE quota_opening SET user_id = 'nobody' WHERE reset_month = '1970-01'").await;
    let report = database.audit().await;
    let found: Vec<_> = report.differences.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "user nobody: balance says no account, should be 0",
            "user nobody: used quota of asset in 1970-01 says 0, should be -2",
            "user only-quota: used quota of asset in 2026-10 says 0, should be 7",
            "user quota: used quota of asset in 1970-01 says 0, should be 2",
            "user topped-up: balance says 151, should be 150",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_top_up_credited_by_hand_is_not_looked_up_again() {
    let database = legacy::database("Asia/Shanghai").await;
    database.execute(&PLAIN.tables()).await;
    // The legacy service checked this in code, and had no unique key.
    database
        .execute(
            "INSERT INTO user_balance (user_balance_id, user_id, balance) VALUES ('1', 'by-hand', 100), ('2', 'open', 1);
            INSERT INTO recharge_order (order_id, user_id, amount, payment_order_id, status) VALUES
                ('o1', 'by-hand', 100.00, '', 'pending'), ('o2', 'by-hand', 100.01, '', 'pending'),
                ('o3', 'open', 55.00, '', 'pending'), ('o4', 'open', 1.00, 'p4', 'success');",
        )
        .await;
    let printed = migrated(&database, &[]);
    assert!(printed.contains("pending top-ups: 3, 255.01 in total"), "{printed}");
    let states = database.rows(&["order_id", "status"], "FROM recharge_order ORDER BY order_id").await;
    let states: Vec<_> = states.iter().map(|row| row.join(" ")).collect();
    assert_eq!(states, ["o1 expired", "o2 pending", "o3 pending", "o4 success"]);
    database.assert_audit_is_clean().await;
    let unique = "FROM information_schema.statistics WHERE table_schema = DATABASE() AND non_unique = 0 \
        AND table_name = 'recharge_order' AND column_name = 'payment_order_id'";
    assert_eq!(database.rows(&["index_name"], unique).await.len(), 1, "a payment pays for one order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_restored_over_an_upgrade_is_refused() {
    let database = legacy::database("Asia/Shanghai").await;
    database.execute(&PLAIN.tables()).await;
    migrated(&database, &[]);
    database.execute("DROP TABLE user_balance, free_quota, billing_record, recharge_order").await;
    database.execute(&PLAIN.tables()).await;
    let before = legacy::fingerprint(&database).await;
    for more in [&["--dry-run"][..], &[]] {
        let refused = legacy::migrate(&database, more);
        assert!(legacy::errors(&refused).contains("restore it into an empty database"), "{}", legacy::errors(&refused));
        legacy::assert_untouched(&database, &before).await;
    }
}
