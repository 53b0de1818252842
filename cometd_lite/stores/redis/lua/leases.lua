-- Leases: messages that workers hold for some time. The rules are those of leases.py.
--
-- The score of a lease says what it is: the time at which it ends where a worker holds it; minus the number of the
-- message where it has ended, so that it is found by that, and RELEASED less where its worker has given it back; and
-- SPENT plus the time at which to try to move it where the message is exhausted. Of a message that is done or dropped
-- there is none.

local SPENT = 1e15
local RELEASED = 0.5
local TRY_SECONDS = 10  -- a process that moves an exhausted message has so long; then another one tries
local leases_left = LEASES_ENDED_AT_ONCE

local function lease_key(box)  -- rare
  return prefix .. 'leases:' .. box.name
end

local function lease_words(lease)  -- rare
  local number, attempt, secret = string.match(lease, '^(%d+) (%d+) (%S+)$')
  return tonumber(number), tonumber(attempt), secret
end

local function put_lease(box, lease, score)  -- rare
  local added = write('ZADD', lease_key(box), score, lease)
  if added == 1 then set_log('memory', log.memory + LEASE_COST) end
  box.reserved = nil
end

local function remove_lease(box, lease)  -- rare
  local removed = write('ZREM', lease_key(box), lease)
  if removed == 1 then set_log('memory', log.memory - LEASE_COST) end
  box.reserved = nil
end

local function hold_lease(box, lease, ends_at)  -- rare
  put_lease(box, lease, ends_at)
  if box.ends == 0 or ends_at < box.ends then
    set(box, 'ends', ends_at)
    write('ZADD', ENDING, ends_at, box.name)
  end
end

-- Count a lease no longer, by its score.
local function uncount_lease(score)  -- rare
  if score >= SPENT then set_log('exhausted', log.exhausted - 1)
  elseif score > 0 then set_log('leased', log.leased - 1) end
end

-- End a lease that a worker holds; return whether others may have the message, or it is exhausted.
local function free_lease(box, lease)  -- rare
  local number, attempt = lease_words(lease)
  set_log('leased', log.leased - 1)
  if attempt < MAX_ATTEMPTS or string.sub(box.name, 1, 6) == '$dead/' then
    put_lease(box, lease, -number)
    put_back(box, number)
    return true
  end
  put_lease(box, lease, SPENT + now)
  write('ZADD', EXHAUSTED, now, box.name)
  set_log('exhausted', log.exhausted + 1)
  return false
end

-- Tell readers that takes may have messages of a mailbox again.
local function wake_takes(name)  -- rare
  wake({name}, 'back', '- 0', '')
end

-- End the leases whose time is over. While writes are refused none ends.
local function end_leases(box)  -- rare
  if not may_write() then return end
  local key, is_there = lease_key(box), false
  for _, lease in ipairs(call('ZRANGEBYSCORE', key, '(0', now, 'LIMIT', 0, leases_left)) do
    leases_left = leases_left - 1
    is_there = free_lease(box, lease) or is_there
  end
  local first = call('ZRANGEBYSCORE', key, '(0', '(' .. whole(SPENT), 'WITHSCORES', 'LIMIT', 0, 1)[2]
  set(box, 'ends', tonumber(first or NEVER))
  if first then call('ZADD', ENDING, first, box.name) else call('ZREM', ENDING, box.name) end
  if is_there then wake_takes(box.name) end
end

-- Whether a message is kept from takes.
local function is_reserved(box, number)  -- rare
  if box.ends == 0 then return false end
  if not box.reserved then
    box.reserved = {}
    for _, lease in ipairs(call('ZRANGEBYSCORE', lease_key(box), '(0', '+inf')) do
      box.reserved[lease_words(lease)] = true
    end
  end
  return box.reserved[number]
end

-- Forget the leases of messages that are no longer kept.
local function forget_leases(box, entries)  -- rare
  if box.ends == 0 then return end
  local gone = {}
  for _, one in ipairs(entries) do gone[one.number] = true end
  local found = call('ZRANGEBYSCORE', lease_key(box), '-inf', '+inf', 'WITHSCORES')
  for at = 1, #found, 2 do
    if gone[lease_words(found[at])] then
      uncount_lease(tonumber(found[at + 1]))
      remove_lease(box, found[at])
    end
  end
end

-- Whether some reader has had a message, as far as that makes room.
local function is_read(box, number)  -- rare
  if box.ends == 0 then
    return number <= box.acknowledged or (number <= box.taken and not is_back(box, number))
  end
  return number <= box.taken and not is_back(box, number) and not is_reserved(box, number)
end
