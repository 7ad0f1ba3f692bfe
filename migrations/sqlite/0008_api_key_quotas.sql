-- Quotas of API keys, and what of them was taken in the period of the last day on which
-- anything was. Requests and tokens are counted, amounts are in millionths. Keys without
-- quotas have no row.
CREATE TABLE api_key_quota (
    api_key_id  TEXT    NOT NULL,
    quota_type  TEXT    NOT NULL,
    period      TEXT    NOT NULL,
    quota_limit INTEGER NOT NULL,
    used        INTEGER NOT NULL DEFAULT 0,
    -- The billing day whose period used counts.
    usage_date  TEXT    NOT NULL,
    version     INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (api_key_id, quota_type)
) STRICT, WITHOUT ROWID;
