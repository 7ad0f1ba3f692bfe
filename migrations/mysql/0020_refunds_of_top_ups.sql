-- Refunds and chargebacks of top-ups, and payments that were reported and not credited.
--
-- credited_at stays NULL on the orders that are credited already: the last change of such an order is
-- its credit, and the times of legacy orders are converted after the migrations.
--
-- Every statement can be run again, because MySQL commits each by itself.
SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'recharge_order' AND column_name = 'refunded_amount') = 0,
    'ALTER TABLE recharge_order
        ADD COLUMN refunded_amount  DECIMAL(20,6) NOT NULL DEFAULT 0 COMMENT ''refunds and chargebacks'',
        ADD COLUMN refunding_amount DECIMAL(20,6) NOT NULL DEFAULT 0 COMMENT ''pending refunds'',
        ADD COLUMN credited_at      DATETIME(6)   NULL COMMENT ''NULL: updated_at, if credited''', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;

-- The id is unique among all orders, because payment-service finds a refund by it alone.
CREATE TABLE IF NOT EXISTS recharge_refund (
    refund_id     VARBINARY(128) NOT NULL,
    order_id      VARCHAR(64)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    user_id       VARCHAR(36)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    kind          VARCHAR(10)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL
        COMMENT 'requested, reported, chargeback',
    status        VARCHAR(10)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL
        COMMENT 'pending (held), success (debited), failed',
    amount        DECIMAL(20,6)  NOT NULL,
    asked_amount  DECIMAL(20,6)  NULL COMMENT 'as requested; NULL: all that was left',
    is_forced     TINYINT        NOT NULL DEFAULT 0,
    reason        VARCHAR(255)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
    request_id    CHAR(36)       CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    balance_after DECIMAL(20,6)  NOT NULL,
    created_at    DATETIME(6)    NOT NULL,
    updated_at    DATETIME(6)    NOT NULL,
    settled_at    DATETIME(6)    NULL COMMENT 'of the debit',
    PRIMARY KEY (refund_id),
    KEY idx_user_settled (user_id, settled_at),
    KEY idx_order (order_id),
    KEY idx_status_created (status, created_at, refund_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS unapplied_payment (
    payment_order_id VARCHAR(64)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    order_id         VARCHAR(64)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'as last reported while open',
    amount           DECIMAL(20,6) NOT NULL,
    currency         VARCHAR(8)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    cause            VARCHAR(32)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    times_seen       BIGINT        NOT NULL DEFAULT 1,
    first_seen_at    DATETIME(6)   NOT NULL,
    last_seen_at     DATETIME(6)   NOT NULL,
    status           VARCHAR(10)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT 'open'
        COMMENT 'open, applied, credited, refunding, refunded, dismissed, conflict',
    user_id          VARCHAR(36)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'to whom it was credited',
    reason           VARCHAR(255)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '' COMMENT 'of the operator',
    refunds          INT           NOT NULL DEFAULT 0 COMMENT 'attempts to refund it',
    resolved_at      DATETIME(6)   NULL,
    PRIMARY KEY (payment_order_id),
    KEY idx_status_seen (status, first_seen_at, payment_order_id),
    KEY idx_seen (first_seen_at, payment_order_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
