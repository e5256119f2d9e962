-- bury: drop ids from the dead-letter queue together with their records; returns how many it held.
-- A record without a TTL is no failed job's: the id was accepted anew and stays.
local function bury(dead, counters, ids, keys)
  local records = {}
  for _, key in ipairs(keys) do
    if redis.call('PTTL', key) ~= -1 then records[#records + 1] = key end
  end
  redis.call('HLEN', counters)
  local count = redis.call('ZREM', dead, unpack(ids))
  if #records > 0 then redis.call('DEL', unpack(records)) end
  redis.pcall('HINCRBY', counters, 'purged', count)
  return count
end
