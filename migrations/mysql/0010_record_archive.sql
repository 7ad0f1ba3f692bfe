-- Records that are older than billing.record_months. The same rows under the same key, out of
-- the way of the table that every charge writes.
--
-- Ids of records compare byte by byte, whatever the former service's tables had: lists read
-- both tables in one statement, which two collations would end.

ALTER TABLE billing_record
    MODIFY billing_record_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL;
CREATE TABLE IF NOT EXISTS billing_record_archive (
    billing_record_id VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    user_id           VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    service_name      VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    type              TINYINT        NOT NULL COMMENT '1 free quota, 2 balance',
    amount            DECIMAL(20,6)  NOT NULL,
    count             INT            NOT NULL,
    created_at        DATETIME(6)    NOT NULL,
    usage_date        DATE           NOT NULL,
    trace_id          VARBINARY(128) NULL,
    PRIMARY KEY (user_id, created_at, billing_record_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
