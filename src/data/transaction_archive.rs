//! The texts that move a transaction to `billing_transaction_archive`, and its narrow row. Readers name the view
//! `settled_transaction`, which has the content of both tables.

use super::row::Columns;

/// The status of a narrow row. It is none of those that a reader knows, so a row without its content is refused.
const STATUS: &str = "ARCHIVED";

/// The condition of a transaction that nothing but a refund changes any more. A charge of reported usage takes one
/// more commit at any time, and is final after it. Takes a prefix of the columns.
macro_rules! is_final {
    () => {
        is_final!("")
    };
    ($table:literal) => {
        concat!($table, "status = 'COMMITTED' AND (", $table, "charged_by IS NULL OR ", $table, "charged_by = 2)")
    };
}
pub(in crate::data) use is_final;

/// The columns that move, on both databases.
macro_rules! moved_columns {
    () => {
        "user_id, created_at, trace_id, status, service_name, count, cost, api_key_id, model, input_tokens, output_tokens, \
         cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, free_remaining_after, held_free, \
         held_amount, full_cost, commit_cost, usage_date, expires_at, price_version, input_price, cached_input_price, \
         output_price, estimated_input_tokens, estimated_output_tokens, quota_unit, shortfall, charged_by, \
         cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, reasoning_tokens, audio_output_tokens, images, \
         service_tier, commit_service_tier, served_model, plan, price_details, reports"
    };
}
pub(in crate::data) use moved_columns;

/// The assignments that make a row narrow. The refunds stay in it, because a refund writes them there, and `late_date`,
/// so that a look for charges since a day needs no content of older ones.
macro_rules! narrowed {
    () => {
        "status = 'ARCHIVED', service_name = '', count = 0, cost = NULL, api_key_id = NULL, model = NULL, \
         input_tokens = NULL, output_tokens = NULL, cached_input_tokens = NULL, free_count = 0, paid_count = 0, \
         amount = 0, record_id = '', balance_after = 0, free_remaining_after = 0, held_free = NULL, held_amount = NULL, \
         full_cost = NULL, commit_cost = NULL, usage_date = NULL, expires_at = NULL, price_version = NULL, \
         input_price = NULL, cached_input_price = NULL, output_price = NULL, estimated_input_tokens = NULL, \
         estimated_output_tokens = NULL, quota_unit = NULL, shortfall = NULL, charged_by = NULL, \
         cache_write_tokens = NULL, cache_write_1h_tokens = NULL, audio_input_tokens = NULL, reasoning_tokens = NULL, \
         audio_output_tokens = NULL, images = NULL, service_tier = NULL, commit_service_tier = NULL, \
         served_model = NULL, plan = NULL, price_details = NULL, reports = NULL"
    };
}
pub(in crate::data) use narrowed;

/// The narrow rows without their content, in two columns: user, and a description. Takes the first and the last user.
pub(in crate::data) const WITHOUT_CONTENT: &str = "\
    SELECT t.user_id, CONCAT('archived transaction ', t.trace_id, ' without its content') FROM billing_transaction t \
    LEFT JOIN billing_transaction_archive a \
    ON a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id \
    WHERE t.status = 'ARCHIVED' AND t.user_id BETWEEN ? AND ? AND a.user_id IS NULL";

/// The contents that disagree with their narrow row, as [`WITHOUT_CONTENT`].
pub(in crate::data) const DISAGREEING: &str = "\
    SELECT a.user_id, CONCAT('archived transaction ', a.trace_id, ' with status ', a.status, CASE \
    WHEN t.user_id IS NULL THEN ' without a row in billing_transaction' \
    WHEN t.status <> 'ARCHIVED' THEN ' although the row in billing_transaction is not archived' \
    WHEN t.created_at <> a.created_at THEN ' has another time than its narrow row' \
    WHEN a.status <> 'COMMITTED' THEN ', and only COMMITTED ones move' \
    ELSE ' is a charge by report, to which a commit may add' END) \
    FROM billing_transaction_archive a \
    LEFT JOIN billing_transaction t ON t.user_id = a.user_id AND t.trace_id = a.trace_id \
    WHERE a.user_id BETWEEN ? AND ? AND (t.user_id IS NULL OR t.status <> 'ARCHIVED' OR t.created_at <> a.created_at \
    OR a.status <> 'COMMITTED' OR a.charged_by = 1)";

/// Whether a row of `billing_transaction` is narrow, by its column `status`.
pub(in crate::data) fn is_narrow(row: &impl Columns, status: usize) -> bool {
    row.text(status).is_ok_and(|status| status == STATUS)
}
