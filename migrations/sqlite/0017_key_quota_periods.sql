-- What was taken of the quota of a key, by day, by month and in all, so that another period can
-- take the place of its own. used has that of its own period. What was taken in another one
-- before this migration is not known: its count begins with as much as is certain, and with the
-- instant from which it is complete; NULL: created_at.
ALTER TABLE api_key_quota ADD COLUMN used_day INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_key_quota ADD COLUMN used_month INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_key_quota ADD COLUMN used_total INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_key_quota ADD COLUMN day_since INTEGER NULL;
ALTER TABLE api_key_quota ADD COLUMN month_since INTEGER NULL;
ALTER TABLE api_key_quota ADD COLUMN total_since INTEGER NULL;
UPDATE api_key_quota SET
    used_day    = IIF(period = 'day', used, 0),
    used_month  = IIF(period = 'total', 0, used),
    used_total  = used,
    day_since   = IIF(period = 'day', NULL, CAST(strftime('%s', 'now') AS INTEGER) * 1000000),
    month_since = IIF(period = 'month', NULL, CAST(strftime('%s', 'now') AS INTEGER) * 1000000),
    total_since = IIF(period = 'total', NULL, CAST(strftime('%s', 'now') AS INTEGER) * 1000000);
