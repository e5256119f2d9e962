-- merge: move the oldest ids of a list that nobody serves any more to the front of another.
--
-- KEYS[1] from   LIST   the list that is given up
-- KEYS[2] to     LIST   the list that takes over
-- KEYS[3] wake   LIST   its marker
-- ARGV[1] limit  count  most ids in this call, 1..1000
--
-- returns how many were moved; the caller goes on while it is the limit
-- moves   pending -> pending
-- cost    O(limit)
-- include: lib/wake.lua
local ids = redis.call('LRANGE', KEYS[1], -tonumber(ARGV[1]), -1)
if #ids == 0 then return 0 end
redis.call('LLEN', KEYS[2])
redis.call('LLEN', KEYS[3])
redis.call('LTRIM', KEYS[1], 0, -1 - #ids)
redis.call('RPUSH', KEYS[2], unpack(ids))
wake(KEYS[3])
return #ids
