-- Settlement inserts many rows at once, most of them only to be found there already and
-- updated. What is the same in all of them, or never used, has a default, so that it
-- need not be sent and parsed for each.
ALTER TABLE user_balance ALTER COLUMN user_balance_id SET DEFAULT '';
ALTER TABLE free_quota ALTER COLUMN free_quota_id SET DEFAULT '', ALTER COLUMN total_quota SET DEFAULT 0;
ALTER TABLE billing_transaction ALTER COLUMN status SET DEFAULT 'COMMITTED';
