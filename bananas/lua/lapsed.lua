-- lapsed: which process epochs are past their deadline, or were fenced and not yet emptied.
--
-- KEYS[1] epochs  ZSET   epoch -> deadline, unix ms; 0 = fenced
-- ARGV[1] limit   count  most epochs to return, 1..1000
--
-- returns {now ms, epoch…}, the longest lapsed first
-- moves   nothing
-- cost    O(limit)
-- include: lib/now.lua
local now = now_ms()
return {now, unpack(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1]))}
