-- prune: drop from the dead-letter queue what has outlived its retention.
--
-- KEYS[1] dead        ZSET   id -> failed at, unix s
-- KEYS[2] counters    HASH   transition -> count
-- ARGV[1] retention   ms     how long a failed job is kept
-- ARGV[2] limit       count  most jobs in this call, 1..500
-- ARGV[3] job_prefix  string what stands before the id in a record's key
--
-- returns how many were dropped; the caller goes on while it is the limit
-- moves   failed -> deleted
-- cost    O(limit log dead)
-- include: lib/now.lua
-- include: lib/bury.lua
local before = string.format('%.6f', (now_ms() - tonumber(ARGV[1])) / 1000)
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. before, 'LIMIT', 0, ARGV[2])
if #ids == 0 then return 0 end
local keys = {}
for i, id in ipairs(ids) do keys[i] = ARGV[3] .. id end
return bury(KEYS[1], KEYS[2], ids, keys)
