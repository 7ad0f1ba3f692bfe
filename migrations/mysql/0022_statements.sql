-- The time at which this service took the database of the legacy service over; no row for a database
-- that was always its own. Statements begin with the first full month after it.
--
-- A conversion writes the time of its end. A database that an older release has converted has accounts
-- older than the first migration, or opening entries.
--
-- Every statement can be run again, because MySQL commits each by itself.
CREATE TABLE IF NOT EXISTS legacy_takeover (
    only_row      TINYINT     NOT NULL,
    taken_over_at DATETIME(6) NOT NULL,
    PRIMARY KEY (only_row)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
SET @note_takeover = IF((
    SELECT COUNT(*) FROM information_schema.tables
    WHERE table_schema = DATABASE() AND table_name = '_sqlx_migrations') = 1,
    'INSERT IGNORE INTO legacy_takeover (only_row, taken_over_at)
        SELECT 1, first.installed_on FROM (SELECT MIN(installed_on) AS installed_on FROM _sqlx_migrations) first
        WHERE EXISTS (SELECT 1 FROM user_balance WHERE created_at < first.installed_on - INTERVAL 1 DAY)
        OR EXISTS (SELECT 1 FROM balance_adjustment WHERE adjustment_id = ''opening'' AND operator = ''upgrade'')', 'DO 0');
PREPARE note_takeover FROM @note_takeover;
EXECUTE note_takeover;

-- A statement reads the orders that changed since its month began: a credit is a change.
SET @add_key = IF((
    SELECT COUNT(*) FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'recharge_order' AND index_name = 'idx_user_updated') = 0,
    'ALTER TABLE recharge_order ADD KEY idx_user_updated (user_id, updated_at)', 'DO 0');
PREPARE add_key FROM @add_key;
EXECUTE add_key;
