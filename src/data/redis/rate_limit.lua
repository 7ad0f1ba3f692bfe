-- Counts a request in the buckets of a user or an API key, if every window has room for it.
-- The rule is GCRA, the same as in biz::limits::rate_limit: with limit N, a request adds the
-- period of the window (microseconds) to the bucket, each microsecond drains N, and the bucket
-- holds N times the period.
--
-- KEYS[1]    the hash of the buckets: `at` (microseconds of this server's clock), and the levels
--            of the windows `s`, `m` and `h` at that time
-- ARGV[1]    'take' to count a request, or 'return' to undo one that was counted
-- ARGV[2..]  name, limit and period (microseconds) of each window in turn
-- reply      integer: 0 if the request was counted or returned; otherwise the microseconds until
--            a retry would be counted, and nothing is changed

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local at = tonumber(redis.call('HGET', KEYS[1], 'at')) or now
-- If the clock went back, no time has passed.
local elapsed = math.max(now - at, 0)

local wait, full, fields = 0, 0, { 'at', string.format('%.0f', math.max(at, now)) }
for i = 2, #ARGV, 3 do
    local name, limit, period = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
    local fill = tonumber(redis.call('HGET', KEYS[1], name)) or 0
    fill = math.max(fill - elapsed * limit, 0)
    if ARGV[1] == 'return' then
        fill = math.max(fill - period, 0)
    else
        fill = fill + period
    end
    wait = math.max(wait, math.ceil((fill - limit * period) / limit))
    full = math.max(full, math.ceil(fill / limit))
    fields[#fields + 1] = name
    fields[#fields + 1] = string.format('%.0f', fill)
end
if wait > 0 and ARGV[1] == 'take' then return wait end
if full == 0 then
    redis.call('DEL', KEYS[1])
    return 0
end
redis.call('HSET', KEYS[1], unpack(fields))
-- All buckets are empty by then. One more millisecond, because Redis counts the TTL from the
-- start of the current one.
redis.call('PEXPIRE', KEYS[1], math.ceil(full / 1000) + 1)
return 0
