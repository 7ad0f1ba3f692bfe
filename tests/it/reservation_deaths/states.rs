//! The rows of a user before and after a step.

use billing_service::biz::settlement::sweep::JOB;
use chrono::{TimeDelta, Utc};

use super::Step;
use crate::{
    events::{events_of, rounds::Round, types},
    harness::{
        Backend::{MySql, Sqlite},
        Database,
    },
};

/// The tables with their columns, without ids and times. Amounts are in millionths.
const TABLES: [(&str, &[&str], &str); 7] = [
    ("balance", &["user_id", "MICROS(balance)", "MICROS(held)"], "user_balance WHERE user_id LIKE 'USER%' ORDER BY 1"),
    (
        "quota",
        &["user_id", "service_name", "used_quota", "held_quota"],
        "free_quota WHERE user_id LIKE 'USER%' AND used_quota + held_quota <> 0 ORDER BY 1",
    ),
    (
        "transaction",
        &[
            "user_id",
            "trace_id",
            "status",
            "free_count",
            "paid_count",
            "MICROS(amount)",
            "COALESCE(held_free, 0)",
            "COALESCE(MICROS(held_amount), 0)",
            "COALESCE(output_tokens, 0)",
        ],
        "billing_transaction WHERE user_id LIKE 'USER%' ORDER BY 1, 2",
    ),
    (
        "record",
        &["user_id", "trace_id", "type", "count", "MICROS(amount)"],
        "billing_record WHERE user_id LIKE 'USER%' ORDER BY 1, 2, 3",
    ),
    (
        "usage",
        &["user_id", "free_count", "paid_count", "MICROS(amount)", "free_records", "paid_records"],
        "usage_daily WHERE user_id LIKE 'USER%' ORDER BY 1",
    ),
    ("requests", &["user_id", "monthly_used"], "tenant_quota WHERE user_id LIKE 'USER%' ORDER BY 1"),
    ("key", &["quota_type", "used"], "api_key_quota WHERE api_key_id = 'key-USER' ORDER BY 1"),
];

/// The rows of the user, and of the others of a batch, and the types of the user's events.
pub async fn state(round: &Round<'_>) -> Vec<String> {
    let user = round.user;
    let mut state = Vec::new();
    for (table, columns, from) in TABLES {
        let rows = round.database.rows(columns, &format!("FROM {}", from.replace("USER", user))).await;
        state.extend(rows.iter().map(|row| format!("{table} {}", row.join(" ").replace(user, "u"))));
    }
    let events = events_of(&round.client, user).await;
    state.push(format!("events {}", types(&events).join(" ")));
    state
}

const ALL_THRESHOLDS: &str = "events quota.threshold quota.threshold quota.threshold balance.low";

impl Step {
    /// The rows after the step, see [`TABLES`].
    pub fn leaves(self) -> Vec<&'static str> {
        match self {
            Self::Opened => {
                vec!["balance u 0 0", "quota u asset 0 600", "transaction u call PENDING 0 0 0 600 0 0", "events "]
            }
            Self::Reserved => vec![
                "balance u 10000000 2500000",
                "quota u asset 0 1000",
                "transaction u call PENDING 0 0 0 1000 2500000 0",
                "events ",
            ],
            Self::ReservedLimited => vec![
                "balance u 10000000 2500000",
                "quota u asset 0 1000",
                "transaction u call PENDING 0 0 0 1000 2500000 0",
                "requests u 1",
                "key amount 2500000",
                "key requests 1",
                "key tokens 0",
                "events ",
            ],
            Self::Committed => vec![
                "balance u 7500000 0",
                "quota u asset 1000 0",
                "transaction u call COMMITTED 1000 50 2500000 1000 2500000 0",
                "record u call 1 1000 0",
                "record u call 2 50 2500000",
                "usage u 1000 50 2500000 1 1",
                "requests u 1",
                "key amount 2500000",
                "key requests 1",
                "key tokens 0",
                ALL_THRESHOLDS,
            ],
            Self::CommittedLess => vec![
                "balance u 10000000 0",
                "quota u asset 600 0",
                "transaction u call COMMITTED 600 0 0 1000 2500000 0",
                "record u call 1 600 0",
                "usage u 600 0 0 1 0",
                "requests u 1",
                "key amount 0",
                "key requests 1",
                "key tokens 0",
                "events quota.threshold",
            ],
            Self::CommittedMore => vec![
                "balance u -5000000 0",
                "quota u asset 1000 0",
                "transaction u call COMMITTED 1000 300 15000000 1000 2500000 0",
                "record u call 1 1000 0",
                "record u call 2 300 15000000",
                "usage u 1000 300 15000000 1 1",
                "requests u 1",
                "key amount 15000000",
                "key requests 1",
                "key tokens 0",
                ALL_THRESHOLDS,
            ],
            Self::Released | Self::Expired => {
                let transaction = match self {
                    Self::Released => "transaction u call RELEASED 0 0 0 1000 2500000 0",
                    _ => "transaction u call EXPIRED 0 0 0 1000 2500000 0",
                };
                let counts = ["requests u 0", "key amount 0", "key requests 0", "key tokens 0"];
                [["balance u 10000000 0", transaction].as_slice(), &counts, &["events "]].concat()
            }
            Self::Reported => vec![
                "balance u 10000000 7000000",
                "quota u chat 0 100",
                "transaction u call PENDING 0 0 0 100 7000000 20",
                "requests u 1",
                "key amount 7000000",
                "key requests 1",
                "key tokens 100",
                "events ",
            ],
            Self::Finished => vec![
                "balance u 0 0",
                "quota u chat 100 0",
                "transaction u call COMMITTED 100 10 10000000 100 7000000 30",
                "record u call 1 100 0",
                "record u call 2 10 10000000",
                "usage u 100 10 10000000 1 1",
                "requests u 1",
                "key amount 10000000",
                "key requests 1",
                "key tokens 110",
                ALL_THRESHOLDS,
            ],
            Self::Charged => vec![
                "balance u 6500000 0",
                "balance u-new 0 0",
                "balance u-other 500000 0",
                "quota u asset 1000 0",
                "quota u-new asset 10 0",
                "quota u-other asset 1000 0",
                "transaction u before COMMITTED 10 0 0 0 0 0",
                "transaction u one COMMITTED 990 50 2500000 0 0 0",
                "transaction u two COMMITTED 0 20 1000000 0 0 0",
                "transaction u-new one COMMITTED 10 0 0 0 0 0",
                "transaction u-other one COMMITTED 1000 10 500000 0 0 0",
                "record u before 1 10 0",
                "record u one 1 990 0",
                "record u one 2 50 2500000",
                "record u two 2 20 1000000",
                "record u-new one 1 10 0",
                "record u-other one 1 1000 0",
                "record u-other one 2 10 500000",
                "usage u 1000 70 3500000 2 2",
                "usage u-new 10 0 0 1 0",
                "usage u-other 1000 10 500000 1 1",
                "requests u 3",
                "key amount 3500000",
                "key requests 3",
                "key tokens 0",
                ALL_THRESHOLDS,
            ],
            Self::ChargedKnown => vec![
                "balance u 6500000 0",
                "balance u-other 500000 0",
                "balance u-third 0 0",
                "quota u asset 1000 0",
                "quota u-other asset 1000 0",
                "quota u-third asset 20 0",
                "transaction u before COMMITTED 10 0 0 0 0 0",
                "transaction u one COMMITTED 990 50 2500000 0 0 0",
                "transaction u two COMMITTED 0 20 1000000 0 0 0",
                "transaction u-other before COMMITTED 10 0 0 0 0 0",
                "transaction u-other one COMMITTED 990 10 500000 0 0 0",
                "transaction u-third before COMMITTED 10 0 0 0 0 0",
                "transaction u-third one COMMITTED 10 0 0 0 0 0",
                "record u before 1 10 0",
                "record u one 1 990 0",
                "record u one 2 50 2500000",
                "record u two 2 20 1000000",
                "record u-other before 1 10 0",
                "record u-other one 1 990 0",
                "record u-other one 2 10 500000",
                "record u-third before 1 10 0",
                "record u-third one 1 10 0",
                "usage u 1000 70 3500000 2 2",
                "usage u-other 1000 10 500000 2 1",
                "usage u-third 20 0 0 2 0",
                ALL_THRESHOLDS,
            ],
        }
    }
}

/// Keeps the servers from sweeping.
pub async fn hold_lease(database: &Database) {
    let ends_at = match database.backend {
        MySql => "UTC_TIMESTAMP() + INTERVAL 1 HOUR",
        Sqlite => "(unixepoch() + 3600) * 1000000",
    };
    database
        .execute(&format!("REPLACE INTO job_lease (job, owner, ends_at) VALUES ('{JOB}', 'test', {ends_at})"))
        .await;
}

/// Makes the reservation of a user look expired.
pub async fn expire(database: &Database, user: &str) {
    let ago = Utc::now() - TimeDelta::days(1);
    let expiry = match database.backend {
        MySql => format!("'{}'", ago.naive_utc()),
        Sqlite => ago.timestamp_micros().to_string(),
    };
    database.execute(&format!("UPDATE billing_transaction SET expires_at = {expiry} WHERE user_id = '{user}'")).await;
    if database.backend == MySql {
        let listed = format!("UPDATE reservation_expiry SET expires_at = {expiry} WHERE user_id = '{user}'");
        database.execute(&listed).await;
    }
}

/// Whether a sweep has forgotten the ended reservation of the user.
pub async fn is_forgotten(round: &Round<'_>) -> bool {
    let listed = format!("FROM reservation_expiry WHERE user_id = '{}'", round.user);
    round.database.rows(&["trace_id"], &listed).await.is_empty()
}
