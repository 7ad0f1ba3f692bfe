-- Applies a committed change to the entry it was made to, and to no other: an entry that
-- has it already stays, and one that has missed a change in between goes.
--
-- KEYS[1]  the hash
-- KEYS[2]  its fence, see quota_load.lua
-- ARGV[1]  the version before the change
-- ARGV[2]  the version after it
-- ARGV[3]  and on: fields and values in turn, as they are after it
-- reply    'applied', 'known', 'missed', 'absent', or 'full' where there is no memory for it
--
-- Versions of accounts are numbers that grow. Those of API keys are texts, of which only
-- equal ones can be compared.

local before, after = ARGV[1], ARGV[2]

local function at_least(one, other)
    if one == other then return true end
    local a, b = tonumber(one), tonumber(other)
    return a ~= nil and b ~= nil and a >= b
end

-- A load of an older state must not be stored any more.
local fence = redis.call('GET', KEYS[2])
if fence then
    local token, newest = string.match(fence, '^(%S+) ?(.*)$')
    if newest == '' or at_least(after, newest) then
        redis.call('SET', KEYS[2], token .. ' ' .. after, 'KEEPTTL')
    elseif not at_least(newest, after) then
        -- Nobody can tell which is the newer.
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
