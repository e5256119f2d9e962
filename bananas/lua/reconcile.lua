-- reconcile: give back what an epoch holds in Redis and its process does not know of (a lost reply).
--
-- KEYS[1] epochs        ZSET   epoch -> deadline, unix ms; 0 = fenced
-- KEYS[2] epoch_leases  SET    requests whose leases the epoch holds
-- KEYS[3] counters      HASH   transition -> count
-- ARGV[1] epoch         id     who asks
-- ARGV[2] limit         count  most jobs in this call, 1..1000
-- ARGV[3] prefix        string of all keys; lease, record and list keys carry its slot
-- ARGV[4] known         count  how many requests follow that the process holds or still waits for
-- ARGV[5..] rest        mixed  the known requests; then (id, place) for jobs reported as unplaced before
--
-- returns {state, jobs moved, unplaced id…}: state 'done', 'more' or 'fenced'
-- moves   processing -> pending
-- cost    O(limit + leases of the epoch)
-- include: lib/give_back.lua
local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not deadline or deadline == '0' then return {'fenced', 0} end
redis.call('HLEN', KEYS[3])
local known_count = tonumber(ARGV[4])
local known, placed, unknown = {}, {}, {}
for i = 5, 4 + known_count do known[ARGV[i]] = true end
for i = 5 + known_count, #ARGV, 2 do placed[ARGV[i]] = ARGV[i + 1] end
for _, request in ipairs(redis.call('SRANDMEMBER', KEYS[2], 1000)) do
  if not known[request] then unknown[#unknown + 1] = request end
end
if #unknown == 0 then return {'done', 0} end
local moved, unplaced = give_back(ARGV[3], KEYS[2], unknown, tonumber(ARGV[2]), placed)
if #moved > 0 then redis.call('HINCRBY', KEYS[3], 'reconciled', #moved) end
return {'more', #moved, unpack(unplaced)}
