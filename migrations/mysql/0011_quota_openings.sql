-- Used units of a free quota that no record of this service or of the former one
-- accounts for, found when a database of the former service was taken over. Used quota
-- = free records of the month + units. As balance_adjustment does for balances, it
-- keeps what was set by hand before, so that the books are provable from then on.
CREATE TABLE IF NOT EXISTS quota_opening (
    user_id      VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    reset_month  VARCHAR(7)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    service_name VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    units        BIGINT      NOT NULL COMMENT 'below zero: less was used than the records say',
    created_at   DATETIME(6) NOT NULL,
    PRIMARY KEY (user_id, reset_month, service_name)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
