-- Money of unapplied payments that went back: its sum at each payment, and each return under its refund id, so
-- that a repeated report counts once.
--
-- times_seen is 0 while only a return of the payment was reported. The sums of earlier returns follow from the
-- status: all of a refunded payment went back, and the reason of one in conflict begins with the amount. Of a
-- conflict that was dismissed, which is refunded too, perhaps a part alone went back. Its reason is that of the
-- operator and may not tell the amount, so the whole is taken.
--
-- Every statement can be run again, because MySQL commits each by itself.
SET @add_column = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'unapplied_payment' AND column_name = 'returned_amount') = 0,
    'ALTER TABLE unapplied_payment ADD COLUMN returned_amount DECIMAL(20,6) NOT NULL DEFAULT 0', 'DO 0');
PREPARE add_column FROM @add_column;
EXECUTE add_column;
UPDATE unapplied_payment SET returned_amount = amount WHERE status = 'refunded' AND returned_amount = 0;
UPDATE unapplied_payment SET returned_amount = CAST(SUBSTRING_INDEX(reason, ' ', 1) AS DECIMAL(20,6))
    WHERE status = 'conflict' AND returned_amount = 0 AND reason REGEXP '^[0-9.]+ went back[.]';

CREATE TABLE IF NOT EXISTS unapplied_return (
    refund_id        VARBINARY(128) NOT NULL,
    payment_order_id VARCHAR(64)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    amount           DECIMAL(20,6)  NOT NULL,
    created_at       DATETIME(6)    NOT NULL,
    PRIMARY KEY (refund_id),
    KEY idx_payment (payment_order_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- The refunds that failed lately, for an alert.
SET @add_key = IF((
    SELECT COUNT(*) FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'recharge_refund' AND index_name = 'idx_status_updated') = 0,
    'ALTER TABLE recharge_refund ADD KEY idx_status_updated (status, updated_at)', 'DO 0');
PREPARE add_key FROM @add_key;
EXECUTE add_key;
