-- register: let a process epoch lease jobs until its deadline; a copy of the call extends nothing.
--
-- KEYS[1] epochs   ZSET   epoch -> deadline, unix ms; 0 = fenced
-- KEYS[2] workers  HASH   epoch -> JSON about its process
-- KEYS[3] places   SET    places that hold jobs, did so lately, or are served
-- KEYS[4] request  STRING set while this request is remembered
-- ARGV[1] epoch    id     fresh for every process
-- ARGV[2] ttl      ms     how long without a beat until it may be reclaimed
-- ARGV[3] info     JSON   host, pid, mode: for people to read
-- ARGV[4] memory   ms     how long the request is remembered
-- ARGV[5..] places name   the places it serves, so that audits see foreign pushes there
--
-- returns 1, or 0 when the epoch was fenced already, or is gone and this is a copy: a process that has
--         left does not come back
-- moves   nothing
-- cost    O(places)
-- include: lib/now.lua
local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])
if deadline == '0' then return 0 end
if redis.call('EXISTS', KEYS[4]) == 1 then return deadline and 1 or 0 end
redis.call('HLEN', KEYS[2])
redis.call('SCARD', KEYS[3])
redis.call('ZREM', KEYS[1], '')
redis.call('ZADD', KEYS[1], 'GT', now_ms() + tonumber(ARGV[2]), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
if #ARGV > 4 then redis.call('SADD', KEYS[3], unpack(ARGV, 5)) end
redis.call('SET', KEYS[4], '=', 'PX', ARGV[4])
return 1
