-- The reports of the stream of a reservation, kept after its end for those who explain the charge.
ALTER TABLE billing_transaction ADD COLUMN reports TEXT NULL; -- JSON: number, first and last time, input and output tokens of the last
