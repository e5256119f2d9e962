-- promote: move scheduled jobs that are due to their queues, and wake workers for what waits unmarked.
--
-- KEYS[1] scheduled  ZSET   id -> due, unix s
-- KEYS[2] counters   HASH   transition -> count
-- KEYS[3] places     SET    places that hold jobs, did so lately, or are served
-- KEYS[4..] served   LIST   (list, wake marker) of places that foreign producers may have pushed to
-- ARGV[1] limit      count  most jobs in this call, 1..500
-- ARGV[2] prefix     string of all keys; record and list keys carry its slot
-- ARGV[3..] rest     mixed  (id, place) for jobs reported as unplaced before
--
-- returns {now ms, ms until the next is due or -1, jobs moved, markers left, unplaced id…};
--         unplaced jobs stay
-- moves   scheduled -> pending
-- cost    O(limit log scheduled)
-- include: lib/now.lua
-- include: lib/place_of.lua
local now = now_ms()
local prefix = ARGV[2]
local placed = {}
for i = 3, #ARGV, 2 do placed[ARGV[i]] = ARGV[i + 1] end

local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now / 1000), 'LIMIT', 0, ARGV[1])
local moving, unplaced, by_list, markers, places = {}, {}, {}, {}, {}
for _, id in ipairs(due) do
  local place = placed[id] or place_of(prefix .. ':job:' .. id)
  if place then
    moving[#moving + 1] = id
    local list = prefix .. ':' .. place
    local ids = by_list[list]
    if not ids then
      ids = {}
      by_list[list] = ids
      places[#places + 1] = place
      redis.call('LLEN', list)
      if redis.call('LLEN', list .. ':wake') == 0 then markers[#markers + 1] = list .. ':wake' end
    end
    ids[#ids + 1] = id
  else
    unplaced[#unplaced + 1] = id
  end
end
for key = 4, #KEYS, 2 do
  if not by_list[KEYS[key]] and redis.call('LLEN', KEYS[key]) > 0 and redis.call('LLEN', KEYS[key + 1]) == 0 then
    markers[#markers + 1] = KEYS[key + 1]
  end
end
redis.call('HLEN', KEYS[2])
redis.call('SCARD', KEYS[3])
-- those due are the first ones, and an unplaced one stays due
local wait = #unplaced > 0 and 0 or -1
local next_due = redis.call('ZRANGE', KEYS[1], #due, #due, 'WITHSCORES')
if wait < 0 and next_due[2] then wait = math.max(0, math.ceil(tonumber(next_due[2]) * 1000 - now)) end

if #moving > 0 then
  redis.call('ZREM', KEYS[1], unpack(moving))
  for list, ids in pairs(by_list) do redis.call('LPUSH', list, unpack(ids)) end
  redis.call('SADD', KEYS[3], unpack(places))
  redis.pcall('HINCRBY', KEYS[2], 'promoted', #moving)
elseif #markers > 0 then
  redis.call('ZREM', KEYS[1], '')
end
for _, marker in ipairs(markers) do redis.call('LPUSH', marker, '1') end

return {now, wait, #moving, #markers, unpack(unplaced)}
