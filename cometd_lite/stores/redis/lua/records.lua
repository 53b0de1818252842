-- Records: what listeners, receipts and webhooks remember. ARGV begins with the kind and the id of a record.

local function remember(kind, id, value, ends_at, most)  -- rare
  local all = prefix .. 'records:' .. kind
  call('SET', prefix .. 'record:' .. kind .. ':' .. id, value, 'PX', whole((ends_at - now) * 1000))
  call('ZADD', all, ends_at, id)
  if call('ZCARD', all) > most then
    call('DEL', prefix .. 'record:' .. kind .. ':' .. call('ZPOPMIN', all)[1])
  end
end

-- ARGV: value, seconds, most of the kind.
function verbs.remember()
  if not may_write() then return refused() end
  remember(ARGV[2], ARGV[3], ARGV[4], now + tonumber(ARGV[5]), tonumber(ARGV[6]))
  return answer()
end

-- The same. A record that was forgotten is not renewed: its end at one process may come between what another one has
-- read of it and writes of it.
function verbs.renew()
  if not may_write() then return refused() end
  if call('EXISTS', prefix .. 'record:' .. ARGV[2] .. ':' .. ARGV[3]) == 1 then
    remember(ARGV[2], ARGV[3], ARGV[4], now + tonumber(ARGV[5]), tonumber(ARGV[6]))
  end
  return answer()
end

-- ARGV: process, seconds, most of the kind, 1 where a process that has the record keeps it, and a time: a record that
-- ends by then does not count. The result says whether the record is this process' now: there was none, or this process
-- had it already, and keeps it.
function verbs.claim()
  if not may_write() then return refused() end
  local holder = call('GET', prefix .. 'record:' .. ARGV[2] .. ':' .. ARGV[3])
  local ends = tonumber(call('ZSCORE', prefix .. 'records:' .. ARGV[2], ARGV[3]) or 0)
  local holds = holder and ends > math.max(now, tonumber(ARGV[8]))
  if holds and (ARGV[7] ~= '1' or holder ~= ARGV[4]) then return answer(0) end
  remember(ARGV[2], ARGV[3], ARGV[4], now + tonumber(ARGV[5]), tonumber(ARGV[6]))
  return answer(1)
end

function verbs.forget()
  if not may_write() then return refused() end
  call('DEL', prefix .. 'record:' .. ARGV[2] .. ':' .. ARGV[3])
  call('ZREM', prefix .. 'records:' .. ARGV[2], ARGV[3])
  return answer()
end
