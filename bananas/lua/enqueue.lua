-- enqueue: accept up to 500 jobs in one step, or tell which ids exist already.
--
-- KEYS[1] request           STRING the answer given to this request, with a TTL
-- KEYS[2] counters          HASH   transition -> count
-- KEYS[3] scheduled         ZSET   id -> due, unix s; also a CHANNEL: its first is due earlier
-- KEYS[4] specials_version  STRING version of the set of tasks with lists of their own
-- KEYS[5] specials          ZSET   those tasks
-- KEYS[6] places            SET    places that hold jobs, did so lately, or are served
-- KEYS[7..] lists           LIST   per group its list, then its wake marker
-- ARGV[1] memory            ms     how long the answer is remembered
-- ARGV[2] version           count  the specials version by which the caller chose the lists
-- ARGV[3] jobs              count  jobs in this call, 1..500, no id twice
-- ARGV[4] later             count  how many of them, the last ones, are scheduled
-- ARGV[5] groups            count  groups of waiting jobs, in the order of their jobs
-- ARGV[6..] rest            mixed  (job key, record) a job; (place, count, ids…) a group;
--                                  then (due, id) a scheduled job: due = unix s, or "+ms" from now
--
-- returns {0, verdicts}: '' = all accepted, else one letter a job: a accepted, d duplicate;
--         {1, version, task…} when the specials changed: nothing was done
-- moves   nothing -> pending | scheduled
-- cost    O(jobs); one multi-key write for all records
-- include: lib/now.lua
local answer = redis.call('GET', KEYS[1])
if answer then return {0, answer} end

local version = redis.call('GET', KEYS[4]) or '0'
if version ~= ARGV[2] then return {1, version, unpack(redis.call('ZRANGE', KEYS[5], 0, 999))} end

local jobs, later, groups = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local after_records = 6 + 2 * jobs

-- every key is read before the first write: a wrong type or a slot on the move fails here
redis.call('HLEN', KEYS[2])
redis.call('ZCARD', KEYS[3])
local marked = {}
for key = 7, #KEYS do marked[key] = redis.call('LLEN', KEYS[key]) > 0 end
-- as lib/wake.lua does, by what was just read: a call less
local function wake(marker)
  if not marked[marker] then
    redis.call('LPUSH', KEYS[marker], '1')
    marked[marker] = true
  end
end
local at = after_records
local new_places = {}
for _ = 1, groups do
  if redis.call('SISMEMBER', KEYS[6], ARGV[at]) == 0 then new_places[#new_places + 1] = ARGV[at] end
  at = at + 2 + tonumber(ARGV[at + 1])
end
local dues = {}
local now = later > 0 and now_ms()
for i = 1, later do
  local due = ARGV[at]
  if string.sub(due, 1, 1) == '+' then
    due = (now + (tonumber(string.sub(due, 2)) or 0 / 0)) / 1000
  else
    due = tonumber(due)
  end
  -- a score that ZADD would refuse is refused here, where nothing has been written
  if not due or due ~= due then return redis.error_reply('ERR due is not a number: ' .. ARGV[at]) end
  if i == 1 then dues.before = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2] end
  dues[i] = string.format('%.6f', due)
  at = at + 2
end

-- MSETNX is the check for duplicates, the touch of every record key and the first write in one;
-- at maxmemory it is refused and nothing has happened
local verdicts = ''
if redis.call('MSETNX', unpack(ARGV, 6, after_records - 1)) == 0 then
  local letters = {}
  for job = 1, jobs do
    local key = ARGV[4 + 2 * job]
    if redis.call('EXISTS', key) == 1 then
      letters[job] = 'd'
    else
      letters[job] = 'a'
      redis.call('SET', key, ARGV[5 + 2 * job])
    end
  end
  verdicts = table.concat(letters)
end

local accepted, job = 0, 0
at = after_records
for group = 1, groups do
  local count = tonumber(ARGV[at + 1])
  local list = KEYS[5 + 2 * group]
  if verdicts == '' then
    redis.call('LPUSH', list, unpack(ARGV, at + 2, at + 1 + count))
    accepted = accepted + count
    wake(6 + 2 * group)
  else
    for i = 1, count do
      if string.sub(verdicts, job + i, job + i) == 'a' then
        redis.call('LPUSH', list, ARGV[at + 1 + i])
        accepted = accepted + 1
        wake(6 + 2 * group)
      end
    end
  end
  job = job + count
  at = at + 2 + count
end
for i = 1, later do
  if verdicts == '' or string.sub(verdicts, job + i, job + i) == 'a' then
    redis.call('ZADD', KEYS[3], dues[i], ARGV[at + 1])
    accepted = accepted + 1
  end
  -- promoters sleep until the first is due; pcall: a user without PUBLISH schedules all the same
  if i == later and redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2] ~= dues.before then
    redis.pcall('PUBLISH', KEYS[3], '')
  end
  at = at + 2
end

if #new_places > 0 then redis.call('SADD', KEYS[6], unpack(new_places)) end
-- ARGV[3] is the same as text, which costs a command less (lib/digits.lua)
if accepted > 0 then redis.pcall('HINCRBY', KEYS[2], 'accepted', verdicts == '' and ARGV[3] or accepted) end
redis.call('SET', KEYS[1], verdicts, 'PX', ARGV[1])
return {0, verdicts}
