-- The status of an account, and the audit trail: an event for each call that changes the property of
-- an operator. Nothing updates or deletes an event.
ALTER TABLE user_balance ADD COLUMN status INTEGER NOT NULL DEFAULT 0; -- 0 active, 1 frozen, 2 closed
CREATE TABLE audit_event (
    event_id     TEXT    NOT NULL PRIMARY KEY,
    created_at   INTEGER NOT NULL,
    caller       TEXT    NOT NULL,
    role         TEXT    NOT NULL,
    request_id   TEXT    NOT NULL,
    rpc          TEXT    NOT NULL,
    user_id      TEXT    NULL,
    state_before TEXT    NULL, -- JSON; NULL: there was none
    state_after  TEXT    NULL,
    reason       TEXT    NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX idx_audit_time ON audit_event (created_at, event_id);
CREATE INDEX idx_audit_user ON audit_event (user_id, created_at, event_id);
CREATE INDEX idx_audit_rpc ON audit_event (rpc, created_at, event_id);
CREATE INDEX idx_audit_caller ON audit_event (caller, created_at, event_id);
