//! Records `r` with their transactions `t`, whose content is in the archive `a` once it has moved.
//!
//! The join is that of the view `settled_transaction`, one table after the other: TiDB looks a row up by its key only if
//! the inner side of a join is one table. With the view it reads the transactions of all users for each statement.

/// Columns of the content of a transaction, as the view has them.
macro_rules! settled {
    (@ $column:literal) => {
        concat!("CASE t.status WHEN 'ARCHIVED' THEN a.", $column, " ELSE t.", $column, " END")
    };
    ($first:literal $(, $column:literal)*) => {
        concat!(settled!(@ $first) $(, ", ", settled!(@ $column))*)
    };
}
pub(super) use settled;

/// Joins the archived content of the transactions.
macro_rules! with_content {
    () => {
        " LEFT JOIN billing_transaction_archive a \
         ON t.status = 'ARCHIVED' AND a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id"
    };
}
pub(super) use with_content;

/// Joins the transactions, with their content.
macro_rules! with_transactions {
    () => {
        concat!("LEFT JOIN billing_transaction t ON t.user_id = r.user_id AND t.trace_id = r.trace_id", with_content!())
    };
}
pub(super) use with_transactions;

/// The columns of a record as lists and exports read them. API key, model and tokens are those of the transaction.
macro_rules! record_columns {
    () => {
        concat!(
            "r.billing_record_id, r.service_name, r.type, r.amount, r.count, r.created_at, r.trace_id, ",
            settled!("api_key_id", "model", "input_tokens", "output_tokens", "cached_input_tokens", "record_id"),
            ", r.late_of, ",
            settled!("cache_write_tokens", "cache_write_1h_tokens", "audio_input_tokens", "reasoning_tokens"),
            ", ",
            settled!("audio_output_tokens", "images", "served_model"),
            ", COALESCE(",
            settled!("commit_service_tier", "service_tier"),
            ")"
        )
    };
}
pub(super) use record_columns;
