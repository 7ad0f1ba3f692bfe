-- The content of settled transactions whose records are older than billing.record_months, in time order for each
-- user. The row of billing_transaction stays under its key, so a charge needs no further read to know a used id. It
-- becomes narrow: created_at, late_date and the refunds stay, status is ARCHIVED, all else is NULL, '' or 0.
CREATE TABLE IF NOT EXISTS billing_transaction_archive (
    user_id                 TEXT    NOT NULL,
    created_at              INTEGER NOT NULL,
    trace_id                TEXT    NOT NULL,
    status                  TEXT    NOT NULL,
    service_name            TEXT    NOT NULL,
    count                   INTEGER NOT NULL,
    cost                    INTEGER NULL,
    api_key_id              TEXT    NULL,
    model                   TEXT    NULL,
    input_tokens            INTEGER NULL,
    output_tokens           INTEGER NULL,
    cached_input_tokens     INTEGER NULL,
    free_count              INTEGER NOT NULL,
    paid_count              INTEGER NOT NULL,
    amount                  INTEGER NOT NULL,
    record_id               TEXT    NOT NULL,
    balance_after           INTEGER NOT NULL,
    free_remaining_after    INTEGER NOT NULL,
    held_free               INTEGER NULL,
    held_amount             INTEGER NULL,
    full_cost               INTEGER NULL,
    commit_cost             INTEGER NULL,
    usage_date              TEXT    NULL,
    expires_at              INTEGER NULL,
    price_version           TEXT    NULL,
    input_price             INTEGER NULL,
    cached_input_price      INTEGER NULL,
    output_price            INTEGER NULL,
    estimated_input_tokens  INTEGER NULL,
    estimated_output_tokens INTEGER NULL,
    quota_unit              TEXT    NULL,
    shortfall               INTEGER NULL,
    charged_by              INTEGER NULL,
    cache_write_tokens      INTEGER NULL,
    cache_write_1h_tokens   INTEGER NULL,
    audio_input_tokens      INTEGER NULL,
    reasoning_tokens        INTEGER NULL,
    audio_output_tokens     INTEGER NULL,
    images                  INTEGER NULL,
    service_tier            TEXT    NULL,
    commit_service_tier     TEXT    NULL,
    served_model            TEXT    NULL,
    plan                    TEXT    NULL,
    price_details           TEXT    NULL,
    reports                 TEXT    NULL,
    PRIMARY KEY (user_id, created_at, trace_id)
) STRICT, WITHOUT ROWID;

-- Has a row once the transactions are moved whose records an older release has moved alone.
CREATE TABLE IF NOT EXISTS transactions_archived (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    done_at  INTEGER NOT NULL
) STRICT;

-- All transactions as they were settled, wherever their content is. Readers name it in place of billing_transaction;
-- a new column of billing_transaction goes into the archive and into a new version of this view. An archived row
-- whose content is lost keeps the status ARCHIVED, which no reader takes for a settled one.
--
-- Its expressions are scalar, because SQLite does not merge a view of two tables into an outer join.
DROP VIEW IF EXISTS settled_transaction;
CREATE VIEW settled_transaction AS
SELECT
    t.user_id,
    t.trace_id,
    CASE t.status WHEN 'ARCHIVED' THEN COALESCE((SELECT a.status FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id), 'ARCHIVED') ELSE t.status END AS status,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.service_name FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.service_name END AS service_name,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.count FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.count END AS count,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.cost FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.cost END AS cost,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.api_key_id FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.api_key_id END AS api_key_id,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.model FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.model END AS model,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.input_tokens FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.input_tokens END AS input_tokens,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.output_tokens FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.output_tokens END AS output_tokens,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.cached_input_tokens FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.cached_input_tokens END AS cached_input_tokens,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.free_count FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.free_count END AS free_count,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.paid_count FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.paid_count END AS paid_count,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.amount FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.amount END AS amount,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.record_id FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.record_id END AS record_id,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.balance_after FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.balance_after END AS balance_after,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.free_remaining_after FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.free_remaining_after END AS free_remaining_after,
    t.created_at,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.held_free FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.held_free END AS held_free,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.held_amount FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.held_amount END AS held_amount,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.full_cost FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.full_cost END AS full_cost,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.commit_cost FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.commit_cost END AS commit_cost,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.usage_date FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.usage_date END AS usage_date,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.expires_at FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.expires_at END AS expires_at,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.price_version FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.price_version END AS price_version,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.input_price FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.input_price END AS input_price,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.cached_input_price FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.cached_input_price END AS cached_input_price,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.output_price FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.output_price END AS output_price,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.estimated_input_tokens FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.estimated_input_tokens END AS estimated_input_tokens,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.estimated_output_tokens FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.estimated_output_tokens END AS estimated_output_tokens,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.quota_unit FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.quota_unit END AS quota_unit,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.shortfall FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.shortfall END AS shortfall,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.charged_by FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.charged_by END AS charged_by,
    t.refunded_free,
    t.refunded_paid,
    t.refunded_amount,
    t.late_date,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.cache_write_tokens FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.cache_write_tokens END AS cache_write_tokens,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.cache_write_1h_tokens FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.cache_write_1h_tokens END AS cache_write_1h_tokens,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.audio_input_tokens FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.audio_input_tokens END AS audio_input_tokens,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.reasoning_tokens FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.reasoning_tokens END AS reasoning_tokens,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.audio_output_tokens FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.audio_output_tokens END AS audio_output_tokens,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.images FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.images END AS images,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.service_tier FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.service_tier END AS service_tier,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.commit_service_tier FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.commit_service_tier END AS commit_service_tier,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.served_model FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.served_model END AS served_model,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.plan FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.plan END AS plan,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.price_details FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.price_details END AS price_details,
    CASE t.status WHEN 'ARCHIVED' THEN (SELECT a.reports FROM billing_transaction_archive a
        WHERE a.user_id = t.user_id AND a.created_at = t.created_at AND a.trace_id = t.trace_id) ELSE t.reports END AS reports
FROM billing_transaction t;
