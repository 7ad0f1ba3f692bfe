-- What the commit of a reservation did not charge of what was delivered, by the policy of its
-- service, and what it was charged by: 1 what its stream had reported, to which a later commit
-- may add, 2 that and a commit; NULL: none, a commit. While a reservation is PENDING its columns of tokens have what
-- was last reported.
ALTER TABLE billing_transaction ADD COLUMN shortfall INTEGER NULL;
ALTER TABLE billing_transaction ADD COLUMN charged_by INTEGER NULL;
