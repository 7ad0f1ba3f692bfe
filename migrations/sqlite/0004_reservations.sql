-- What reservations hold: of the balance, of a quota, and for how long. The columns of
-- billing_transaction are NULL for charges, which hold nothing.
ALTER TABLE user_balance ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
ALTER TABLE free_quota ADD COLUMN held_quota INTEGER NOT NULL DEFAULT 0;
ALTER TABLE billing_transaction ADD COLUMN held_free INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN held_amount INTEGER NULL;
-- Of all reserved units, at the price of the reserve.
ALTER TABLE billing_transaction ADD COLUMN full_cost INTEGER NULL;
-- As the commit asked.
ALTER TABLE billing_transaction ADD COLUMN commit_cost INTEGER NULL;
-- Billing day of the reserve, which the commit counts to.
ALTER TABLE billing_transaction ADD COLUMN usage_date TEXT NULL;
ALTER TABLE billing_transaction ADD COLUMN expires_at INTEGER NULL;

-- The reservations that are PENDING, by expiry.
CREATE INDEX idx_pending_expiry ON billing_transaction (expires_at, user_id, trace_id) WHERE status = 'PENDING';
