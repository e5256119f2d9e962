-- reclaim: fence a process epoch and give its jobs back to the front of their queues, chunk by chunk.
--
-- KEYS[1] epochs        ZSET   epoch -> deadline, unix ms; 0 = fenced
-- KEYS[2] epoch_leases  SET    requests whose leases the epoch holds
-- KEYS[3] counters      HASH   transition -> count
-- KEYS[4] crashes       HASH   id -> processes it killed
-- KEYS[5] workers       HASH   epoch -> JSON about its process
-- ARGV[1] epoch         id     whose jobs
-- ARGV[2] proven        0|1    1 = the caller knows that the process is gone; else the deadline decides
-- ARGV[3] limit         count  most jobs in this call, 1..1000
-- ARGV[4] prefix        string of all keys; lease, record and list keys carry its slot
-- ARGV[5] charged       count  how many ids follow that the process was running when it died
-- ARGV[6..] rest        mixed  the charged ids; then (id, place) for jobs reported as unplaced before
--
-- returns {state, jobs moved, unplaced id…}: state 'more', 'done' (nothing left, the epoch forgotten),
--         'alive' or 'gone'. Unplaced jobs stay leased until the caller names their place
-- moves   processing -> pending
-- cost    O(limit)
-- include: lib/now.lua
-- include: lib/give_back.lua
local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not deadline and redis.call('EXISTS', KEYS[2]) == 0 then return {'gone', 0} end
if deadline and ARGV[2] ~= '1' and tonumber(deadline) > now_ms() then return {'alive', 0} end
redis.call('HLEN', KEYS[4])
redis.call('HLEN', KEYS[3])
redis.call('HLEN', KEYS[5])

local charged_count = tonumber(ARGV[5])
local charged, placed = {}, {}
for i = 6, 5 + charged_count do charged[ARGV[i]] = true end
for i = 6 + charged_count, #ARGV, 2 do placed[ARGV[i]] = ARGV[i + 1] end

local leases = redis.call('SCARD', KEYS[2])
local requests = redis.call('SRANDMEMBER', KEYS[2], 1000)
local moved, unplaced, ended = give_back(ARGV[4], KEYS[2], requests, tonumber(ARGV[3]), placed)
redis.call('ZREM', KEYS[1], '')
for _, id in ipairs(moved) do
  if charged[id] then redis.pcall('HINCRBY', KEYS[4], id, 1) end
end
if #moved > 0 then redis.pcall('HINCRBY', KEYS[3], 'reclaimed', #moved) end
if ended == leases then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[5], ARGV[1])
  return {'done', #moved}
end
redis.call('ZADD', KEYS[1], 0, ARGV[1])
return {'more', #moved, unpack(unplaced)}
