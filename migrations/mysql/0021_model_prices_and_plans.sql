-- Prices by class of tokens, by tier and by plan: what a version has beside its three columns, the parts
-- of a call, and the terms of its price.
--
-- Every statement can be run again, because MySQL commits each by itself.
SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'price_version' AND column_name = 'price_details') = 0,
    'ALTER TABLE price_version
        ADD COLUMN price_details TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL
            COMMENT ''JSON: further classes, tiers, service tiers, aliases; NULL: none'',
        ADD COLUMN changed_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;
-- Servers look for changed rows here.
SET @add_index = IF((
    SELECT COUNT(*) FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'price_version' AND index_name = 'idx_changed') = 0,
    'ALTER TABLE price_version ADD INDEX idx_changed (changed_at)', 'DO 0');
PREPARE add_index FROM @add_index;
EXECUTE add_index;

SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'billing_transaction' AND column_name = 'price_details') = 0,
    'ALTER TABLE billing_transaction
        ADD COLUMN cache_write_tokens    INT            NULL COMMENT ''NULL here and below: 0'',
        ADD COLUMN cache_write_1h_tokens INT            NULL,
        ADD COLUMN audio_input_tokens    INT            NULL,
        ADD COLUMN reasoning_tokens      INT            NULL,
        ADD COLUMN audio_output_tokens   INT            NULL,
        ADD COLUMN images                INT            NULL,
        ADD COLUMN service_tier          VARBINARY(32)  NULL,
        ADD COLUMN commit_service_tier   VARBINARY(32)  NULL COMMENT ''as the commit names it'',
        ADD COLUMN served_model          VARBINARY(128) NULL COMMENT ''as the commit names it'',
        ADD COLUMN plan                  VARBINARY(32)  NULL COMMENT ''NULL: the default'',
        ADD COLUMN price_details         TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL
            COMMENT ''JSON: the prices beside the three columns''', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;

SET @add_column = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'user_balance' AND column_name = 'plan') = 0,
    'ALTER TABLE user_balance ADD COLUMN plan VARBINARY(32) NULL COMMENT ''NULL: the default''', 'DO 0');
PREPARE add_column FROM @add_column;
EXECUTE add_column;
