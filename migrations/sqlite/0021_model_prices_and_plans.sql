-- Prices by class of tokens, by tier and by plan: what a version has beside its three columns, the parts
-- of a call, and the terms of its price.
ALTER TABLE price_version ADD COLUMN price_details TEXT NULL; -- JSON: further classes, tiers, service tiers, aliases

-- Servers look for changed rows here.
CREATE TABLE price_change (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    changes  INTEGER NOT NULL
) STRICT;
INSERT INTO price_change (only_row, changes) VALUES (1, 0);
CREATE TRIGGER price_version_inserted AFTER INSERT ON price_version
    BEGIN UPDATE price_change SET changes = changes + 1; END;
CREATE TRIGGER price_version_updated AFTER UPDATE ON price_version
    BEGIN UPDATE price_change SET changes = changes + 1; END;
CREATE TRIGGER price_version_deleted AFTER DELETE ON price_version
    BEGIN UPDATE price_change SET changes = changes + 1; END;

ALTER TABLE billing_transaction ADD COLUMN cache_write_tokens INTEGER NULL; -- NULL here and below: 0
ALTER TABLE billing_transaction ADD COLUMN cache_write_1h_tokens INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN audio_input_tokens INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN reasoning_tokens INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN audio_output_tokens INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN images INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN service_tier TEXT NULL;
ALTER TABLE billing_transaction ADD COLUMN commit_service_tier TEXT NULL; -- as the commit names it
ALTER TABLE billing_transaction ADD COLUMN served_model TEXT NULL; -- as the commit names it
ALTER TABLE billing_transaction ADD COLUMN plan TEXT NULL; -- NULL: the default
ALTER TABLE billing_transaction ADD COLUMN price_details TEXT NULL; -- JSON: the prices beside the three columns

ALTER TABLE user_balance ADD COLUMN plan TEXT NULL; -- NULL: the default
