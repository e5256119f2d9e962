-- cancel: end a job that waits or is scheduled; one that runs or has ended is left alone.
--
-- KEYS[1] job        STRING its record
-- KEYS[2] scheduled  ZSET   id -> due, unix s
-- KEYS[3] dead       ZSET   id -> failed at, unix s
-- KEYS[4] epochs     ZSET   epoch -> deadline, unix ms
-- KEYS[5] counters   HASH   transition -> count
-- KEYS[6] cancelled  SET    cancelled ids still in a list
-- KEYS[7] crashes    HASH   id -> processes it killed
-- ARGV[1] id         id     the job
-- ARGV[2] seen       record the record by which the caller decided
-- ARGV[3] record     record the same, cancelled
-- ARGV[4] ttl        s      how long the record is kept; 0 = deleted at once, or when its id is met
-- ARGV[5] foreign    0|1    1 = the record was not ours: it counts as accepted now
-- ARGV[6] prefix     string of all keys; lease keys carry its slot
--
-- returns 'cancelled', 'changed' (read it again), 'processing' or 'failed'; a copy of the call finds
--         the record it wrote: 'cancelled', no effect
-- moves   pending | scheduled -> cancelled
-- cost    O(leases); no list is searched: the dequeue drops the id when it comes to it
-- include: lib/leased.lua
local record = redis.call('GET', KEYS[1])
if record == ARGV[3] then return 'cancelled' end
if record ~= ARGV[2] then return 'changed' end
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return 'failed' end
if leased(KEYS[4], ARGV[6], ARGV[1]) then return 'processing' end
local scheduled = redis.call('ZSCORE', KEYS[2], ARGV[1])
redis.call('HLEN', KEYS[5])
redis.call('SCARD', KEYS[6])
redis.call('HLEN', KEYS[7])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[7], ARGV[1])
if scheduled and ARGV[4] == '0' then
  redis.call('DEL', KEYS[1])
elseif scheduled then
  redis.call('SET', KEYS[1], ARGV[3], 'EX', ARGV[4])
else
  redis.call('SET', KEYS[1], ARGV[3])
  redis.call('SADD', KEYS[6], ARGV[1])
end
if ARGV[5] == '1' then redis.pcall('HINCRBY', KEYS[5], 'accepted', 1) end
redis.pcall('HINCRBY', KEYS[5], 'cancelled', 1)
return 'cancelled'
