-- The key by which a repeated top-up finds its first order; orders without one have none.
--
-- Every statement can be run again, because MySQL commits each by itself.
SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'recharge_order' AND column_name = 'idempotency_key') = 0,
    'ALTER TABLE recharge_order
        ADD COLUMN idempotency_key VARBINARY(128) NULL COMMENT ''of the request that made the order'',
        ADD UNIQUE KEY uk_user_idempotency_key (user_id, idempotency_key)', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;
