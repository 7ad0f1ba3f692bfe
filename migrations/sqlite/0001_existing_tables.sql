-- The tables of the service this one replaces, for the embedded default. SQLite
-- has neither decimals nor instants: amounts are whole millionths, times are
-- microseconds since 1970 in UTC. Text compares byte by byte.
--
-- No SQLite database of the former service exists, so the tables are made at once
-- as 0002 leaves those of MySQL: clustered by what they are looked up by.

CREATE TABLE user_balance (
    user_balance_id TEXT    NOT NULL,
    user_id         TEXT    NOT NULL PRIMARY KEY,
    balance         INTEGER NOT NULL DEFAULT 0,
    version         INTEGER NOT NULL DEFAULT 0,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE free_quota (
    free_quota_id TEXT    NOT NULL,
    user_id       TEXT    NOT NULL,
    service_name  TEXT    NOT NULL,
    total_quota   INTEGER NOT NULL,
    used_quota    INTEGER NOT NULL DEFAULT 0,
    reset_month   TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    PRIMARY KEY (user_id, reset_month, service_name)
) STRICT, WITHOUT ROWID;

-- usage_date is the day, in the billing time zone, that a record counts to.
CREATE TABLE billing_record (
    billing_record_id TEXT    NOT NULL,
    user_id           TEXT    NOT NULL,
    service_name      TEXT    NOT NULL,
    type              INTEGER NOT NULL,
    amount            INTEGER NOT NULL DEFAULT 0,
    count             INTEGER NOT NULL DEFAULT 1,
    created_at        INTEGER NOT NULL,
    usage_date        TEXT    NOT NULL,
    trace_id          TEXT    NULL,
    PRIMARY KEY (user_id, created_at, billing_record_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE recharge_order (
    order_id         TEXT    NOT NULL PRIMARY KEY,
    user_id          TEXT    NOT NULL,
    amount           INTEGER NOT NULL,
    payment_order_id TEXT    NULL UNIQUE,
    status           TEXT    NOT NULL DEFAULT 'pending',
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL
) STRICT;
CREATE INDEX idx_user_id ON recharge_order (user_id);
