-- What the commit of a reservation did not charge of what was delivered, by the policy of its
-- service, and whether it was charged for what its stream had reported, so that a later commit
-- may add to it. While a reservation is PENDING its columns of tokens have what was last reported.
--
-- Every statement can be run again, because MySQL commits each by itself.
SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'billing_transaction' AND column_name = 'shortfall') = 0,
    'ALTER TABLE billing_transaction
        ADD COLUMN shortfall      DECIMAL(20,6) NULL COMMENT ''NULL: none'',
        ADD COLUMN is_provisional TINYINT       NULL COMMENT ''NULL: no''', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;
