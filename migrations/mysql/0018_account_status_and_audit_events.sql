-- The status of an account, and the audit trail: an event for each call that changes the property of
-- an operator. Nothing updates or deletes an event.
--
-- Every statement can be run again, because MySQL commits each by itself.
SET @add_column = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'user_balance' AND column_name = 'status') = 0,
    'ALTER TABLE user_balance
        ADD COLUMN status TINYINT NOT NULL DEFAULT 0 COMMENT ''0 active, 1 frozen, 2 closed''', 'DO 0');
PREPARE add_column FROM @add_column;
EXECUTE add_column;
CREATE TABLE IF NOT EXISTS audit_event (
    event_id     CHAR(36)       CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'UUID, ordered by time',
    created_at   DATETIME(6)    NOT NULL,
    caller       VARCHAR(64)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    role         VARCHAR(32)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    request_id   VARBINARY(128) NOT NULL,
    rpc          VARCHAR(32)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    user_id      VARCHAR(36)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'NULL: of no user',
    state_before TEXT           CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'JSON; NULL: there was none',
    state_after  TEXT           CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'JSON; NULL: there is none',
    reason       VARCHAR(255)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
    PRIMARY KEY (event_id),
    KEY idx_time (created_at, event_id),
    KEY idx_user (user_id, created_at, event_id),
    KEY idx_rpc (rpc, created_at, event_id),
    KEY idx_caller (caller, created_at, event_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
