-- beat: extend the leases of living process epochs, all in one call.
--
-- KEYS[1] epochs   ZSET   epoch -> deadline, unix ms; 0 = fenced
-- ARGV[1] ttl      ms     the deadline is set this far from now, never back
-- ARGV[2..] epochs id     whom the caller knows to be alive, up to 1000
--
-- returns one number an epoch: 1 extended, 0 fenced or gone. An epoch past its deadline that nobody
--         has reclaimed is still whole and is extended: an outage of Redis costs no lease
-- moves   nothing
-- cost    O(epochs log epochs)
-- include: lib/now.lua
local deadline = now_ms() + tonumber(ARGV[1])
local scores = redis.call('ZMSCORE', KEYS[1], unpack(ARGV, 2))
-- a removal, even of nothing, lifts the refusal of ZADD at maxmemory: beats must go on there
redis.call('ZREM', KEYS[1], '')
local answer = {}
for i, score in ipairs(scores) do
  if score and score ~= '0' then
    redis.call('ZADD', KEYS[1], 'XX', 'GT', deadline, ARGV[1 + i])
    answer[i] = 1
  else
    answer[i] = 0
  end
end
return answer
