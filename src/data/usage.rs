//! The SQL of the rollup by service, model and API key that both databases understand, and its rows.

use std::sync::LazyLock;

use chrono::{DateTime, Days, NaiveTime, Utc};

use super::row::Columns;
use crate::biz::{
    jobs::{rollup::LackingUse, use_audit::DifferingUse},
    reports::usage::{GroupBy, ModelUse, Part, UseCount, UseDay, UseGroup, UseSums},
    values::{
        calendar::DaySpan,
        error::StoreError,
        ids::{ModelName, ServiceName, UserId},
    },
};

/// The tokens of a charge, at its main record. A commit may still add to a charge that the report of a
/// stream made, and its row then has the tokens of both; so only those of other charges are final.
macro_rules! tokens {
    ($column:literal) => {
        concat!(
            "SUM(CASE WHEN t.record_id = r.billing_record_id AND t.charged_by IS NULL THEN COALESCE(t.",
            $column,
            ", 0) ELSE 0 END)"
        )
    };
}

/// The column of each count in the order of [`UseCount::ALL`], and its sum over records `r` with their
/// transactions `t`.
const COUNTS: [(&str, &str); UseCount::ALL.len()] = [
    (
        "calls",
        // A call may have records of two times. With the time, the calls of all parts are those of the day.
        "COUNT(DISTINCT CASE WHEN r.type IN (1, 2) AND r.trace_id IS NOT NULL \
         THEN CONCAT(r.trace_id, ' ', r.created_at) END) \
         + SUM(CASE WHEN r.type IN (1, 2) AND r.trace_id IS NULL THEN 1 ELSE 0 END)",
    ),
    ("free_count", "SUM(CASE r.type WHEN 1 THEN r.count ELSE 0 END)"),
    ("paid_count", "SUM(CASE r.type WHEN 2 THEN r.count ELSE 0 END)"),
    ("refunded_free", "SUM(CASE r.type WHEN 3 THEN r.count ELSE 0 END)"),
    ("refunded_paid", "SUM(CASE r.type WHEN 4 THEN r.count ELSE 0 END)"),
    ("free_records", "SUM(CASE r.type WHEN 1 THEN 1 ELSE 0 END)"),
    ("paid_records", "SUM(CASE r.type WHEN 2 THEN 1 ELSE 0 END)"),
    ("free_refunds", "SUM(CASE r.type WHEN 3 THEN 1 ELSE 0 END)"),
    ("paid_refunds", "SUM(CASE r.type WHEN 4 THEN 1 ELSE 0 END)"),
    ("input_tokens", tokens!("input_tokens")),
    ("cached_input_tokens", tokens!("cached_input_tokens")),
    ("cache_write_tokens", tokens!("cache_write_tokens")),
    ("cache_write_1h_tokens", tokens!("cache_write_1h_tokens")),
    ("audio_input_tokens", tokens!("audio_input_tokens")),
    ("output_tokens", tokens!("output_tokens")),
    ("reasoning_tokens", tokens!("reasoning_tokens")),
    ("audio_output_tokens", tokens!("audio_output_tokens")),
    ("images", tokens!("images")),
];
/// The columns of the two amounts, and their sums over records.
const AMOUNTS: [(&str, &str); 2] = [
    ("amount", "SUM(CASE WHEN r.type IN (3, 4) THEN 0 ELSE r.amount END)"),
    ("refunded_amount", "SUM(CASE WHEN r.type IN (3, 4) THEN r.amount ELSE 0 END)"),
];

fn columns() -> impl Iterator<Item = (&'static str, &'static str)> {
    COUNTS.into_iter().chain(AMOUNTS)
}

fn list(of: impl Fn((&'static str, &'static str)) -> String) -> String {
    columns().map(of).collect::<Vec<_>>().join(", ")
}

/// The columns of sums in the table, behind those of the key.
pub(super) static COLUMNS: LazyLock<String> = LazyLock::new(|| list(|(column, _)| column.to_owned()));

/// The records of both tables under a condition, in one snapshot, so that a record that moves between the
/// tables is in exactly one.
fn records(condition: &str) -> String {
    let read = |table| {
        format!(
            "SELECT user_id, usage_date, billing_record_id, service_name, type, amount, count, trace_id, created_at \
             FROM {table} WHERE {condition}"
        )
    };
    let both = ["billing_record", "billing_record_archive"].map(read).join(" UNION ALL ");
    format!("({both}) r LEFT JOIN settled_transaction t ON t.user_id = r.user_id AND t.trace_id = r.trace_id")
}

/// Takes the user and the two instants, for each of the two tables.
const BETWEEN: &str = "user_id = ? AND created_at >= ? AND created_at < ?";

/// The sums of records by group, as [`group_of`] reads them. Takes [`BETWEEN`] twice.
pub(super) static SUMS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT r.service_name, COALESCE(t.model, ''), COALESCE(t.api_key_id, ''), {} FROM {} \
         GROUP BY r.service_name, COALESCE(t.model, ''), COALESCE(t.api_key_id, '')",
        list(|(_, sum)| sum.to_owned()),
        records(BETWEEN)
    )
});

/// The number of records. Takes [`BETWEEN`] twice.
pub(super) static COUNT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT (SELECT COUNT(*) FROM billing_record WHERE {BETWEEN}) \
         + (SELECT COUNT(*) FROM billing_record_archive WHERE {BETWEEN})"
    )
});

/// The time of the newest record. Takes [`BETWEEN`] twice.
pub(super) static NEWEST: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT MAX(newest) FROM (SELECT MAX(created_at) AS newest FROM billing_record WHERE {BETWEEN} \
         UNION ALL SELECT MAX(created_at) FROM billing_record_archive WHERE {BETWEEN}) both_tables"
    )
});

/// The records of a day by the daily rollup.
const RECORDED: &str = "free_records + paid_records + COALESCE(free_refunds + paid_refunds, 0)";

/// The records of each day of a user, and its parts, as [`day_of`] reads them. Takes the user and the two
/// days, twice.
pub(super) static DAYS: LazyLock<String> = LazyLock::new(|| {
    let of_user = "user_id = ? AND usage_date BETWEEN ? AND ?";
    format!(
        "SELECT usage_date, SUM(recorded), MAX(version), MAX(records), MAX(parts) FROM (\
         SELECT usage_date, {RECORDED} AS recorded, 0 AS version, NULL AS records, NULL AS parts FROM usage_daily \
         WHERE {of_user} UNION ALL \
         SELECT usage_date, 0, version, records, parts FROM usage_parts WHERE {of_user}) days \
         GROUP BY usage_date ORDER BY usage_date DESC"
    )
});

/// The rows of a part, as [`group_of`] reads them: as sums, each of one row. Takes the user, the day and the part.
pub(super) static PART: LazyLock<String> = LazyLock::new(|| {
    let sums = list(|(column, _)| format!("SUM({column})"));
    format!(
        "SELECT service_name, model, api_key_id, {sums} FROM usage_by WHERE user_id = ? AND usage_date = ? \
         AND part = ? GROUP BY service_name, model, api_key_id"
    )
});

/// The columns of a model behind its name, as [`use_of_model`] reads them.
pub(super) static OF_MODEL: LazyLock<String> =
    LazyLock::new(|| format!("COUNT(*), {}", list(|(column, _)| format!("SUM({column})"))));

/// Takes the user, the day and the limit.
pub(super) const PART_IDS: &str = "SELECT DISTINCT part FROM usage_by WHERE user_id = ? AND usage_date = ? LIMIT ?";

/// The parts of a day as they are stored: lists of id, first millisecond, end, records and rows.
pub(super) fn stored(parts: &[Part]) -> String {
    let numbers: Vec<[u64; 5]> =
        parts.iter().map(|part| [part.id, part.from.into(), part.until.into(), part.records, part.rows]).collect();
    // Numbers are always valid JSON.
    serde_json::to_string(&numbers).unwrap_or_default()
}

/// The parts; `None` if the text is damaged, or does not have so many records.
fn parts_of(text: &str, records: i64) -> Option<Vec<Part>> {
    let numbers: Vec<[u64; 5]> = serde_json::from_str(text).ok()?;
    let (mut parts, mut end, mut sum) = (Vec::with_capacity(numbers.len()), 0, 0_u64);
    for [id, from, until, records, rows] in numbers {
        let (from, until) = (u32::try_from(from).ok()?, u32::try_from(until).ok()?);
        if from < end || until <= from {
            return None;
        }
        end = until;
        sum = sum.checked_add(records)?;
        parts.push(Part { id, from, until, records, rows });
    }
    (u64::try_from(records) == Ok(sum)).then_some(parts)
}

/// A day, its records, the version of its parts, their records, and the parts. The last two are NULL without.
pub(super) fn day_of(row: &impl Columns) -> Result<UseDay, StoreError> {
    // A damaged number below zero counts as none.
    let recorded = u64::try_from(row.sum(1)?).unwrap_or(0);
    let parts = match (row.optional_integer(3)?, row.optional_text(4)?) {
        (Some(records), Some(text)) => parts_of(&text, records),
        _ => Some(Vec::new()),
    };
    Ok(UseDay { day: row.day(0)?, recorded, version: row.number(2)?, parts })
}

/// Takes the user, the two days, and twice each: service, model, API key.
const FILTER: &str = "user_id = ? AND usage_date BETWEEN ? AND ? AND (? IS NULL OR service_name = ?) \
    AND (? IS NULL OR model = ?) AND (? IS NULL OR api_key_id = ?)";

/// The sums by a property, as [`grouped_of`] reads them. Takes [`FILTER`], twice the last value of the page
/// before, and the limit.
pub(super) fn grouped(by: GroupBy) -> &'static str {
    static STATEMENTS: LazyLock<[String; GroupBy::ALL.len()]> = LazyLock::new(|| {
        GroupBy::ALL.map(|by| {
            let (key, shown) = match by {
                GroupBy::Service => ("service_name", "service_name"),
                GroupBy::Model => ("model", "model"),
                GroupBy::ApiKey => ("api_key_id", "api_key_id"),
                GroupBy::Day => ("usage_date", "CAST(usage_date AS CHAR)"),
            };
            let sums = list(|(column, _)| format!("SUM({column})"));
            format!(
                "SELECT {shown}, {sums} FROM usage_by WHERE {FILTER} AND (? IS NULL OR {key} > ?) \
                 GROUP BY {key} ORDER BY {key} LIMIT ?"
            )
        })
    });
    &STATEMENTS[by as usize]
}

/// Use by service and day. Takes [`FILTER`].
pub(super) static DAILY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT service_name, usage_date, CAST(SUM(free_count) AS SIGNED), CAST(SUM(paid_count) AS SIGNED), \
         SUM(amount), CAST(SUM(refunded_free + refunded_paid) AS SIGNED), SUM(refunded_amount) FROM usage_by \
         WHERE {FILTER} GROUP BY service_name, usage_date ORDER BY service_name, usage_date"
    )
});

/// The groups of some days that differ from the records, of the days that have all records or more. Takes
/// the days, twice the days with the times of their records, twice the days, and the limit, each in the given form.
pub(super) fn differing(days: &str, records_of_days: &str, limit: &str) -> String {
    let of_table = list(|(column, _)| column.to_owned());
    let zeros = list(|_| "0".to_owned());
    let recorded = list(|(column, _)| format!("0 AS recorded_{column}"));
    let sums = list(|(_, sum)| sum.to_owned());
    let says = list(|(column, _)| format!("SUM({column})"));
    let should_be = list(|(column, _)| format!("SUM(recorded_{column})"));
    let differs: Vec<_> = columns().map(|(column, _)| format!("SUM({column}) <> SUM(recorded_{column})")).collect();
    format!(
        "SELECT b.user_id, b.usage_date, b.service_name, b.model, b.api_key_id, {says}, {should_be} FROM (\
         SELECT user_id, usage_date, service_name, model, api_key_id, {of_table}, {recorded} FROM usage_by \
         WHERE {days} UNION ALL \
         SELECT r.user_id, r.usage_date, r.service_name, COALESCE(t.model, ''), COALESCE(t.api_key_id, ''), \
         {zeros}, {sums} FROM {} \
         GROUP BY r.user_id, r.usage_date, r.service_name, COALESCE(t.model, ''), COALESCE(t.api_key_id, '')) b \
         JOIN (SELECT user_id, usage_date FROM (\
         SELECT user_id, usage_date, records AS rolled, 0 AS recorded FROM usage_parts WHERE {days} \
         UNION ALL SELECT user_id, usage_date, 0, {RECORDED} FROM usage_daily WHERE {days}) numbers \
         GROUP BY user_id, usage_date HAVING SUM(rolled) >= SUM(recorded)) d \
         ON d.user_id = b.user_id AND d.usage_date = b.usage_date \
         GROUP BY b.user_id, b.usage_date, b.service_name, b.model, b.api_key_id HAVING {} \
         ORDER BY b.user_id, b.usage_date, b.service_name, b.model, b.api_key_id LIMIT {limit}",
        records(records_of_days),
        differs.join(" OR ")
    )
}

/// See [`differing`]; all days from the first to the last user.
pub(super) static DIFFERING_OF_USERS: LazyLock<String> = LazyLock::new(|| {
    let of_users = "user_id BETWEEN ? AND ?";
    differing(of_users, of_users, "?")
});
/// See [`differing`]; a user and two days.
pub(super) static DIFFERING_OF_DAYS: LazyLock<String> = LazyLock::new(|| {
    let of_days = "user_id = ? AND usage_date BETWEEN ? AND ?";
    differing(of_days, &format!("{of_days} AND created_at >= ? AND created_at < ?"), "?")
});
/// The places of [`differing`] that take the days, each with whether it takes the times too.
pub(super) const PLACES: [bool; 5] = [false, true, true, false, false];

/// Times that have all records of some days in any zone.
pub(super) fn times_of(days: DaySpan) -> (DateTime<Utc>, DateTime<Utc>) {
    let around = Days::new(2);
    let first = days.first.checked_sub_days(around).unwrap_or(days.first);
    let last = days.last.checked_add_days(around).unwrap_or(days.last);
    (first.and_time(NaiveTime::MIN).and_utc(), last.and_time(NaiveTime::MIN).and_utc())
}

/// The records of each user of a span, as many as both rollups have together. Takes the span twice.
pub(super) static SIZES: LazyLock<String> = LazyLock::new(|| {
    let of_span = "user_id > ? AND user_id <= ?";
    format!(
        "SELECT user_id, SUM(records) FROM (SELECT user_id, {RECORDED} AS records FROM usage_daily WHERE {of_span} \
         UNION ALL SELECT user_id, records FROM usage_parts WHERE {of_span}) numbers GROUP BY user_id ORDER BY user_id"
    )
});
/// The records of each day of a user, as many as both rollups have together. Takes the user twice.
pub(super) static DAY_SIZES: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT usage_date, SUM(records) FROM (SELECT usage_date, {RECORDED} AS records FROM usage_daily \
         WHERE user_id = ? UNION ALL SELECT usage_date, records FROM usage_parts WHERE user_id = ?) numbers \
         GROUP BY usage_date ORDER BY usage_date"
    )
});

/// A user or a day, and its records. A damaged number below zero counts as none.
pub(super) fn size_at(row: &impl Columns) -> Result<u64, StoreError> {
    Ok(u64::try_from(row.sum(1)?).unwrap_or(0))
}

/// The users of a span with days that lack records or have too many, each with the first and the last of them. Takes the
/// span twice.
pub(super) static LACKING: LazyLock<String> = LazyLock::new(|| {
    let of_span = "user_id > ? AND user_id <= ?";
    format!(
        "SELECT user_id, MIN(usage_date), MAX(usage_date), COUNT(*) FROM (SELECT user_id, usage_date FROM (\
         SELECT user_id, usage_date, records AS rolled, 0 AS recorded FROM usage_parts WHERE {of_span} \
         UNION ALL SELECT user_id, usage_date, 0, {RECORDED} FROM usage_daily WHERE {of_span}) numbers \
         GROUP BY user_id, usage_date HAVING SUM(rolled) <> SUM(recorded)) days GROUP BY user_id ORDER BY user_id"
    )
});

/// The sums from column `first` on.
fn sums_of(row: &impl Columns, first: usize) -> Result<UseSums, StoreError> {
    let mut counts = [0; UseCount::ALL.len()];
    for (index, count) in counts.iter_mut().enumerate() {
        *count = row.sum(first + index)?;
    }
    let amounts = first + counts.len();
    Ok(UseSums::new(counts, row.money(amounts)?, row.money(amounts + 1)?))
}

/// The number of columns of [`sums_of`].
const SUM_COLUMNS: usize = UseCount::ALL.len() + AMOUNTS.len();

fn group_at(row: &impl Columns, first: usize) -> Result<UseGroup, StoreError> {
    let service = ServiceName::from_stored(row.text(first)?);
    Ok(UseGroup { service, model: row.text(first + 1)?, api_key: row.text(first + 2)? })
}

/// A group and its sums.
pub(super) fn group_of(row: &impl Columns) -> Result<(UseGroup, UseSums), StoreError> {
    Ok((group_at(row, 0)?, sums_of(row, 3)?))
}

/// The value of a property, and its sums.
pub(super) fn grouped_of(row: &impl Columns) -> Result<(String, UseSums), StoreError> {
    Ok((row.text(0)?, sums_of(row, 1)?))
}

pub(super) fn model_of(row: &impl Columns) -> Result<ModelName, StoreError> {
    row.text(0).map(ModelName::from_stored)
}

/// A model, the number of its rows, and their sums.
pub(super) fn use_of_model(row: &impl Columns) -> Result<ModelUse, StoreError> {
    Ok(ModelUse { model: model_of(row)?, entries: row.number(1)?, sums: sums_of(row, 2)? })
}

/// A user, day and group, with the sums of the rollup and of the records.
pub(super) fn differing_use_of(row: &impl Columns) -> Result<(UserId, DifferingUse), StoreError> {
    let user = UserId::from_stored(row.text(0)?);
    let (rollup, records) = (sums_of(row, 5)?, sums_of(row, 5 + SUM_COLUMNS)?);
    Ok((user, DifferingUse { day: row.day(1)?, group: group_at(row, 2)?, rollup, records }))
}

/// A user, with the first and last of the days that lack records, and their number.
pub(super) fn lacking_use_of(row: &impl Columns) -> Result<LackingUse, StoreError> {
    let span = DaySpan { first: row.day(1)?, last: row.day(2)? };
    Ok(LackingUse { user: UserId::from_stored(row.text(0)?), span, days: row.number(3)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_parts_are_read_back_and_damaged_ones_are_told() {
        let part = |id, from, until, records| Part { id, from, until, records, rows: 1 };
        let parts = vec![part(7, 0, 300_000, 3), part(9, 300_000, 86_400_000, 4)];
        assert_eq!(stored(&parts), "[[7,0,300000,3,1],[9,300000,86400000,4,1]]");
        assert_eq!(parts_of(&stored(&parts), 7), Some(parts.clone()));
        assert_eq!(parts_of("[]", 0), Some(Vec::new()));
        assert_eq!(parts_of(&stored(&parts), 8), None, "another number of records");
        for damaged in ["", "[", "[[7,0,300000,7]]", "[[7,0,0,7,1]]", "[[7,0,5000000000,7,1]]"] {
            assert_eq!(parts_of(damaged, 7), None, "{damaged}");
        }
        let overlapping = [part(7, 0, 300_000, 3), part(9, 299_999, 300_001, 4)];
        assert_eq!(parts_of(&stored(&overlapping), 7), None);
        assert_eq!(parts_of("[]", -1), None, "to be summed anew");
    }
}
