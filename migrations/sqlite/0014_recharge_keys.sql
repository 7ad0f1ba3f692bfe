-- The key by which a repeated top-up finds its first order; orders without one have none.
ALTER TABLE recharge_order ADD COLUMN idempotency_key TEXT NULL;
CREATE UNIQUE INDEX uk_user_idempotency_key ON recharge_order (user_id, idempotency_key);
