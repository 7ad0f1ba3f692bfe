-- Reads an entry.
--
-- KEYS[1]  the hash of an account or of an API key
-- reply    array of alternating fields and values; empty if the entry is not cached
return redis.call('HGETALL', KEYS[1])
