-- Amounts get six places. User ids and services compare byte by byte, so that
-- two ids which differ in case are two users. Rows are clustered by what they are
-- looked up and locked by: an account by its user, a quota by user and month, a
-- record by user and time. The unique and secondary keys that this makes redundant
-- go, whatever their names are.
--
-- Every statement can be run again, because MySQL commits each by itself.

UPDATE user_balance SET balance = COALESCE(balance, 0), version = COALESCE(version, 0),
    created_at = COALESCE(created_at, UTC_TIMESTAMP()), updated_at = COALESCE(updated_at, UTC_TIMESTAMP())
    WHERE balance IS NULL OR version IS NULL OR created_at IS NULL OR updated_at IS NULL;
ALTER TABLE user_balance
    MODIFY user_id    VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY balance    DECIMAL(20,6) NOT NULL DEFAULT 0,
    MODIFY version    BIGINT        NOT NULL DEFAULT 0,
    MODIFY created_at DATETIME(6)   NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    MODIFY updated_at DATETIME(6)   NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
    DROP PRIMARY KEY,
    ADD PRIMARY KEY (user_id);
SET @drop_keys = COALESCE((
    SELECT CONCAT('ALTER TABLE user_balance ', GROUP_CONCAT(DISTINCT 'DROP KEY `', index_name, '`'))
    FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'user_balance' AND index_name <> 'PRIMARY'), 'DO 0');
PREPARE drop_keys FROM @drop_keys;
EXECUTE drop_keys;

UPDATE free_quota SET used_quota = COALESCE(used_quota, 0), total_quota = COALESCE(total_quota, 0),
    created_at = COALESCE(created_at, UTC_TIMESTAMP()), updated_at = COALESCE(updated_at, UTC_TIMESTAMP())
    WHERE used_quota IS NULL OR total_quota IS NULL OR created_at IS NULL OR updated_at IS NULL;
ALTER TABLE free_quota
    MODIFY user_id      VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY service_name VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY total_quota  INT         NOT NULL,
    MODIFY used_quota   INT         NOT NULL DEFAULT 0,
    MODIFY reset_month  VARCHAR(7)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY created_at   DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    MODIFY updated_at   DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
    DROP PRIMARY KEY,
    ADD PRIMARY KEY (user_id, reset_month, service_name);
SET @drop_keys = COALESCE((
    SELECT CONCAT('ALTER TABLE free_quota ', GROUP_CONCAT(DISTINCT 'DROP KEY `', index_name, '`'))
    FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'free_quota' AND index_name <> 'PRIMARY'), 'DO 0');
PREPARE drop_keys FROM @drop_keys;
EXECUTE drop_keys;

-- usage_date is the day, in the billing time zone, that a record counts to.
-- The rows of the former service get theirs at the next start, by the configured
-- zone, which SQL does not know; then the column becomes NOT NULL. Records older
-- than trace ids have none; a record without a time counts to the first day of all.
UPDATE billing_record SET amount = COALESCE(amount, 0), count = COALESCE(count, 0),
    created_at = COALESCE(created_at, '1970-01-02 00:00:00')
    WHERE amount IS NULL OR count IS NULL OR created_at IS NULL;
SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'billing_record' AND column_name = 'usage_date') = 0,
    'ALTER TABLE billing_record ADD COLUMN usage_date DATE NULL, ADD COLUMN trace_id VARBINARY(128) NULL', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;
ALTER TABLE billing_record
    MODIFY user_id      VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY service_name VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY amount       DECIMAL(20,6) NOT NULL DEFAULT 0,
    MODIFY count        INT           NOT NULL DEFAULT 1,
    MODIFY created_at   DATETIME(6)   NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    DROP PRIMARY KEY,
    ADD PRIMARY KEY (user_id, created_at, billing_record_id);
SET @drop_keys = COALESCE((
    SELECT CONCAT('ALTER TABLE billing_record ', GROUP_CONCAT(DISTINCT 'DROP KEY `', index_name, '`'))
    FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'billing_record' AND index_name <> 'PRIMARY'), 'DO 0');
PREPARE drop_keys FROM @drop_keys;
EXECUTE drop_keys;

UPDATE recharge_order SET created_at = COALESCE(created_at, UTC_TIMESTAMP()),
    updated_at = COALESCE(updated_at, UTC_TIMESTAMP()) WHERE created_at IS NULL OR updated_at IS NULL;
ALTER TABLE recharge_order
    MODIFY user_id    VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY amount     DECIMAL(20,6) NOT NULL,
    MODIFY created_at DATETIME(6)   NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    MODIFY updated_at DATETIME(6)   NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6);
