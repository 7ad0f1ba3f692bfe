-- What the commit of a reservation did not charge of what was delivered, by the policy of its
-- service, and what it was charged by: to what its stream had reported a later commit may
-- add. While a reservation is PENDING its columns of tokens have what was last reported.
--
-- Every statement can be run again, because MySQL commits each by itself.
SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'billing_transaction' AND column_name = 'shortfall') = 0,
    'ALTER TABLE billing_transaction
        ADD COLUMN shortfall  DECIMAL(20,6) NULL COMMENT ''NULL: none'',
        ADD COLUMN charged_by TINYINT       NULL COMMENT ''1: what its stream had reported, 2: that and a commit; NULL: a commit''', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;
