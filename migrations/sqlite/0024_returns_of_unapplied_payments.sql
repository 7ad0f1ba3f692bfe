-- Money of unapplied payments that went back: its sum at each payment, and each return under its refund id, so
-- that a repeated report counts once.
--
-- times_seen is 0 while only a return of the payment was reported. The sums of earlier returns follow from the
-- status: all of a refunded payment went back, and the reason of one in conflict begins with the amount. Of a
-- conflict that was dismissed, which is refunded too, perhaps a part alone went back. Its reason is that of the
-- operator and may not tell the amount, so the whole is taken.
ALTER TABLE unapplied_payment ADD COLUMN returned_amount INTEGER NOT NULL DEFAULT 0;
UPDATE unapplied_payment SET returned_amount = amount WHERE status = 'refunded';
-- The reason has the amount in units of the currency. Rounding makes the millionths exact again.
UPDATE unapplied_payment
    SET returned_amount = CAST(ROUND(CAST(substr(reason, 1, instr(reason, ' went back.') - 1) AS REAL) * 1000000) AS INTEGER)
    WHERE status = 'conflict' AND instr(reason, ' went back.') > 1;

CREATE TABLE unapplied_return (
    refund_id        TEXT    NOT NULL PRIMARY KEY,
    payment_order_id TEXT    NOT NULL,
    amount           INTEGER NOT NULL,
    created_at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_unapplied_return_payment ON unapplied_return (payment_order_id);

-- The refunds that failed lately, for an alert.
CREATE INDEX idx_refund_status_updated ON recharge_refund (status, updated_at);
