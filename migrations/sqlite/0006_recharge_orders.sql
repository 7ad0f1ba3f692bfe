-- Top-up orders: how and where they are paid. Lists go by user and time, and the search
-- for orders that stay pending by status and time.
ALTER TABLE recharge_order ADD COLUMN payment_method TEXT NULL;
ALTER TABLE recharge_order ADD COLUMN payment_url TEXT NULL;
CREATE INDEX idx_user_created ON recharge_order (user_id, created_at, order_id);
CREATE INDEX idx_status_created ON recharge_order (status, created_at, order_id);
DROP INDEX idx_user_id;
