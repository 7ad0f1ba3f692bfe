-- One row for every settled charge, found by the id that makes it idempotent. It
-- holds what the caller asked, to tell a retry from a conflict, and what was
-- answered, to answer it again.
CREATE TABLE billing_transaction (
    user_id              TEXT    NOT NULL,
    trace_id             TEXT    NOT NULL,
    status               TEXT    NOT NULL,
    service_name         TEXT    NOT NULL,
    count                INTEGER NOT NULL,
    cost                 INTEGER NULL,
    api_key_id           TEXT    NULL,
    model                TEXT    NULL,
    input_tokens         INTEGER NULL,
    output_tokens        INTEGER NULL,
    cached_input_tokens  INTEGER NULL,
    free_count           INTEGER NOT NULL,
    paid_count           INTEGER NOT NULL,
    amount               INTEGER NOT NULL,
    record_id            TEXT    NOT NULL,
    balance_after        INTEGER NOT NULL,
    free_remaining_after INTEGER NOT NULL,
    created_at           INTEGER NOT NULL,
    PRIMARY KEY (user_id, trace_id)
) STRICT, WITHOUT ROWID;

-- Use per user, day in the billing time zone, and service. Every statistic and
-- every total of a record list reads this and not the records.
CREATE TABLE usage_daily (
    user_id      TEXT    NOT NULL,
    usage_date   TEXT    NOT NULL,
    service_name TEXT    NOT NULL,
    free_count   INTEGER NOT NULL,
    paid_count   INTEGER NOT NULL,
    amount       INTEGER NOT NULL,
    free_records INTEGER NOT NULL,
    paid_records INTEGER NOT NULL,
    PRIMARY KEY (user_id, usage_date, service_name)
) STRICT, WITHOUT ROWID;

-- Operators' credits and debits, with their reasons.
CREATE TABLE balance_adjustment (
    user_id       TEXT    NOT NULL,
    adjustment_id TEXT    NOT NULL,
    amount        INTEGER NOT NULL,
    reason        TEXT    NOT NULL,
    operator      TEXT    NOT NULL,
    request_id    TEXT    NOT NULL,
    balance_after INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    PRIMARY KEY (user_id, adjustment_id)
) STRICT, WITHOUT ROWID;
