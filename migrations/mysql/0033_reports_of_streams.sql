-- The reports of the stream of a reservation, kept after its end for those who explain the charge.
--
-- Every statement can be run again, because MySQL commits each by itself.
SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'billing_transaction' AND column_name = 'reports') = 0,
    'ALTER TABLE billing_transaction
        ADD COLUMN reports VARCHAR(128) CHARACTER SET ascii COLLATE ascii_general_ci NULL
            COMMENT ''JSON: number, first and last time, input and output tokens of the last; NULL: none''', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;
