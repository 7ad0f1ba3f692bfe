-- Top-up orders: how and where they are paid. Ids compare byte by byte, so that two
-- which differ in case are two. Lists go by user and time, and the search for orders
-- that stay pending by status and time.
--
-- Every statement can be run again, because MySQL commits each by itself.

SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'recharge_order' AND column_name = 'payment_url') = 0,
    'ALTER TABLE recharge_order
        ADD COLUMN payment_method VARCHAR(16)   NULL COMMENT ''alipay, wechatpay, stripe'',
        ADD COLUMN payment_url    VARCHAR(2048) NULL COMMENT ''where the user pays''', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;

-- Compared as they were until now: in any case, and without the spaces at their ends.
UPDATE recharge_order SET
    status = LOWER(TRIM(COALESCE(status, 'pending'))),
    order_id = RTRIM(order_id),
    payment_order_id = NULLIF(RTRIM(payment_order_id), ''),
    updated_at = updated_at;
ALTER TABLE recharge_order
    MODIFY order_id         VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY payment_order_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    MODIFY status           VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT 'pending'
        COMMENT 'pending, success, failed, expired';

SET @change_keys = IF((
    SELECT COUNT(*) FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'recharge_order' AND index_name = 'idx_user_created') = 0,
    'ALTER TABLE recharge_order
        ADD KEY idx_user_created (user_id, created_at, order_id),
        ADD KEY idx_status_created (status, created_at, order_id)', 'DO 0');
PREPARE change_keys FROM @change_keys;
EXECUTE change_keys;

-- What idx_user_created begins with.
SET @drop_keys = COALESCE((
    SELECT CONCAT('ALTER TABLE recharge_order ', GROUP_CONCAT(DISTINCT 'DROP KEY `', index_name, '`'))
    FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'recharge_order' AND index_name = 'idx_user_id'), 'DO 0');
PREPARE drop_keys FROM @drop_keys;
EXECUTE drop_keys;
