-- register: let a process epoch lease jobs until its deadline; asked twice, it only extends.
--
-- KEYS[1] epochs   ZSET   epoch -> deadline, unix ms; 0 = fenced
-- KEYS[2] workers  HASH   epoch -> JSON about its process
-- KEYS[3] places   SET    every place ever used
-- ARGV[1] epoch    id     fresh for every process
-- ARGV[2] ttl      ms     how long without a beat until it may be reclaimed
-- ARGV[3] info     JSON   host, pid, mode: for people to read
-- ARGV[4..] places name   the places it serves, so that audits see foreign pushes there
--
-- returns 1, or 0 when the epoch was fenced already
-- moves   nothing
-- cost    O(places)
-- include: lib/now.lua
local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])
if deadline == '0' then return 0 end
redis.call('HLEN', KEYS[2])
redis.call('SCARD', KEYS[3])
redis.call('ZREM', KEYS[1], '')
redis.call('ZADD', KEYS[1], 'GT', now_ms() + tonumber(ARGV[2]), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
if #ARGV > 3 then redis.call('SADD', KEYS[3], unpack(ARGV, 4)) end
return 1
