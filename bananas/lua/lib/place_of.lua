-- place_of: where a job waits, read from the end of its record without looking at the rest.
-- Records that we wrote end in `"list":"<place>"}`; nil for a foreign, broken or missing one.
-- pcall: a key of another type must not stop the jobs around it.
local function place_of(job_key)
  local tail = redis.pcall('GETRANGE', job_key, -320, -1)
  if type(tail) ~= 'string' then return nil end
  return string.match(tail, '"list":"([%w_:.-]+)"}$')
end
