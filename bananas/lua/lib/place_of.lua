-- place_of: where a job waits, read from the end of its record without looking at the rest.
-- Records that we wrote end in `"list":"<place>"}`; nil for a foreign, broken or missing one.
-- Only what `keys.place` makes is a place: a foreign record may end in a `list` member of its own.
-- pcall: a key of another type must not stop the jobs around it.
-- The bounds are text: a number costs a command 2,200 instructions, half of this one's.
local function place_of(job_key)
  local tail = redis.pcall('GETRANGE', job_key, '-320', '-1')
  if type(tail) ~= 'string' then return nil end
  local place, before, priority = string.match(tail, '"list":"(([%w_:.-]-)queue:(%l+))"}$')
  if priority ~= 'high' and priority ~= 'normal' and priority ~= 'low' then return nil end
  if before ~= '' and not string.match(before, '^route:.*:$') and not string.match(before, '^task:.*:$') then
    return nil
  end
  return place
end
