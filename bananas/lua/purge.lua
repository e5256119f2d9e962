-- purge: delete failed jobs for good, by order of an operator.
--
-- KEYS[1] dead      ZSET   id -> failed at, unix s
-- KEYS[2] counters  HASH   transition -> count
-- KEYS[3..] jobs    STRING a record key an id
-- ARGV[1..] ids     id     the jobs, 1..500, no id twice
--
-- returns how many were in the dead-letter queue and are gone
-- moves   failed -> deleted
-- cost    O(jobs log dead)
local scores = redis.call('ZMSCORE', KEYS[1], unpack(ARGV))
redis.call('HLEN', KEYS[2])
local ids, keys = {}, {}
for i, score in ipairs(scores) do
  if score then
    ids[#ids + 1] = ARGV[i]
    keys[#keys + 1] = KEYS[2 + i]
  end
end
if #ids == 0 then return 0 end
redis.call('ZREM', KEYS[1], unpack(ids))
redis.call('DEL', unpack(keys))
redis.call('HINCRBY', KEYS[2], 'purged', #ids)
return #ids
