-- purge: delete failed jobs for good, by order of an operator.
--
-- KEYS[1] dead      ZSET   id -> failed at, unix s
-- KEYS[2] counters  HASH   transition -> count
-- KEYS[3..] rest    mixed  a record key (STRING) an id; then its result key (HASH)
-- ARGV[1..] ids     id     the jobs, 1..500
--
-- returns how many were in the dead-letter queue and are gone
-- moves   failed -> deleted
-- cost    O(jobs log dead)
-- include: lib/bury.lua
local scores = redis.call('ZMSCORE', KEYS[1], unpack(ARGV))
local ids, keys, results = {}, {}, {}
for i, score in ipairs(scores) do
  if score then
    ids[#ids + 1] = ARGV[i]
    keys[#keys + 1] = KEYS[2 + i]
    results[#results + 1] = KEYS[2 + #ARGV + i]
  end
end
if #ids == 0 then return 0 end
local count = bury(KEYS[1], KEYS[2], ids, keys)
-- or a later job of the same id would be told this one's end
redis.call('DEL', unpack(results))
return count
