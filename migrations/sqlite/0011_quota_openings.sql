-- Used units of a free quota that no record accounts for. Used quota = free records of
-- the month + units. Written when a database of the former service is taken over, which
-- never is one of SQLite's; here for the audit, which reads the same books everywhere.
CREATE TABLE quota_opening (
    user_id      TEXT    NOT NULL,
    reset_month  TEXT    NOT NULL,
    service_name TEXT    NOT NULL,
    -- Below zero: less was used than the records say.
    units        INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (user_id, reset_month, service_name)
) STRICT, WITHOUT ROWID;
