-- Token prices of models beside those of the configuration, in millionths per million
-- tokens. A row takes the place of what the configuration has for the same model and instant.
CREATE TABLE price_version (
    model              TEXT    NOT NULL,
    -- Microseconds since 1970.
    effective_from     INTEGER NOT NULL,
    -- What transactions keep of it.
    version_id         TEXT    NOT NULL,
    input_price        INTEGER NOT NULL CHECK (input_price BETWEEN 0 AND 999999999999999),
    -- NULL: input_price.
    cached_input_price INTEGER NULL CHECK (cached_input_price BETWEEN 0 AND 999999999999999),
    output_price       INTEGER NOT NULL CHECK (output_price BETWEEN 0 AND 999999999999999),
    created_at         INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER) * 1000000),
    PRIMARY KEY (model, effective_from),
    UNIQUE (model, version_id)
) STRICT, WITHOUT ROWID;

-- How a transaction is priced by its model: the version with its prices, so that a commit
-- needs nothing but its reservation; what the reserve expected; what the free quota counts.
ALTER TABLE billing_transaction ADD COLUMN price_version TEXT NULL;
ALTER TABLE billing_transaction ADD COLUMN input_price INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN cached_input_price INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN output_price INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN estimated_input_tokens INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN estimated_output_tokens INTEGER NULL;
-- tokens; NULL: calls.
ALTER TABLE billing_transaction ADD COLUMN quota_unit TEXT NULL;
