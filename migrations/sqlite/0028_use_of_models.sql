-- A quote of a new price version sums the use of its model on one day, over all users. No charge writes the table.
CREATE INDEX IF NOT EXISTS idx_day_model ON usage_by (usage_date, model);
