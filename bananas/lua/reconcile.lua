-- reconcile: give back leases that the epoch's own process does not know of (a lost answer).
--
-- KEYS[1] epochs        ZSET   epoch -> deadline, unix ms; 0 = fenced
-- KEYS[2] epoch_leases  SET    requests whose leases the epoch holds
-- KEYS[3] counters      HASH   transition -> count
-- ARGV[1] epoch         id     who asks
-- ARGV[2] limit         count  most jobs in this call, 1..1000
-- ARGV[3] prefix        string of all keys; lease, record and list keys carry its slot
-- ARGV[4] unknown       count  how many requests follow, 0..1000
-- ARGV[5..] rest        mixed  the requests to give up, by name: a call that comes late can take nothing
--                              else; then (id, place) for jobs reported as unplaced before
--
-- returns {state, jobs moved, unplaced id…}: state 'done', 'more' or 'fenced'
-- moves   processing -> pending
-- cost    O(limit + unknown)
-- include: lib/give_back.lua
local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not deadline or deadline == '0' then return {'fenced', 0} end
redis.call('HLEN', KEYS[3])
local count = tonumber(ARGV[4])
local placed, unknown = {}, {}
for i = 5 + count, #ARGV, 2 do placed[ARGV[i]] = ARGV[i + 1] end
for i = 5, 4 + count do
  if redis.call('SISMEMBER', KEYS[2], ARGV[i]) == 1 then unknown[#unknown + 1] = ARGV[i] end
end
if #unknown == 0 then return {'done', 0} end
local moved, unplaced = give_back(ARGV[3], KEYS[2], unknown, tonumber(ARGV[2]), placed)
if #moved > 0 then redis.pcall('HINCRBY', KEYS[3], 'reconciled', #moved) end
return {'more', #moved, unpack(unplaced)}
