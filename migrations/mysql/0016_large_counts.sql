-- Free quotas count beyond 2,147,483,647, and so does what a charge left of one. That has a column
-- of its own, because another type of the older one would rewrite the whole table.
--
-- Every statement can be run again, because MySQL commits each by itself.
ALTER TABLE free_quota
    MODIFY total_quota BIGINT NOT NULL DEFAULT 0,
    MODIFY used_quota  BIGINT NOT NULL DEFAULT 0,
    MODIFY held_quota  BIGINT NOT NULL DEFAULT 0;
SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'billing_transaction'
        AND column_name = 'free_remaining_large') = 0,
    'ALTER TABLE billing_transaction
        ADD COLUMN free_remaining_large BIGINT NULL COMMENT ''NULL: free_remaining_after holds it''', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;
