-- A quote of a new price version sums the use of its model on one day, over all users. No charge writes the table.
SET @add_key = IF((
    SELECT COUNT(*) FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'usage_by' AND index_name = 'idx_day_model') = 0,
    'ALTER TABLE usage_by ADD KEY idx_day_model (usage_date, model)', 'DO 0');
PREPARE add_key FROM @add_key;
EXECUTE add_key;
