-- settle: end or pass on jobs of one lease, each by its own outcome; only what is still leased counts.
--
-- KEYS[1] lease          SET    ids leased by the request that is the token
-- KEYS[2] epoch_leases   SET    requests whose leases the epoch holds
-- KEYS[3] counters       HASH   transition -> count
-- KEYS[4] scheduled      ZSET   id -> due, unix s; also a CHANNEL: its first is due earlier
-- KEYS[5] dead           ZSET   id -> failed at, unix s
-- KEYS[6] crashes        HASH   id -> processes it killed
-- KEYS[7] cancelled      SET    cancelled ids that were still in a list
-- KEYS[8] places         SET    places that hold jobs, did so lately, or are served
-- KEYS[9..] rest         mixed  a record key (STRING) a job in their order; then per `pass` section
--                               its list (LIST) and wake marker (LIST); then result keys (HASH)
-- ARGV[1] request        id     the token
-- ARGV[2] jobs           count  jobs in this call, 1..500, no id twice
-- ARGV[3..] rest         mixed  the ids; then sections that take the jobs in order, each
--                               (op, count, …):
--          drop    -                     completed, its record deleted
--          keep    ttl s, record…        completed, its record kept for a while; ttl 0 = deleted
--          later   counter, (+ms, record)…  scheduled again, counted under that name
--          fail    ttl s, record…        failed, into the dead-letter queue; ttl 0 = record deleted
--          pass    end, place            to another list: R its front (given back), L its back (routed)
--          lapse   ttl s, record…        expired before it began; ttl 0 = record deleted
--          forget  ttl s                 was cancelled while it waited: counted then, gone now
--          spare   -                     had ended before: its id was pushed again; nothing of it changes
--        then at most one of each, notes on jobs by their number: (foreign, count, number…): accepted by this settle;
--        (result, count, (number, ttl s, channel, message, fields, field, value…)…)
--
-- returns the numbers of the jobs that this token no longer holds: nothing was done for those
-- moves   processing -> completed | scheduled | failed | pending | expired
-- cost    O(jobs)
-- include: lib/now.lua
-- include: lib/digits.lua
-- include: lib/wake.lua
local jobs = tonumber(ARGV[2])
local held = redis.call('SMISMEMBER', KEYS[1], unpack(ARGV, 3, 2 + jobs))
local stale = {}
for job = 1, jobs do
  if held[job] == 0 then stale[#stale + 1] = job end
end
if #stale == jobs then return stale end
local all = #stale == 0
local lease_size = redis.call('SCARD', KEYS[1])

-- every key that will be written is read before the first write
redis.call('SCARD', KEYS[2])
redis.call('HLEN', KEYS[3])
local crashed = redis.call('HLEN', KEYS[6]) > 0
-- and so is every time: one that a command refuses half-way would lose the job
local wrong
local function check(time)
  local number = tonumber(time)
  if not number or number < 0 or number ~= math.floor(number) or number > 1e13 then wrong = time end
end
local list = 9 + jobs
local at = 3 + jobs
local lists = 0
local older = {}
while ARGV[at] do
  local op, count = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  if op == 'keep' or op == 'fail' or op == 'lapse' then
    if op == 'fail' then redis.call('ZCARD', KEYS[5]) end
    check(ARGV[at])
    at = at + 1 + count
  elseif op == 'later' then
    redis.call('ZCARD', KEYS[4])
    for i = 1, count do check(ARGV[at + 2 * i - 1]) end
    at = at + 1 + 2 * count
  elseif op == 'forget' then
    redis.call('SCARD', KEYS[7])
    check(ARGV[at])
    at = at + 1
  elseif op == 'pass' then
    redis.call('LLEN', KEYS[list + 2 * lists])
    redis.call('LLEN', KEYS[list + 2 * lists + 1])
    redis.call('SCARD', KEYS[8])
    lists = lists + 1
    at = at + 2
  elseif op == 'foreign' then at = at + count
  elseif op == 'result' then
    for i = 1, count do
      check(ARGV[at + 1])
      -- a result of an earlier job of this id is replaced in place; one of another type, or of
      -- thousands of members, is nobody's result and makes way
      local names = redis.pcall('HKEYS', KEYS[list + 2 * lists + i - 1])
      older[i] = not names.err and #names <= 1000 and names
      at = at + 5 + tonumber(ARGV[at + 4])
    end
  end
end
if wrong then return redis.error_reply('ERR a ttl or delay must be a whole number >= 0: ' .. wrong) end
local result = list + 2 * lists

-- the lease first: a removal, allowed at maxmemory, and it lifts the refusal for what follows
-- what it empties is told by counting, as a key that was emptied may not be asked again
local leaving = redis.call('SREM', KEYS[1], unpack(ARGV, 3, 2 + jobs))
if leaving == lease_size then redis.call('SREM', KEYS[2], ARGV[1]) end

local moved = {}
local function count_up(name, by) moved[name] = (moved[name] or 0) + by end
local cleared, forgotten = {}, {}

local function in_section(job, count)
  if all then return count end
  local n = 0
  for i = job, job + count - 1 do n = n + held[i] end
  return n
end

local function store(key, record, ttl)
  if ttl == '0' then redis.call('DEL', key) else redis.call('SET', key, record, 'EX', ttl) end
end

local function drop_others(key, names, first, last)
  local new, others = {}, {}
  for i = first, last, 2 do new[ARGV[i]] = true end
  for _, name in ipairs(names) do
    if not new[name] then others[#others + 1] = name end
  end
  if #others > 0 then redis.call('HDEL', key, unpack(others)) end
end

local now
local job = 1
at = 3 + jobs
while ARGV[at] do
  local op, count = ARGV[at], tonumber(ARGV[at + 1])
  local first = job
  at = at + 2
  if op == 'drop' then
    if all then
      redis.call('DEL', unpack(KEYS, 8 + job, 7 + job + count))
    else
      for i = job, job + count - 1 do
        if held[i] == 1 then redis.call('DEL', KEYS[8 + i]) end
      end
    end
    if crashed then  -- else a table that nobody needs: 2 % of a job's life at 100 a call
      for i = job, job + count - 1 do
        if held[i] == 1 then cleared[#cleared + 1] = ARGV[2 + i] end
      end
    end
    count_up('completed', in_section(job, count))
    job = job + count
  elseif op == 'keep' then
    for i = 1, count do
      if held[job] == 1 then
        store(KEYS[8 + job], ARGV[at + i], ARGV[at])
        cleared[#cleared + 1] = ARGV[2 + job]
      end
      job = job + 1
    end
    at = at + 1 + count
    count_up('completed', in_section(first, count))
  elseif op == 'later' then
    now = now or now_ms()
    local before = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')[2]
    for i = 1, count do
      if held[job] == 1 then
        local due = (now + tonumber(ARGV[at + 2 * i - 1])) / 1000
        redis.call('ZADD', KEYS[4], string.format('%.6f', due), ARGV[2 + job])
        redis.call('SET', KEYS[8 + job], ARGV[at + 2 * i])
      end
      job = job + 1
    end
    -- as in enqueue
    if redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')[2] ~= before then
      redis.pcall('PUBLISH', KEYS[4], '')
    end
    count_up(ARGV[at], in_section(first, count))
    at = at + 1 + 2 * count
  elseif op == 'fail' then
    now = now or now_ms()
    local score = string.format('%.6f', now / 1000)
    for i = 1, count do
      if held[job] == 1 then
        -- an older failure under the same id, its record long expired, gives way
        if redis.call('ZADD', KEYS[5], score, ARGV[2 + job]) == 0 then count_up('purged', 1) end
        store(KEYS[8 + job], ARGV[at + i], ARGV[at])
        cleared[#cleared + 1] = ARGV[2 + job]
      end
      job = job + 1
    end
    at = at + 1 + count
    count_up('failed', in_section(first, count))
  elseif op == 'pass' then
    local side = ARGV[at] == 'L' and 'LPUSH' or 'RPUSH'
    for _ = 1, count do
      if held[job] == 1 then redis.call(side, KEYS[list], ARGV[2 + job]) end
      job = job + 1
    end
    local passed = in_section(first, count)
    if passed > 0 then
      wake(KEYS[list + 1])
      redis.call('SADD', KEYS[8], ARGV[at + 1])
    end
    list = list + 2
    at = at + 2
    count_up(side == 'LPUSH' and 'routed' or 'released', passed)
  elseif op == 'lapse' then
    for i = 1, count do
      if held[job] == 1 then
        store(KEYS[8 + job], ARGV[at + i], ARGV[at])
        cleared[#cleared + 1] = ARGV[2 + job]
      end
      job = job + 1
    end
    at = at + 1 + count
    count_up('expired', in_section(first, count))
  elseif op == 'forget' then
    for _ = 1, count do
      if held[job] == 1 then
        forgotten[#forgotten + 1] = ARGV[2 + job]
        redis.call('EXPIRE', KEYS[8 + job], ARGV[at])
        cleared[#cleared + 1] = ARGV[2 + job]
      end
      job = job + 1
    end
    at = at + 1
  elseif op == 'spare' then
    job = job + count
  elseif op == 'foreign' then
    local n = 0
    for i = 0, count - 1 do n = n + held[tonumber(ARGV[at + i])] end
    count_up('accepted', n)
    at = at + count
  elseif op == 'result' then
    for i = 1, count do
      local fields = tonumber(ARGV[at + 4])
      if held[tonumber(ARGV[at])] == 1 then
        -- pcall: where it had to make way on a node that is losing the slot, it stays away
        if not older[i] then redis.call('DEL', KEYS[result]) end
        redis.pcall('HSET', KEYS[result], unpack(ARGV, at + 5, at + 4 + fields))
        drop_others(KEYS[result], older[i] or {}, at + 5, at + 4 + fields)
        redis.call('EXPIRE', KEYS[result], ARGV[at + 1])
        redis.call('PUBLISH', ARGV[at + 2], ARGV[at + 3])
      end
      result = result + 1
      at = at + 5 + fields
    end
  end
end
if crashed and #cleared > 0 then redis.call('HDEL', KEYS[6], unpack(cleared)) end
if #forgotten > 0 then redis.call('SREM', KEYS[7], unpack(forgotten)) end
for name, by in pairs(moved) do
  if by > 0 then redis.pcall('HINCRBY', KEYS[3], name, digits(by)) end
end
return stale
