-- The page of a charge lists its refunds, of an account that may have many. No charge writes the table.
SET @add_key = IF((
    SELECT COUNT(*) FROM information_schema.statistics
    WHERE table_schema = DATABASE() AND table_name = 'charge_refund' AND index_name = 'idx_charge_refund_trace') = 0,
    'ALTER TABLE charge_refund ADD KEY idx_charge_refund_trace (user_id, trace_id, created_at)', 'DO 0');
PREPARE add_key FROM @add_key;
EXECUTE add_key;
