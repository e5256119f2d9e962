-- revive: put failed jobs back into their queues, by order of an operator.
--
-- KEYS[1] dead      ZSET   id -> failed at, unix s
-- KEYS[2] counters  HASH   transition -> count
-- KEYS[3] list      LIST   where they go
-- KEYS[4] wake      LIST   its marker
-- KEYS[5..] jobs    STRING a record key an id
-- ARGV[1] jobs      count  1..500, all for the same list
-- ARGV[2..] rest    mixed  the ids; then their new records
--
-- returns the numbers of the jobs that were not in the dead-letter queue: nothing was done for those
-- moves   failed -> pending
-- cost    O(jobs log dead)
-- include: lib/wake.lua
local jobs = tonumber(ARGV[1])
local scores = redis.call('ZMSCORE', KEYS[1], unpack(ARGV, 2, 1 + jobs))
redis.call('HLEN', KEYS[2])
redis.call('LLEN', KEYS[3])
redis.call('LLEN', KEYS[4])
local missing, ids = {}, {}
for job = 1, jobs do
  if scores[job] then ids[#ids + 1] = ARGV[1 + job] else missing[#missing + 1] = job end
end
if #ids == 0 then return missing end
redis.call('ZREM', KEYS[1], unpack(ids))
for job = 1, jobs do
  if scores[job] then redis.call('SET', KEYS[4 + job], ARGV[1 + jobs + job]) end
end
redis.call('LPUSH', KEYS[3], unpack(ids))
redis.call('HINCRBY', KEYS[2], 'revived', #ids)
wake(KEYS[4])
return missing
