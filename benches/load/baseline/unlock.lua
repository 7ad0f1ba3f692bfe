-- Lets go of a lock, unless it has expired and somebody else holds it by now.
-- KEYS[1]  the lock
-- ARGV[1]  the token it was taken with
-- Reply    1 when it was held, otherwise 0
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
