-- The page of a charge lists its refunds, of an account that may have many. No charge writes the table.
CREATE INDEX IF NOT EXISTS idx_charge_refund_trace ON charge_refund (user_id, trace_id, created_at);
