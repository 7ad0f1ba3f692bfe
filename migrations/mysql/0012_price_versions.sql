-- Token prices of models beside those of the configuration, per million tokens. A row takes
-- the place of what the configuration has for the same model and instant.
--
-- Every statement can be run again, because MySQL commits each by itself.
CREATE TABLE IF NOT EXISTS price_version (
    model              VARBINARY(128) NOT NULL,
    effective_from     DATETIME(6)    NOT NULL COMMENT 'UTC',
    version_id         VARBINARY(128) NOT NULL COMMENT 'what transactions keep of it',
    input_price        DECIMAL(20,6)  NOT NULL CHECK (input_price BETWEEN 0 AND 999999999.999999),
    cached_input_price DECIMAL(20,6)  NULL COMMENT 'NULL: input_price'
                       CHECK (cached_input_price BETWEEN 0 AND 999999999.999999),
    output_price       DECIMAL(20,6)  NOT NULL CHECK (output_price BETWEEN 0 AND 999999999.999999),
    created_at         DATETIME(6)    NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    PRIMARY KEY (model, effective_from),
    UNIQUE KEY uk_model_version (model, version_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- How a transaction is priced by its model: the version with its prices, so that a commit
-- needs nothing but its reservation; what the reserve expected; what the free quota counts.
SET @add_columns = IF((
    SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'billing_transaction' AND column_name = 'price_version') = 0,
    'ALTER TABLE billing_transaction
        ADD COLUMN price_version           VARBINARY(128) NULL,
        ADD COLUMN input_price             DECIMAL(20,6)  NULL,
        ADD COLUMN cached_input_price      DECIMAL(20,6)  NULL,
        ADD COLUMN output_price            DECIMAL(20,6)  NULL,
        ADD COLUMN estimated_input_tokens  INT            NULL,
        ADD COLUMN estimated_output_tokens INT            NULL,
        ADD COLUMN quota_unit              VARCHAR(6)     NULL COMMENT ''tokens; NULL: calls''', 'DO 0');
PREPARE add_columns FROM @add_columns;
EXECUTE add_columns;
