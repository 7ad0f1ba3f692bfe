-- Stores a state that was read from the database, if the fence still allows it.
--
-- The loader sets a fence with a token of its own before it reads. A later load replaces the
-- fence, an invalidation deletes it, and quota_deduct.lua writes the newest applied version
-- into it. The state may be stale, and is not stored, if the fence is gone, has another token,
-- or names a newer version.
--
-- KEYS[1]    the hash of an account or of an API key
-- KEYS[2]    its fence: the token, then a space and the newest applied version, if any
-- ARGV[1]    the token of this load
-- ARGV[2]    the version of the state
-- ARGV[3]    TTL of the entry in milliseconds
-- ARGV[4..]  alternating fields and values
-- reply      string: 'stored'; 'late' (not stored, see above); 'full' (no memory)

local version = ARGV[2]

local function at_least(one, other)
    if one == other then return true end
    local a, b = tonumber(one), tonumber(other)
    return a ~= nil and b ~= nil and a >= b
end

local fence = redis.call('GET', KEYS[2])
if not fence then return 'late' end
local token, newest = string.match(fence, '^(%S+) ?(.*)$')
if token ~= ARGV[1] then return 'late' end
redis.call('UNLINK', KEYS[2])
if newest ~= '' and not at_least(version, newest) then return 'late' end

redis.call('UNLINK', KEYS[1])
local set = redis.pcall('HSET', KEYS[1], 'version', version, unpack(ARGV, 4))
if type(set) == 'table' and set.err then return 'full' end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 'stored'
