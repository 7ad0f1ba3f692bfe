-- Refunds of charges. A charge has the sum of its refunds, and charge_refund has each of them under
-- the id that makes it idempotent. Their records have the types 3 (free quota given back) and 4
-- (balance given back), and count to the day of the refund. All columns of the rollup that a charge
-- writes stay gross. The new columns are NULL without refunds, so that charges do not grow.
--
-- late_of of a record is the closed month that it would have counted to. late_date of a reservation is
-- the day that its commit counts to, if the month of the reserve had closed.
--
-- Every statement can be run again, because MySQL commits each by itself.
SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'billing_transaction' AND column_name = 'refunded_free') = 0,
    'ALTER TABLE billing_transaction
        ADD COLUMN refunded_free   INT           NULL COMMENT ''NULL: no refund'',
        ADD COLUMN refunded_paid   INT           NULL,
        ADD COLUMN refunded_amount DECIMAL(20,6) NULL,
        ADD COLUMN late_date       DATE          NULL COMMENT ''NULL: the commit counts to usage_date''', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;
SET @add_column = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'billing_record' AND column_name = 'late_of') = 0,
    'ALTER TABLE billing_record
        ADD COLUMN late_of VARCHAR(7) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT ''a closed month''', 'DO 0');
PREPARE add_column FROM @add_column;
EXECUTE add_column;
SET @add_column = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'billing_record_archive' AND column_name = 'late_of') = 0,
    'ALTER TABLE billing_record_archive
        ADD COLUMN late_of VARCHAR(7) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT ''a closed month''', 'DO 0');
PREPARE add_column FROM @add_column;
EXECUTE add_column;
SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'usage_daily' AND column_name = 'refunded_free') = 0,
    'ALTER TABLE usage_daily
        ADD COLUMN refunded_free   BIGINT        NULL COMMENT ''on the day of the refund; NULL: none'',
        ADD COLUMN refunded_paid   BIGINT        NULL,
        ADD COLUMN refunded_amount DECIMAL(20,6) NULL,
        ADD COLUMN free_refunds    BIGINT        NULL COMMENT ''records'',
        ADD COLUMN paid_refunds    BIGINT        NULL', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;
CREATE TABLE IF NOT EXISTS charge_refund (
    user_id         VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    refund_id       VARBINARY(128) NOT NULL,
    trace_id        VARBINARY(128) NOT NULL COMMENT 'of the charge',
    count           INT            NULL COMMENT 'as requested; NULL: all units that were left',
    reason          VARCHAR(255)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    request_id      VARCHAR(36)    NOT NULL,
    free_count      INT            NOT NULL COMMENT 'given back to the quota',
    lapsed_count    INT            NOT NULL COMMENT 'free units whose month was over',
    paid_count      INT            NOT NULL,
    amount          DECIMAL(20,6)  NOT NULL,
    refunded_free   INT            NOT NULL COMMENT 'all refunds of the charge up to this one',
    refunded_paid   INT            NOT NULL,
    refunded_amount DECIMAL(20,6)  NOT NULL,
    balance_after   DECIMAL(20,6)  NOT NULL,
    usage_date      DATE           NOT NULL,
    created_at      DATETIME(6)    NOT NULL,
    PRIMARY KEY (user_id, refund_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
-- The order of the list of adjustments.
SET @add_key = IF((
    SELECT COUNT(*) FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'balance_adjustment' AND index_name = 'idx_user_created') = 0,
    'ALTER TABLE balance_adjustment ADD KEY idx_user_created (user_id, created_at, request_id)', 'DO 0');
PREPARE add_key FROM @add_key;
EXECUTE add_key;
