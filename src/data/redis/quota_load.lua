-- Stores a state that was read from the database behind a fence: a token that the loader
-- put up before it read. The fence is gone, or another's, when the state may be old; and it
-- names the newest version that came by since.
--
-- KEYS[1]  the hash
-- KEYS[2]  its fence: the token, and behind a space a version, if any came by
-- ARGV[1]  the token of this load
-- ARGV[2]  the version of the state
-- ARGV[3]  milliseconds until it is forgotten
-- ARGV[4]  and on: fields and values in turn
-- reply    'stored', 'late', or 'full' where there is no memory for it

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
