-- vacate: forget places where nothing waits and that no worker serves; whoever puts a job there adds it.
--
-- KEYS[1] places    SET    places that hold jobs, did so lately, or are served
-- KEYS[2] workers   HASH   epoch -> JSON about its process
-- KEYS[3..] lists   LIST   per place: sorted list, list, wake marker
-- ARGV[1] epochs    count  how many workers' epochs follow: those by which the caller chose
-- ARGV[2..] rest    mixed  the epochs; then the places, 1..200
--
-- returns how many were forgotten; -1 = a worker came that the caller did not know of: nothing was done
-- moves   nothing
-- cost    O(places + workers)
local known, count = {}, tonumber(ARGV[1])
for i = 2, 1 + count do known[ARGV[i]] = true end
for _, epoch in ipairs(redis.call('HKEYS', KEYS[2])) do
  if not known[epoch] then return -1 end
end
local empty, markers = {}, {}
for at = 3, #KEYS, 3 do
  redis.call('LLEN', KEYS[at + 2])
  if redis.call('LLEN', KEYS[at]) == 0 and redis.call('LLEN', KEYS[at + 1]) == 0 then
    empty[#empty + 1] = ARGV[1 + count + at / 3]
    markers[#markers + 1] = KEYS[at + 2]
  end
end
redis.call('SCARD', KEYS[1])
if #empty == 0 then return 0 end
local forgotten = redis.call('SREM', KEYS[1], unpack(empty))
redis.call('DEL', unpack(markers))
return forgotten
