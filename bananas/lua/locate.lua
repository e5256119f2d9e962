-- locate: read records together with where their ids are, in one instant.
--
-- KEYS[1] scheduled  ZSET   id -> due, unix s
-- KEYS[2] dead       ZSET   id -> failed at, unix s
-- KEYS[3] epochs     ZSET   epoch -> deadline, unix ms
-- KEYS[4..] jobs     STRING a record key an id
-- ARGV[1] prefix     string of all keys; lease keys carry its slot
-- ARGV[2..] ids      id     the jobs, 1..100
--
-- returns {record, where}… : record null when there is none; where 'scheduled', 'dead', 'leased' or ''
-- moves   nothing
-- cost    O(jobs * leases)
local prefix = ARGV[1]
local records = redis.call('MGET', unpack(KEYS, 4))
local answer = {}
for i, record in ipairs(records) do answer[i] = {record, ''} end
for i = 1, #records do
  if redis.call('ZSCORE', KEYS[1], ARGV[1 + i]) then answer[i][2] = 'scheduled' end
  if redis.call('ZSCORE', KEYS[2], ARGV[1 + i]) then answer[i][2] = 'dead' end
end
for _, epoch in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  for _, request in ipairs(redis.call('SMEMBERS', prefix .. ':queue:processing:epoch:' .. epoch)) do
    local held = redis.call('SMISMEMBER', prefix .. ':queue:processing:lease:' .. request, unpack(ARGV, 2))
    for i, is_held in ipairs(held) do
      if is_held == 1 then answer[i][2] = 'leased' end
    end
  end
end
return answer
