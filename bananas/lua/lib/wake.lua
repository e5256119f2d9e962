-- wake: leave the one marker that an idle worker of a place blocks on. Two would wake two
-- workers for nothing; the worker that finds more than it can take leaves the next marker.
local function wake(wake_key)
  if redis.call('LLEN', wake_key) == 0 then redis.call('LPUSH', wake_key, '1') end
end
