-- purge: delete failed jobs for good, by order of an operator.
--
-- KEYS[1] dead      ZSET   id -> failed at, unix s
-- KEYS[2] counters  HASH   transition -> count
-- KEYS[3] request   STRING the answer given to this request, with a TTL
-- KEYS[4..] rest    mixed  a record key (STRING) an id; then its result key (HASH)
-- ARGV[1] memory    ms     how long the answer is remembered
-- ARGV[2..] ids     id     the jobs, 1..500
--
-- returns how many were in the dead-letter queue and are gone; a copy of the call gets the same answer,
--         and purges nothing that has failed meanwhile
-- moves   failed -> deleted
-- cost    O(jobs log dead)
-- include: lib/bury.lua
local answer = redis.call('GET', KEYS[3])
if answer then return tonumber(string.sub(answer, 2)) end
local scores = redis.call('ZMSCORE', KEYS[1], unpack(ARGV, 2))
local ids, keys, results = {}, {}, {}
for i, score in ipairs(scores) do
  if score then
    ids[#ids + 1] = ARGV[1 + i]
    keys[#keys + 1] = KEYS[3 + i]
    results[#results + 1] = KEYS[2 + #ARGV + i]
  end
end
local count = 0
if #ids > 0 then
  count = bury(KEYS[1], KEYS[2], ids, keys)
  -- or a later job of the same id would be told this one's end
  redis.call('DEL', unpack(results))
else
  redis.call('ZREM', KEYS[1], '')
end
redis.call('SET', KEYS[3], '=' .. count, 'PX', ARGV[1])
return count
