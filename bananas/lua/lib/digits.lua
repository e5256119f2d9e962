-- digits: a whole number as text. A command takes a number through "%.17g", 2,200 instructions
-- each on Redis 7.0; this is the cheaper way.
local function digits(number) return string.format('%d', number) end
