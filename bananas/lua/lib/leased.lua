-- leased: whether some process epoch holds this job; one look a lease, and there are few.
local function leased(epochs, prefix, id)
  for _, epoch in ipairs(redis.call('ZRANGE', epochs, 0, -1)) do
    for _, request in ipairs(redis.call('SMEMBERS', prefix .. ':queue:processing:epoch:' .. epoch)) do
      if redis.call('SISMEMBER', prefix .. ':queue:processing:lease:' .. request, id) == 1 then return true end
    end
  end
  return false
end
