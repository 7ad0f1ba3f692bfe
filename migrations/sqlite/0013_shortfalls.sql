-- What the commit of a reservation did not charge of what was delivered, by the policy of its
-- service; NULL: none. While a reservation is PENDING its columns of tokens have what was last
-- reported.
ALTER TABLE billing_transaction ADD COLUMN shortfall INTEGER NULL;
