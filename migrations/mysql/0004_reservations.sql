-- What reservations hold: of the balance, of a quota, and for how long. The columns of
-- billing_transaction are NULL for charges, which hold nothing.
--
-- Every statement can be run again, because MySQL commits each by itself.

SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'user_balance' AND column_name = 'held') = 0,
    'ALTER TABLE user_balance ADD COLUMN held DECIMAL(20,6) NOT NULL DEFAULT 0', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;

SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'free_quota' AND column_name = 'held_quota') = 0,
    'ALTER TABLE free_quota ADD COLUMN held_quota INT NOT NULL DEFAULT 0', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;

SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'billing_transaction' AND column_name = 'expires_at') = 0,
    'ALTER TABLE billing_transaction
        ADD COLUMN held_free   INT           NULL,
        ADD COLUMN held_amount DECIMAL(20,6) NULL,
        ADD COLUMN full_cost   DECIMAL(20,6) NULL COMMENT ''of all reserved units, at the price of the reserve'',
        ADD COLUMN commit_cost DECIMAL(20,6) NULL COMMENT ''as the commit asked'',
        ADD COLUMN usage_date  DATE          NULL COMMENT ''billing day of the reserve, which the commit counts to'',
        ADD COLUMN expires_at  DATETIME(6)   NULL', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;

-- The reservations that are PENDING, by expiry. An index on billing_transaction would
-- cost every charge an entry that is never looked up.
CREATE TABLE IF NOT EXISTS reservation_expiry (
    expires_at DATETIME(6)    NOT NULL,
    user_id    VARCHAR(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    trace_id   VARBINARY(128) NOT NULL,
    PRIMARY KEY (expires_at, user_id, trace_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
