-- merge: move the ids of a list that nobody serves any more to the front of another.
--
-- KEYS[1] from   LIST   the list that is given up
-- KEYS[2] to     LIST   the list that takes over
-- KEYS[3] wake   LIST   its marker
-- KEYS[4] places SET    places that hold jobs, did so lately, or are served
-- ARGV[1] limit  count  most ids in this call, 1..1000
-- ARGV[2] place  name   the place of the list that takes over
--
-- returns how many were moved; the caller goes on while it is the limit
-- moves   pending -> pending
-- cost    O(limit)
-- include: lib/wake.lua
local limit = tonumber(ARGV[1])
-- the newest of them first: the last call puts the oldest at the very front
local ids = redis.call('LRANGE', KEYS[1], 0, limit - 1)
if #ids == 0 then return 0 end
redis.call('LLEN', KEYS[2])
redis.call('LLEN', KEYS[3])
redis.call('SCARD', KEYS[4])
redis.call('LTRIM', KEYS[1], #ids, -1)
redis.call('RPUSH', KEYS[2], unpack(ids))
redis.call('SADD', KEYS[4], ARGV[2])
wake(KEYS[3])
return #ids
