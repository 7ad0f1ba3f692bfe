-- What the commit of a reservation did not charge of what was delivered, by the policy of its
-- service, and whether it was charged for what its stream had reported, so that a later commit
-- may add to it; NULL: none, no. While a reservation is PENDING its columns of tokens have what
-- was last reported.
ALTER TABLE billing_transaction ADD COLUMN shortfall INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN is_provisional INTEGER NULL;
