-- specialise: keep lists of their own for the tasks that a worker serves alone, until a deadline.
--
-- KEYS[1] specials          ZSET   task -> deadline, unix ms
-- KEYS[2] specials_version  STRING raised whenever the set of tasks changes
-- ARGV[1] ttl               ms     how long without a repeat until the tasks are common again
-- ARGV[2..] tasks           name   up to 100; none = only drop what has lapsed
--
-- returns {version, task…}
-- moves   nothing
-- cost    O(tasks)
-- include: lib/now.lua
local now = now_ms()
local version = redis.call('GET', KEYS[2]) or '0'
local lapsed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1000)
redis.call('ZREM', KEYS[1], '', unpack(lapsed))
local changed = #lapsed > 0
for i = 2, #ARGV do
  if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then changed = true end
  redis.call('ZADD', KEYS[1], 'GT', now + tonumber(ARGV[1]), ARGV[i])
end
if changed then
  version = tostring(tonumber(version) + 1)
  redis.call('SET', KEYS[2], version)
end
return {version, unpack(redis.call('ZRANGE', KEYS[1], 0, 999))}
