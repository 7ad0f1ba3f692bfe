-- Counts a request to the buckets of a cache_key, if every window has room for it: GCRA, the
-- same rule as biz::rate_limit. A request fills a bucket by the period of its window in
-- microseconds, N drain from it each microsecond, and it holds N times the period.
--
-- KEYS[1]  the hash of the buckets: at (microseconds of this server's clock), and how full
--          the windows `s`, `m` and `h` were then
-- ARGV[1]  'take', or 'return' for a request that was counted and shall not count after all
-- ARGV[2]  and on: name, limit and period (microseconds) of each window in turn
-- reply    0 when it was counted, or returned; else the microseconds until it would be
--          counted, and nothing was

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local at = tonumber(redis.call('HGET', KEYS[1], 'at')) or now
-- Where the clock has gone back, no time has passed.
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
-- By then all of them are empty: it is counted from the beginning of this millisecond.
redis.call('PEXPIRE', KEYS[1], math.ceil(full / 1000) + 1)
return 0
