-- include: lib/place_of.lua
-- include: lib/wake.lua
-- give_back: return up to `limit` ids of some leases to the front of their queues.
-- Reads everything first; the first write is a removal, so that it works at maxmemory.
-- `placed` maps ids whose record does not tell its place to one that the caller read.
-- What is empty afterwards is told by counting, as a key that was emptied may not be asked again.
-- Returns the ids moved, the ids left because their place is not known, and how many leases ended.
local function give_back(prefix, epoch_leases, requests, limit, placed)
  local moved, unplaced, by_lease, ended, by_place = {}, {}, {}, {}, {}
  for _, request in ipairs(requests) do
    if #moved + #unplaced >= limit then break end
    local lease = prefix .. ':queue:processing:lease:' .. request
    local size = redis.call('SCARD', lease)
    local ids = redis.call('SRANDMEMBER', lease, limit - #moved - #unplaced)
    local leaving = {}
    for _, id in ipairs(ids) do
      local place = placed[id] or place_of(prefix .. ':job:' .. id)
      if place then
        leaving[#leaving + 1] = id
        moved[#moved + 1] = id
        by_place[place] = by_place[place] or {}
        table.insert(by_place[place], id)
      else
        unplaced[#unplaced + 1] = id
      end
    end
    if #leaving > 0 then by_lease[lease] = leaving end
    if #leaving == size then ended[#ended + 1] = request end
  end
  local places = prefix .. ':places'
  redis.call('SCARD', places)
  for place in pairs(by_place) do
    redis.call('LLEN', prefix .. ':' .. place)
    redis.call('LLEN', prefix .. ':' .. place .. ':wake')
  end

  for lease, leaving in pairs(by_lease) do redis.call('SREM', lease, unpack(leaving)) end
  if #ended > 0 then redis.call('SREM', epoch_leases, unpack(ended)) end
  for place, ids in pairs(by_place) do
    -- ids are time-ordered: the oldest is pushed last and taken first
    table.sort(ids, function(a, b) return a > b end)
    redis.call('RPUSH', prefix .. ':' .. place, unpack(ids))
    redis.call('SADD', places, place)
    wake(prefix .. ':' .. place .. ':wake')
  end
  return moved, unplaced, #ended
end
