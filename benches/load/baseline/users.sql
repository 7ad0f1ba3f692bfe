-- The users of a run, with the balance that AdjustBalance gives them on the real service.

INSERT INTO user_balance (user_balance_id, user_id, balance)
SELECT UUID(), CONCAT('u', LPAD(seq, 5, '0')), 1000000 FROM seq_0_to_9999;

INSERT INTO free_quota (free_quota_id, user_id, service_name, total_quota, reset_month)
SELECT UUID(), user_id, 'passport', 10000, DATE_FORMAT(UTC_TIMESTAMP(), '%Y-%m') FROM user_balance;
