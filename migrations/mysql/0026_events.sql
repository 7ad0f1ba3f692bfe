-- Events, written in the transactions that made them true. seq is the order in which transactions took their
-- numbers, not the order of their commits. position is the place in the feed, given to visible rows when the feed
-- is read. event_feed has one row: the last given position, whose lock makes the giving exclusive, and the last month
-- that was announced as closed.
--
-- user_balance.is_exhausted says that a call was refused for money since the last credit. alerts has the thresholds
-- of the user.
--
-- Every statement can be run again, because MySQL commits each by itself.
CREATE TABLE IF NOT EXISTS event (
    seq        BIGINT      NOT NULL AUTO_INCREMENT,
    position   BIGINT      NULL COMMENT 'NULL: not read yet',
    event_id   CHAR(36)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'UUID, ordered by time',
    type       VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    user_id    VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'NULL: of no user',
    data       TEXT        CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'a JSON object',
    created_at DATETIME(6) NOT NULL,
    PRIMARY KEY (seq),
    UNIQUE KEY uk_event (event_id),
    UNIQUE KEY uk_position (position),
    KEY idx_user (user_id, position)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 /*T![auto_id_cache] AUTO_ID_CACHE = 1 */;

CREATE TABLE IF NOT EXISTS event_feed (
    id           TINYINT NOT NULL COMMENT 'always 1',
    position     BIGINT  NOT NULL,
    closed_month CHAR(7) CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'NULL: none yet',
    PRIMARY KEY (id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
INSERT IGNORE INTO event_feed (id, position) VALUES (1, 0);

SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'user_balance' AND column_name = 'is_exhausted') = 0,
    'ALTER TABLE user_balance
        ADD COLUMN is_exhausted TINYINT NOT NULL DEFAULT 0,
        ADD COLUMN alerts VARCHAR(512) CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT ''JSON; NULL: as configured''',
    'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;
