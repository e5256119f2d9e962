"""Holds a script to what it may touch while the slot of its keys moves to another node.

Such a node refuses, in mid-script, every access to a key that it does not hold (any more), and
what the script did before stays done.  So a script may only touch, after its first write, keys
that it was given or had read before, and none that it has itself emptied, as an emptied
key is gone.  `GUARD` stands before a script and makes any other access an error, on any
server; `tests/faults/test_row_20_scripts.py` shows it on a real node.  A lone script has one
key and touches no other at all.
"""

from __future__ import annotations

from typing import Final

GUARD: Final = """\
local redis = (function(raw)
  local reads, several = {}, {DEL = 1, EXISTS = 1, MGET = 1, MSETNX = 2}
  for word in string.gmatch([[EXISTS GET GETRANGE HGET HGETALL HKEYS HLEN HMGET LINDEX LLEN
      LRANGE MGET PTTL SCARD SISMEMBER SMEMBERS SMISMEMBER SRANDMEMBER TYPE ZCARD ZMSCORE
      ZRANGE ZRANGEBYSCORE ZSCORE]], '%a+') do reads[word] = true end
  local known, there, lone = {}, nil, %(lone)s
  for _, key in ipairs(KEYS) do known[key] = true end

  local function problem(name, key)
    if lone and key ~= KEYS[1] then
      return name .. ' of ' .. key .. ', which is not its one key'
    elseif not there then
      known[key] = true
    elseif there[key] == nil then
      return name .. ' of ' .. key .. ', which was not read before the first write'
    elseif there[key] == 1 and raw.call('EXISTS', key) == 0 then
      return name .. ' of ' .. key .. ', which this script has emptied'
    end
  end

  local function guarded(call)
    return function(name, ...)
      local words = {...}
      if name == 'TIME' or name == 'PUBLISH' or words[1] == '%(clock)s' then
        return call(name, ...)
      end
      for i = 1, several[name] and #words or 1, several[name] or 1 do
        local wrong = problem(name, words[i])
        if wrong then error('SLOT ' .. wrong) end
      end
      if not reads[name] and not there then
        there = {}
        for key in pairs(known) do there[key] = raw.call('EXISTS', key) end
      end
      return call(name, ...)
    end
  end
  return {call = guarded(raw.call), pcall = guarded(raw.pcall), error_reply = raw.error_reply}
end)(redis)
"""


def guarded(source: bytes, clock_key: str = "", *, lone: bool = False) -> bytes:
    """Return the script behind the guard; reading `clock_key` is nobody's business."""
    guard = GUARD.replace("%(clock)s", clock_key).replace("%(lone)s", str(lone).lower())
    return guard.encode() + source
