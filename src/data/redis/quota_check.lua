-- Reads an entry, and changes nothing.
--
-- KEYS[1]  the hash of an account or of an API key
-- reply    its fields and values in turn; empty when it is not cached
return redis.call('HGETALL', KEYS[1])
