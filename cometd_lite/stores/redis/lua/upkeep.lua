-- What is done with whole mailboxes: deleted, described, and expired.

-- ARGV: the number of the last message to delete, empty in the first step. One step deletes GOING_AT_ONCE messages. The
-- results: that number, and 1 where there are more.
function verbs.delete()
  local box, last, more = boxes[names[1]], tonumber(ARGV[2]) or log.sequence, 0
  if box.alive then
    if not may_write() then return refused() end
    local going = {}
    each_message(box, 0, function(one)
      if one.number > last then return true end
      if #going == GOING_AT_ONCE then
        more = 1
        return true
      end
      going[#going + 1] = one
    end)
    drop(box, going)
  end
  return answer(last, more)
end

-- The results: the messages that no reader has had, and their bytes, the numbers of the oldest and the newest that are
-- kept, how many are leased, and the number and date of the oldest that no reader has had.
function verbs.describe()
  local box = boxes[names[1]]
  if not box.alive then return answer(0, 0, 0, 0, 0, 0, 0) end
  hear_of_patterns(box)
  local queued, size, oldest, newest, unread = 0, 0, nil, 0, nil
  local leased = box.ends == 0 and 0 or #call('ZRANGEBYSCORE', lease_key(box), '(0', '(' .. whole(SPENT))
  each_message(box, 0, function(one)
    if is_current(one) then
      oldest, newest = oldest or one.number, one.number
      if not is_read(box, one.number) then
        queued, size, unread = queued + 1, size + one.size, unread or one
      end
    end
  end)
  local first, date = unread and unread.number or 0, unread and string.format('%.17g', unread.created_at) or '0'
  return answer(queued, size, oldest, newest, leased, first, date)
end

-- ARGV: who asks, as in wake, and 1 where it listens itself. Where readers of the name stand, they are counted.
function verbs.who()
  return answer(wake(names, 'who', ARGV[2], ARGV[3]))
end

-- ARGV: kinds of records, of which those are cleared away that have ended. Messages expire and leases end, as many as
-- one step takes. The results: 1 where there are more, the exhausted messages that this process is to move and their
-- leases, and how many messages are leased and exhausted in all.
function verbs.expire()
  log.is_push = true
  if not may_write() then log.is_push, log.writable = false, nil end  -- without memory Redis takes what makes room
  if not may_write() then return answer(0, {}, {}, 0, 0) end
  local found = call('ZRANGEBYSCORE', EXPIRIES, '-inf', now, 'LIMIT', 0, EXPIRED_AT_ONCE)
  local before, left_out = log.messages, false
  for _, name in ipairs(found) do
    left_out = before - log.messages >= GOING_AT_ONCE
    if left_out then break end
    box_of(name)
  end
  for at = 2, #ARGV do call('ZREMRANGEBYSCORE', prefix .. 'records:' .. ARGV[at], '-inf', now) end
  local ending = call('ZRANGEBYSCORE', ENDING, '-inf', now, 'LIMIT', 0, EXPIRED_AT_ONCE)
  for _, name in ipairs(ending) do
    if leases_left > 0 and not box_of(name).alive then write('ZREM', ENDING, name) end
  end
  local is_all = not left_out and #found < EXPIRED_AT_ONCE and #ending < EXPIRED_AT_ONCE and leases_left > 0
  local rows, leases = to_move()
  return answer(is_all and 0 or 1, rows, leases, log.leased, log.exhausted)
end
