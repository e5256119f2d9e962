-- restore: put back jobs whose records are there and whose ids are nowhere, by order of an operator.
--
-- KEYS[1] counters   HASH   transition -> count
-- KEYS[2] scheduled  ZSET   id -> due, unix s; also a CHANNEL: its first may be due earlier
-- KEYS[3] dead       ZSET   id -> failed at, unix s
-- KEYS[4] list       LIST   where those that wait go
-- KEYS[5] wake       LIST   its marker
-- KEYS[6] places     SET    places that hold jobs, did so lately, or are served
-- KEYS[7..] jobs     STRING a record key an id
-- ARGV[1] jobs       count  1..500, no id twice
-- ARGV[2] place      name   the list's place
-- ARGV[3] seen       count  how many counters follow
-- ARGV[4..] rest     mixed  (counter, count) as they were when the caller looked for these jobs; then
--                           (id, way) a job: way = 'w' waiting, 's<unix s>' scheduled, 'd<unix s>' dead
--
-- returns how many were put back; -1 when any counter has moved since: the caller has to look again. A
--         copy of the call finds the counter that the first one moved
-- moves   nothing -> pending | scheduled | failed
-- cost    O(counters + jobs log scheduled)
-- include: lib/wake.lua
local jobs, seen = tonumber(ARGV[1]), tonumber(ARGV[3])
if redis.call('HLEN', KEYS[1]) ~= seen then return -1 end
for i = 4, 2 + 2 * seen, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) ~= ARGV[i + 1] then return -1 end
end
redis.call('LLEN', KEYS[4])
redis.call('LLEN', KEYS[5])
redis.call('SCARD', KEYS[6])
local waiting, ways = {}, {}
local at = 4 + 2 * seen
for job = 1, jobs do
  local id, way = ARGV[at], ARGV[at + 1]
  local kind, time = string.sub(way, 1, 1), tonumber(string.sub(way, 2))
  if kind ~= 'w' and not time then return redis.error_reply('ERR no such way: ' .. way) end
  if redis.call('EXISTS', KEYS[6 + job]) == 1 and not redis.call('ZSCORE', KEYS[2], id)
    and not redis.call('ZSCORE', KEYS[3], id) then
    if kind == 'w' then waiting[#waiting + 1] = id else ways[#ways + 1] = {kind, time, id} end
  end
  at = at + 2
end
local restored = #waiting + #ways
if restored == 0 then return 0 end

-- a removal, even of nothing, lifts the refusal at maxmemory for what follows
redis.call('ZREM', KEYS[2], '')
redis.pcall('HINCRBY', KEYS[1], 'restored', restored)
local later = false
for _, way in ipairs(ways) do
  redis.call('ZADD', way[1] == 's' and KEYS[2] or KEYS[3], string.format('%.6f', way[2]), way[3])
  later = later or way[1] == 's'
end
-- as in enqueue
if later then redis.pcall('PUBLISH', KEYS[2], '') end
if #waiting > 0 then
  -- they have waited for longer than what is there
  redis.call('RPUSH', KEYS[4], unpack(waiting))
  redis.call('SADD', KEYS[6], ARGV[2])
  wake(KEYS[5])
end
return restored
