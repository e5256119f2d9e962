-- dequeue: lease up to `limit` waiting jobs to one process epoch; the request id is the token.
--
-- KEYS[1] request           STRING set while this request is remembered
-- KEYS[2] lease             SET    ids leased by this request
-- KEYS[3] epoch_leases      SET    requests whose leases the epoch holds
-- KEYS[4] epochs            ZSET   epoch -> deadline, unix ms; 0 = fenced
-- KEYS[5] counters          HASH   transition -> count
-- KEYS[6] specials_version  STRING version of the set of tasks with lists of their own
-- KEYS[7] specials          ZSET   those tasks
-- KEYS[8] crashes           HASH   id -> processes it killed
-- KEYS[9..] lists           LIST   per place, in the order of service: sorted list, list, wake marker
-- ARGV[1] epoch             id     who leases
-- ARGV[2] request           id     the token, as in KEYS[1] and KEYS[2]
-- ARGV[3] limit             count  most jobs to lease, 1..1000
-- ARGV[4] room              bytes  most bytes of records to return; the first job comes whatever its size
-- ARGV[5] memory            ms     how long the request is remembered
-- ARGV[6] version           count  the specials version by which the caller chose the places
-- ARGV[7] job_prefix        string what stands before the id in a record's key
--
-- returns {'ok', now ms, {place number, ids, records, crashes}…}: place 0 in a repeated answer;
--         ids run from the newest to the oldest; a missing record is null; crashes may be empty;
--         {'specials', version, task…} when the specials changed; {'fenced'} when the epoch is gone
-- moves   pending -> processing
-- cost    O(limit), plus two LLEN a place; it reads at most 15 records that the room leaves behind
-- include: lib/now.lua
-- include: lib/digits.lua
local epoch, request, limit, room = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local deadline = redis.call('ZSCORE', KEYS[4], epoch)
if not deadline or deadline == '0' then return {'fenced'} end

local function records_of(ids)
  local keys = {}
  for i = 1, #ids do keys[i] = ARGV[7] .. ids[i] end
  return redis.call('MGET', unpack(keys))
end
local crashed = redis.call('HLEN', KEYS[8]) > 0
local function crashes_of(ids)
  if not crashed then return {} end
  return redis.call('HMGET', KEYS[8], unpack(ids))
end

local answer = {'ok', now_ms()}
if redis.call('EXISTS', KEYS[1]) == 1 then
  -- asked before: the same jobs again, as far as they are still leased
  local ids = redis.call('SMEMBERS', KEYS[2])
  table.sort(ids, function(a, b) return a > b end)
  if #ids > 0 then answer[3] = {0, ids, records_of(ids), crashes_of(ids)} end
  return answer
end

local version = redis.call('GET', KEYS[6]) or '0'
if version ~= ARGV[6] then return {'specials', version, unpack(redis.call('ZRANGE', KEYS[7], 0, 999))} end

-- records are read in small steps, so that large ones beyond the room are not read in vain; steps
-- that grow to 64 would save 2.5 % of the instructions of a job's life, at 100 small ones a call
local step = 16
local taken, full = 0, false
local takes, leasing, unmarked = {}, {}, {}
for at = 9, #KEYS, 3 do
  local left = 0
  for list = at, at + 1 do
    local waiting, count = redis.call('LLEN', KEYS[list]), 0
    while count < waiting and not full do
      local ids = redis.call('LRANGE', KEYS[list], digits(-count - math.min(step, limit - taken)), digits(-1 - count))
      local records = records_of(ids)
      local first = #ids + 1
      while first > 1 and not full do
        local record = records[first - 1]
        local size = record and #record or 0
        if size > room and taken + #ids - first + 1 > 0 then
          full = true
        else
          room, first = room - size, first - 1
        end
      end
      if first > 1 then
        ids, records = {unpack(ids, first)}, {unpack(records, first)}
      end
      if #ids > 0 then
        taken, count = taken + #ids, count + #ids
        full = full or taken >= limit
        for i = 1, #ids do leasing[#leasing + 1] = ids[i] end
        answer[#answer + 1] = {(at - 6) / 3, ids, records, crashes_of(ids)}
      end
    end
    if count > 0 then takes[#takes + 1] = {KEYS[list], count} end
    left = left + waiting - count
  end
  if left > 0 and redis.call('LLEN', KEYS[at + 2]) == 0 then unmarked[#unmarked + 1] = KEYS[at + 2] end
end
if taken == 0 then return answer end

redis.call('SCARD', KEYS[2])
redis.call('SCARD', KEYS[3])
redis.call('HLEN', KEYS[5])
-- removals first: they lift the refusal at maxmemory for what follows
for _, take in ipairs(takes) do redis.call('LTRIM', take[1], '0', digits(-1 - take[2])) end
redis.call('SADD', KEYS[2], unpack(leasing))
redis.call('SADD', KEYS[3], request)
redis.call('SET', KEYS[1], '1', 'PX', ARGV[5])
redis.pcall('HINCRBY', KEYS[5], 'leased', digits(taken))
-- more is waiting than was taken: whoever idles next to us is to take it
for _, wake_key in ipairs(unmarked) do redis.call('LPUSH', wake_key, '1') end
return answer
