-- Rows are clustered by what they are looked up by: an account by its user, a
-- quota by user and month, a record by user and time. SQLite can't change a
-- primary key, so the tables are made anew.

CREATE TABLE new_user_balance (
    user_balance_id TEXT    NOT NULL,
    user_id         TEXT    NOT NULL PRIMARY KEY,
    balance         INTEGER NOT NULL DEFAULT 0,
    version         INTEGER NOT NULL DEFAULT 0,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO new_user_balance
SELECT user_balance_id, user_id, balance, version, created_at, updated_at FROM user_balance;
DROP TABLE user_balance;
ALTER TABLE new_user_balance RENAME TO user_balance;

CREATE TABLE new_free_quota (
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
INSERT INTO new_free_quota
SELECT free_quota_id, user_id, service_name, total_quota, used_quota, reset_month, created_at, updated_at
FROM free_quota;
DROP TABLE free_quota;
ALTER TABLE new_free_quota RENAME TO free_quota;

-- usage_date is the day, in the billing time zone, that a record counts to.
CREATE TABLE new_billing_record (
    billing_record_id TEXT    NOT NULL,
    user_id           TEXT    NOT NULL,
    service_name      TEXT    NOT NULL,
    type              INTEGER NOT NULL,
    amount            INTEGER NOT NULL DEFAULT 0,
    count             INTEGER NOT NULL DEFAULT 1,
    created_at        INTEGER NOT NULL,
    usage_date        TEXT    NULL,
    trace_id          TEXT    NULL,
    PRIMARY KEY (user_id, created_at, billing_record_id)
) STRICT, WITHOUT ROWID;
INSERT INTO new_billing_record
SELECT billing_record_id, user_id, service_name, type, amount, count, created_at, NULL, NULL FROM billing_record;
DROP TABLE billing_record;
ALTER TABLE new_billing_record RENAME TO billing_record;
