-- Caps on the requests of a user, and the requests of the last day in which there were any
-- and of its month. Users without caps have no row, and cost nothing.
CREATE TABLE tenant_quota (
    user_id       TEXT    NOT NULL PRIMARY KEY,
    -- NULL: no cap.
    daily_limit   INTEGER NULL,
    monthly_limit INTEGER NULL,
    -- The billing day that daily_used counts; monthly_used counts its month.
    usage_date    TEXT    NOT NULL,
    daily_used    INTEGER NOT NULL DEFAULT 0,
    monthly_used  INTEGER NOT NULL DEFAULT 0,
    version       INTEGER NOT NULL DEFAULT 0,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
