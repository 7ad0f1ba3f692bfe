-- Records that are older than billing.record_months. The same rows under the same key, out of
-- the way of the table that every charge writes.
CREATE TABLE billing_record_archive (
    billing_record_id TEXT    NOT NULL,
    user_id           TEXT    NOT NULL,
    service_name      TEXT    NOT NULL,
    type              INTEGER NOT NULL,
    amount            INTEGER NOT NULL,
    count             INTEGER NOT NULL,
    created_at        INTEGER NOT NULL,
    usage_date        TEXT    NOT NULL,
    trace_id          TEXT    NULL,
    PRIMARY KEY (user_id, created_at, billing_record_id)
) STRICT, WITHOUT ROWID;
