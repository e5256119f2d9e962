-- beat: extend the leases of living process epochs, all in one call.
--
-- KEYS[1] epochs   ZSET   epoch -> deadline, unix ms; 0 = fenced
-- ARGV[1] ttl      ms     the deadline is set this far from now; back only after a step of the clock
-- ARGV[2..] epochs id     whom the caller knows to be alive, up to 1000
--
-- returns one number an epoch: 1 extended, 0 fenced or gone. An epoch past its deadline that nobody
--         has reclaimed is still whole and is extended: an outage of Redis costs no lease
-- moves   nothing
-- cost    O(epochs log epochs)
-- include: lib/now.lua
local ttl = tonumber(ARGV[1])
local deadline = now_ms() + ttl
local scores = redis.call('ZMSCORE', KEYS[1], unpack(ARGV, 2))
-- a removal, even of nothing, lifts the refusal of ZADD at maxmemory: beats must go on there
redis.call('ZREM', KEYS[1], '')
local answer = {}
for i, score in ipairs(scores) do
  if score and score ~= '0' then
    -- far beyond any beat: Redis's clock was set back, and the old deadline would hold for too long
    local condition = tonumber(score) > deadline + 9 * ttl and 'XX' or 'GT'
    redis.call('ZADD', KEYS[1], condition, deadline, ARGV[1 + i])
    answer[i] = 1
  else
    answer[i] = 0
  end
end
return answer
