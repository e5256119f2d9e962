-- sort: move the oldest ids of a list to other lists, if they are still its oldest.
--
-- KEYS[1] list      LIST   a common list that holds jobs of several kinds
-- KEYS[2] places    SET    places that hold jobs, did so lately, or are served
-- KEYS[3..] lists   LIST   per destination its list, then its wake marker
-- ARGV[1] jobs      count  ids seen at the end of the list, 1..500
-- ARGV[2] lists     count  destinations
-- ARGV[3..] rest    mixed  the ids, oldest first; the number of each one's destination;
--                          the destinations' places ('' = not a place of its own)
--
-- returns how many were moved; ids that others took meanwhile are passed over
-- moves   pending -> pending, in the same order within each destination
-- cost    O(jobs)
-- include: lib/wake.lua
local jobs, lists = tonumber(ARGV[1]), tonumber(ARGV[2])
local oldest = redis.call('LINDEX', KEYS[1], -1)
if not oldest then return 0 end
local first
for i = 1, jobs do
  if ARGV[2 + i] == oldest then
    first = i
    break
  end
end
if not first then return 0 end
local there = redis.call('LRANGE', KEYS[1], first - 1 - jobs, -1)
local moving = {}
local count = 0
for i = first, jobs do
  if there[#there - count] ~= ARGV[2 + i] then break end
  local to = tonumber(ARGV[2 + jobs + i])
  moving[to] = moving[to] or {}
  table.insert(moving[to], ARGV[2 + i])
  count = count + 1
end
redis.call('SCARD', KEYS[2])
for key = 3, 2 + 2 * lists do redis.call('LLEN', KEYS[key]) end

redis.call('LTRIM', KEYS[1], 0, -1 - count)
for to, ids in pairs(moving) do
  redis.call('LPUSH', KEYS[1 + 2 * to], unpack(ids))
  wake(KEYS[2 + 2 * to])
  local place = ARGV[2 + 2 * jobs + to]
  if place ~= '' then redis.call('SADD', KEYS[2], place) end
end
return count
