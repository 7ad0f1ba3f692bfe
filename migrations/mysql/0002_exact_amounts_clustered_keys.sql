-- Amounts get six places. User ids and services compare byte by byte, so that
-- two ids which differ in case are two users. Rows are clustered by what they are
-- looked up and locked by: an account by its user, a quota by user and month, a
-- record by user and time, which makes idx_user_date redundant.

ALTER TABLE user_balance
    MODIFY user_id    VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY balance    DECIMAL(20,6) NOT NULL DEFAULT 0,
    MODIFY version    BIGINT        NOT NULL DEFAULT 0,
    MODIFY created_at DATETIME(6)   NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    MODIFY updated_at DATETIME(6)   NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
    DROP PRIMARY KEY,
    ADD PRIMARY KEY (user_id),
    DROP KEY uk_user_id;

ALTER TABLE free_quota
    MODIFY user_id      VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY service_name VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY reset_month  VARCHAR(7)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY created_at   DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    MODIFY updated_at   DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
    DROP PRIMARY KEY,
    ADD PRIMARY KEY (user_id, reset_month, service_name),
    DROP KEY uk_user_service_month;

-- usage_date is the day, in the billing time zone, that a record counts to.
-- The rows of the former service get theirs at the next start, by the configured
-- zone, which SQL does not know; then the column becomes NOT NULL. Records older
-- than trace ids have none.
ALTER TABLE billing_record
    MODIFY user_id      VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY service_name VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY amount       DECIMAL(20,6) NOT NULL DEFAULT 0,
    MODIFY created_at   DATETIME(6)   NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    ADD COLUMN usage_date DATE           NULL,
    ADD COLUMN trace_id   VARBINARY(128) NULL,
    DROP PRIMARY KEY,
    ADD PRIMARY KEY (user_id, created_at, billing_record_id),
    DROP KEY idx_user_date;

ALTER TABLE recharge_order
    MODIFY user_id    VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    MODIFY amount     DECIMAL(20,6) NOT NULL,
    MODIFY created_at DATETIME(6)   NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    MODIFY updated_at DATETIME(6)   NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6);
