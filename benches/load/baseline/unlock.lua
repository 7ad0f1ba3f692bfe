-- Releases a lock, unless it has expired and another owner holds it.
--
-- KEYS[1]  the lock
-- ARGV[1]  the token of the owner
-- reply    integer: 1 if the owner held the lock, otherwise 0
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
