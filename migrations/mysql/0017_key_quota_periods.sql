-- What was taken of the quota of a key, by day, by month and in all, so that another period can
-- take the place of its own. used has that of its own period. What was taken in another one
-- before this migration is not known: its count begins with as much as is certain, and with the
-- instant from which it is complete.
--
-- Every statement can be run again, because MySQL commits each by itself.
SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'api_key_quota' AND column_name = 'used_day') = 0,
    'ALTER TABLE api_key_quota
        ADD COLUMN used_day    BIGINT      NOT NULL DEFAULT 0 COMMENT ''of usage_date'',
        ADD COLUMN used_month  BIGINT      NOT NULL DEFAULT 0 COMMENT ''of the month of usage_date'',
        ADD COLUMN used_total  BIGINT      NOT NULL DEFAULT 0,
        ADD COLUMN day_since   DATETIME(6) NULL COMMENT ''used_day is complete since then; NULL: created_at'',
        ADD COLUMN month_since DATETIME(6) NULL,
        ADD COLUMN total_since DATETIME(6) NULL', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;
UPDATE api_key_quota SET
    used_day    = IF(period = 'day', used, 0),
    used_month  = IF(period = 'total', 0, used),
    used_total  = used,
    day_since   = IF(period = 'day', NULL, UTC_TIMESTAMP(6)),
    month_since = IF(period = 'month', NULL, UTC_TIMESTAMP(6)),
    total_since = IF(period = 'total', NULL, UTC_TIMESTAMP(6));
