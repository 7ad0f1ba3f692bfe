//! Records and transactions, one by one.
//!
//! All records of a transaction have its time, except those of a commit after the close of its month: they have the
//! time of the commit. `record_id` of a transaction is the main one of its records.

/// The first times of records in a table.
macro_rules! times_of {
    ($table:literal) => {
        concat!(
            "SELECT * FROM (SELECT created_at FROM ",
            $table,
            " WHERE user_id = {first} AND created_at > {from} ORDER BY created_at LIMIT {limit}) ",
            $table
        )
    };
}

/// The end of the times of `{limit}` records of the user `{first}` behind `{from}`, and their number.
pub(in crate::data) const TIME_BEHIND: &str = concat!(
    "SELECT MAX(created_at), COUNT(*) FROM (SELECT created_at FROM (",
    times_of!("billing_record"),
    " UNION ALL ",
    times_of!("billing_record_archive"),
    ") times ORDER BY created_at LIMIT {limit}) first_times"
);

/// The trace id of the user `{first}` with `{limit}` others between it and `{after_trace}`.
pub(in crate::data) const TRACE_BEHIND: &str = "SELECT trace_id FROM billing_transaction WHERE user_id = {first} \
    AND trace_id > {after_trace} ORDER BY trace_id LIMIT 1 OFFSET {limit}";

/// The records of charges in a table.
macro_rules! charges_of {
    ($table:literal) => {
        concat!(
            "SELECT user_id, trace_id, CASE type WHEN 1 THEN count ELSE 0 END AS free, \
             CASE type WHEN 2 THEN count ELSE 0 END AS paid, amount FROM ",
            $table,
            " WHERE user_id IN ({users}) AND created_at >= {from} AND created_at < {until} AND trace_id > '' \
             AND type IN (1, 2)"
        )
    };
}

/// The transactions of the records of a span of times that differ from them. A charge of reported usage that went on
/// in a later month has records of two times, and nothing in its row says so. Beyond the span it may have more.
pub(in crate::data) const DIFFERING_CHARGES: &str = concat!(
    "SELECT r.user_id, r.trace_id, CAST(CASE t.status WHEN 'COMMITTED' THEN t.free_count ELSE 0 END AS SIGNED), \
     CAST(CASE t.status WHEN 'COMMITTED' THEN t.paid_count ELSE 0 END AS SIGNED), \
     CASE t.status WHEN 'COMMITTED' THEN t.amount ELSE r.amount * 0 END, CAST(r.free AS SIGNED), \
     CAST(r.paid AS SIGNED), r.amount FROM (SELECT user_id, trace_id, SUM(free) AS free, SUM(paid) AS paid, \
     SUM(amount) AS amount FROM (",
    charges_of!("billing_record"),
    " UNION ALL ",
    charges_of!("billing_record_archive"),
    ") charges GROUP BY user_id, trace_id) r \
     LEFT JOIN settled_transaction t ON t.user_id = r.user_id AND t.trace_id = r.trace_id \
     WHERE t.user_id IS NULL OR t.status <> 'COMMITTED' OR CASE WHEN t.charged_by IS NOT NULL AND (t.created_at < {from} \
     OR {is_part} = 1) \
     THEN r.free > t.free_count OR r.paid > t.paid_count OR r.amount > t.amount \
     ELSE r.free <> t.free_count OR r.paid <> t.paid_count OR r.amount <> t.amount END \
     ORDER BY r.user_id, r.trace_id LIMIT {limit}"
);

/// The charges of `{users}` since `{from}` without their main record at their own time. Each is one probe of the
/// clustered key.
pub(in crate::data) const UNRECORDED: &str = "SELECT t.user_id, t.trace_id, CAST(t.free_count AS SIGNED), \
    CAST(t.paid_count AS SIGNED), t.amount, CAST(0 AS SIGNED), CAST(0 AS SIGNED), t.amount * 0 \
    FROM settled_transaction t LEFT JOIN billing_record r \
    ON r.user_id = t.user_id AND r.created_at = t.created_at AND r.billing_record_id = t.record_id AND r.trace_id = t.trace_id \
    LEFT JOIN billing_record_archive a \
    ON a.user_id = t.user_id AND a.created_at = t.created_at AND a.billing_record_id = t.record_id AND a.trace_id = t.trace_id \
    WHERE t.user_id IN ({users}) AND t.trace_id > {after_trace} AND t.trace_id <= {last_trace} \
    AND t.status = 'COMMITTED' AND (t.created_at >= {from} OR t.late_date >= {day}) \
    AND (t.free_count <> 0 OR t.paid_count <> 0 OR t.amount <> 0) AND r.user_id IS NULL AND a.user_id IS NULL \
    ORDER BY t.user_id, t.trace_id LIMIT {limit}";

/// The traces with records of a table.
macro_rules! recorded_in {
    ($table:literal) => {
        concat!(
            "SELECT user_id, trace_id FROM ",
            $table,
            " WHERE user_id IN ({users}) AND created_at >= {from} AND trace_id IN ({traces}) AND type IN (1, 2)"
        )
    };
}

/// The users and `{traces}` with records since `{from}`.
pub(in crate::data) const RECORDED: &str =
    concat!(recorded_in!("billing_record"), " UNION ", recorded_in!("billing_record_archive"));
