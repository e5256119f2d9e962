-- audit: count where every job is, together with the counters, in one instant.
--
-- KEYS[1] counters   HASH   transition -> count
-- KEYS[2] scheduled  ZSET   id -> due, unix s
-- KEYS[3] dead       ZSET   id -> failed at, unix s
-- KEYS[4] epochs     ZSET   epoch -> deadline, unix ms
-- KEYS[5] cancelled  SET    cancelled ids still in a list or lease
-- KEYS[6] places     SET    places that hold jobs, did so lately, or are served
-- ARGV[1] prefix     string of all keys; list and lease keys carry its slot
--
-- returns {scheduled, dead, leased, cancelled, waiting, {place, ids}…, counters…}: waiting ids include
--         the cancelled ones; the lists come as {place, length, sorted length}, the counters flat last
-- moves   nothing
-- cost    O(places + leases)
local prefix = ARGV[1]
local leased = 0
for _, epoch in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
  for _, request in ipairs(redis.call('SMEMBERS', prefix .. ':queue:processing:epoch:' .. epoch)) do
    leased = leased + redis.call('SCARD', prefix .. ':queue:processing:lease:' .. request)
  end
end
local lists, waiting = {}, 0
for _, place in ipairs(redis.call('SMEMBERS', KEYS[6])) do
  local common = redis.call('LLEN', prefix .. ':' .. place)
  local sorted = redis.call('LLEN', prefix .. ':sorted:' .. place)
  lists[#lists + 1] = {place, common, sorted}
  waiting = waiting + common + sorted
end
return {
  redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[3]), leased, redis.call('SCARD', KEYS[5]),
  waiting, lists, redis.call('HGETALL', KEYS[1]),
}
