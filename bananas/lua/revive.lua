-- revive: put failed jobs back into their queues, by order of an operator.
--
-- KEYS[1] dead      ZSET   id -> failed at, unix s
-- KEYS[2] counters  HASH   transition -> count
-- KEYS[3] list      LIST   where they go
-- KEYS[4] wake      LIST   its marker
-- KEYS[5] places    SET    every place ever used
-- KEYS[6..] jobs    STRING a record key an id
-- ARGV[1] jobs      count  1..500, all for the same list
-- ARGV[2] place     name   the list's place
-- ARGV[3..] rest    mixed  the ids; then their new records
--
-- returns the numbers of the jobs that were not in the dead-letter queue, or whose id was accepted
--         anew since (its record has no TTL): nothing was done for those
-- moves   failed -> pending
-- cost    O(jobs log dead)
-- include: lib/wake.lua
local jobs = tonumber(ARGV[1])
local scores = redis.call('ZMSCORE', KEYS[1], unpack(ARGV, 3, 2 + jobs))
redis.call('HLEN', KEYS[2])
redis.call('LLEN', KEYS[3])
redis.call('LLEN', KEYS[4])
redis.call('SCARD', KEYS[5])
local missing, ids, numbers, chosen = {}, {}, {}, {}
for job = 1, jobs do
  local id = ARGV[2 + job]
  if scores[job] and not chosen[id] and redis.call('PTTL', KEYS[5 + job]) ~= -1 then
    chosen[id] = true
    ids[#ids + 1], numbers[#numbers + 1] = id, job
  else
    missing[#missing + 1] = job
  end
end
if #ids == 0 then return missing end
redis.call('ZREM', KEYS[1], unpack(ids))
for _, job in ipairs(numbers) do redis.call('SET', KEYS[5 + job], ARGV[2 + jobs + job]) end
redis.call('LPUSH', KEYS[3], unpack(ids))
redis.call('SADD', KEYS[5], ARGV[2])
redis.call('HINCRBY', KEYS[2], 'revived', #ids)
wake(KEYS[4])
return missing
