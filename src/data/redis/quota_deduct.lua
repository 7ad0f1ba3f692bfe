-- Applies a committed change to an entry, if the entry has the version from which the settlement
-- started. An entry that already includes the change stays as it is. An entry that lacks an
-- earlier change is dropped. The rule is the same as CacheEntry::apply
-- (src/biz/check/cache/entry.rs).
--
-- KEYS[1]    the hash of an account or of an API key
-- KEYS[2]    its fence, see quota_load.lua
-- ARGV[1]    the version before the change
-- ARGV[2]    the version after the change
-- ARGV[3..]  alternating fields and values after the change
-- reply      string: 'applied'; 'known' (the entry includes the change); 'missed' (an earlier
--            change is missing, entry dropped); 'absent' (not cached); 'full' (no memory,
--            entry dropped)
--
-- The version of an account is a growing number. The version of an API key is a text without
-- an order, so two of them are either equal or not comparable.

local before, after = ARGV[1], ARGV[2]

local function at_least(one, other)
    if one == other then return true end
    local a, b = tonumber(one), tonumber(other)
    return a ~= nil and b ~= nil and a >= b
end

-- Put the version into the fence, so that a load in flight can't store an older state.
local fence = redis.call('GET', KEYS[2])
if fence then
    local token, newest = string.match(fence, '^(%S+) ?(.*)$')
    if newest == '' or at_least(after, newest) then
        redis.call('SET', KEYS[2], token .. ' ' .. after, 'KEEPTTL')
    elseif not at_least(newest, after) then
        -- The versions can't be ordered, so no load in flight may store.
        redis.call('DEL', KEYS[2])
    end
end

local version = redis.call('HGET', KEYS[1], 'version')
if not version then return 'absent' end
if version ~= before then
    if at_least(version, after) then return 'known' end
    redis.call('UNLINK', KEYS[1])
    return 'missed'
end
local set = redis.pcall('HSET', KEYS[1], 'version', after, unpack(ARGV, 3))
if type(set) == 'table' and set.err then
    redis.call('UNLINK', KEYS[1])
    return 'full'
end
return 'applied'
