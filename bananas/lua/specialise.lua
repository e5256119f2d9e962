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
-- one that was overwritten by hand could not be raised: a number that nobody knows begins anew
local number = tonumber(version)
local counts = number and number >= 0 and number < 2 ^ 53 and number == math.floor(number)
if not counts then number = now end
local lapsed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1000)
local size = redis.call('ZCARD', KEYS[1])
local wanted, leaving = {}, {}
for i = 2, #ARGV do wanted[ARGV[i]] = true end
for _, task in ipairs(lapsed) do
  if not wanted[task] then leaving[#leaving + 1] = task end
end
redis.call('ZREM', KEYS[1], '')
local added = 0
for task in pairs(wanted) do
  added = added + redis.call('ZADD', KEYS[1], 'GT', now + tonumber(ARGV[1]), task)
end
if #leaving > 0 then redis.call('ZREM', KEYS[1], unpack(leaving)) end
if added + #leaving > 0 or not counts then
  version = string.format('%d', number + 1)
  redis.call('SET', KEYS[2], version)
end
-- told by counting: a key that was emptied may not be asked again
if size + added == #leaving then return {version} end
return {version, unpack(redis.call('ZRANGE', KEYS[1], 0, 999))}
