-- revive: put failed jobs back into their queues, by order of an operator.
--
-- KEYS[1] dead      ZSET   id -> failed at, unix s
-- KEYS[2] counters  HASH   transition -> count
-- KEYS[3] list      LIST   where they go
-- KEYS[4] wake      LIST   its marker
-- KEYS[5] places    SET    places that hold jobs, did so lately, or are served
-- KEYS[6] request   STRING the answer given to this request, with a TTL
-- KEYS[7..] rest    mixed  a record key (STRING) an id; then its result key (HASH)
-- ARGV[1] jobs      count  1..500, all for the same list
-- ARGV[2] place     name   the list's place
-- ARGV[3] memory    ms     how long the answer is remembered
-- ARGV[4..] rest    mixed  the ids; then their new records
--
-- returns the numbers of the jobs that were not in the dead-letter queue, or whose id was accepted
--         anew since (its record has no TTL): nothing was done for those. A copy of the call gets the
--         same answer, and revives nothing that has failed again meanwhile
-- moves   failed -> pending
-- cost    O(jobs log dead)
-- include: lib/wake.lua
local missing, ids, numbers, chosen = {}, {}, {}, {}
local answer = redis.call('GET', KEYS[6])
if answer then
  for number in string.gmatch(answer, '%d+') do missing[#missing + 1] = tonumber(number) end
  return missing
end
local jobs = tonumber(ARGV[1])
local scores = redis.call('ZMSCORE', KEYS[1], unpack(ARGV, 4, 3 + jobs))
redis.call('HLEN', KEYS[2])
redis.call('LLEN', KEYS[3])
redis.call('LLEN', KEYS[4])
redis.call('SCARD', KEYS[5])
for job = 1, jobs do
  local id = ARGV[3 + job]
  if scores[job] and not chosen[id] and redis.call('PTTL', KEYS[6 + job]) ~= -1 then
    chosen[id] = true
    ids[#ids + 1], numbers[#numbers + 1] = id, job
  else
    missing[#missing + 1] = job
  end
end
redis.call('ZREM', KEYS[1], '', unpack(ids))
redis.call('SET', KEYS[6], '=' .. table.concat(missing, ','), 'PX', ARGV[3])
if #ids == 0 then return missing end
for _, job in ipairs(numbers) do
  -- the old result must not be taken for that of the run to come
  redis.call('DEL', KEYS[6 + jobs + job])
  redis.call('SET', KEYS[6 + job], ARGV[3 + jobs + job])
end
redis.call('LPUSH', KEYS[3], unpack(ids))
redis.call('SADD', KEYS[5], ARGV[2])
redis.pcall('HINCRBY', KEYS[2], 'revived', #ids)
wake(KEYS[4])
return missing
