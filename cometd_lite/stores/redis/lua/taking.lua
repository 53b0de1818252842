-- Takes and leases: each message is given to one reader.

-- The oldest messages that no take has had, whether there are more, and 1 where some were lost before.
local function untaken(limit)
  local gap, sources = 0, {}
  for _, name in ipairs(names) do
    local box = boxes[name]
    if box.alive then
      if box.missed == 1 then gap = 1 end
      set(box, 'missed', 0)
      local source = {box = box, found = {}, at = 1, next = place_after(box, box.taken)}
      local back = {}
      for number in string.gmatch(box.back, '%d+') do back[#back + 1] = tonumber(number) end
      table.sort(back)
      for _, number in ipairs(back) do
        if #source.found > limit then break end
        local one = find(box, number)
        if is_current(one) then source.found[#source.found + 1] = one end
      end
      sources[#sources + 1] = source
    elseif call('SISMEMBER', MISSED, name) == 1 then
      gap = 1
      write('SREM', MISSED, name)
    end
  end
  if #sources == 0 then return {}, 0, gap end
  local messages, more = merged(sources, limit)
  return messages, more, gap
end

local function take(messages)
  for _, one in ipairs(messages) do
    if is_back(one.box, one.number) then leave_back(one.box, one.number)
    else set(one.box, 'taken', one.number) end
    reclaimable(one.box)
  end
end

-- The lease of a message that has ended; nil or false where there is none.
local function last_lease(box, number)
  return box.ends ~= 0 and call('ZRANGEBYSCORE', lease_key(box), -number - RELEASED, -number)[1]
end

-- Note that a message was given back that is no longer kept. Where it was dropped, no take has had it: that is a gap.
local function miss(box, number)
  if box.alive then
    if number <= box.lost then set(box, 'missed', 1) end
  elseif number <= tonumber(call('ZSCORE', LOST, box.name) or 0) then
    call('SADD', MISSED, box.name)
  end
end

-- Some of the exhausted messages, which this process is to move, and the attempt and secret of each. For TRY_SECONDS
-- no other process is given them.
local function to_move()
  local found, leases = {}, {}
  for _, name in ipairs(call('ZRANGEBYSCORE', EXHAUSTED, '-inf', now, 'LIMIT', 0, EXHAUSTED_AT_ONCE)) do
    local box, left = box_of(name), EXHAUSTED_AT_ONCE - #found
    for _, lease in ipairs(call('ZRANGEBYSCORE', lease_key(box), SPENT, SPENT + now, 'LIMIT', 0, left)) do
      local number, attempt, secret = lease_words(lease)
      local one = find(box, number)
      one.box = box
      found[#found + 1] = one
      leases[#leases + 1] = attempt
      leases[#leases + 1] = secret
      put_lease(box, lease, SPENT + now + TRY_SECONDS)
    end
    local first = call('ZRANGEBYSCORE', lease_key(box), SPENT, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    if first then call('ZADD', EXHAUSTED, tonumber(first) - SPENT, name) else call('ZREM', EXHAUSTED, name) end
    if left <= 0 then break end
  end
  return shown(found), leases
end

-- ARGV: limit. The results: where the reader is, 1 where messages were lost, 1 where there are more, and the messages.
function verbs.take()
  local messages, more, gap = untaken(tonumber(ARGV[2]))
  if (#messages > 0 or gap == 1) and not may_write() then return refused() end
  take(messages)
  return answer(#messages > 0 and messages[#messages].number or log.sequence, gap, more, shown(messages))
end

-- ARGV: limit, seconds, secret. The last result has the number of the attempt of each message.
function verbs.lease()
  local messages, more, gap = untaken(tonumber(ARGV[2]))
  if (#messages > 0 or gap == 1) and not may_write() then return refused() end
  local attempts = {}
  for at, one in ipairs(messages) do
    local last = is_back(one.box, one.number) and last_lease(one.box, one.number)
    attempts[at] = 1
    if last then
      attempts[at] = select(2, lease_words(last)) + 1
      remove_lease(one.box, last)
    end
    hold_lease(one.box, whole(one.number) .. ' ' .. attempts[at] .. ' ' .. ARGV[4], now + tonumber(ARGV[3]))
  end
  take(messages)
  set_log('leased', log.leased + #messages)
  local last = #messages > 0 and messages[#messages].number or log.sequence
  return answer(last, gap, more, shown(messages), attempts)
end

-- ARGV: done, extended or released, seconds, and leases of a mailbox. For each 1, where it was the last of its message.
function verbs.settle()
  local settlement, ends_at, box = ARGV[2], now + tonumber(ARGV[3]), boxes[names[1]]
  local settled = {}
  for at = 4, #ARGV do
    local lease = ARGV[at]
    local score = tonumber(call('ZSCORE', lease_key(box), lease))
    local number = lease_words(lease)
    local is_last = score and (score > 0 or is_back(box, number)) and (score < SPENT or settlement == 'done')
      and (score >= -number or settlement ~= 'extended')
    if is_last and not may_write() then return refused() end
    settled[#settled + 1] = is_last and 1 or 0
    if is_last and settlement == 'released' then
      if score < 0 or free_lease(box, lease) then put_lease(box, lease, -number - RELEASED) end
    elseif is_last then
      leave_back(box, number)
      if settlement == 'done' then
        remove_lease(box, lease)
        uncount_lease(score)
        reclaimable(box)
      else
        hold_lease(box, lease, ends_at)
        if score < 0 then set_log('leased', log.leased + 1) end
      end
    end
  end
  if settlement == 'released' and box.alive then wake_takes(box.name) end
  return answer(settled)
end

-- ARGV: the number and lease of each message whose worker was gone before it was answered; KEYS are their mailboxes.
function verbs.undo()
  if not may_write() then return refused() end
  for at, name in ipairs(names) do
    local number, box, lease = tonumber(ARGV[2 * at]), boxes[name], ARGV[2 * at + 1]
    local score = tonumber(call('ZSCORE', lease_key(box), lease))
    if score and score > 0 and score < SPENT then
      local _, attempt, secret = lease_words(lease)
      remove_lease(box, lease)
      uncount_lease(score)
      if attempt > 1 then put_lease(box, whole(number) .. ' ' .. (attempt - 1) .. ' ' .. secret, -number) end
      put_back(box, number)
    elseif not find(box, number) then
      miss(box, number)
    end
  end
  for name in pairs(boxes) do wake_takes(name) end
  return answer()
end

-- ARGV: the number of each message, whose mailboxes are KEYS. What a process gives back again, because it does not know
-- whether that was done, may be leased since.
function verbs.give_back()
  if not may_write() then return refused() end
  for at, name in ipairs(names) do
    local box, number = boxes[name], tonumber(ARGV[at + 1])
    if not find(box, number) then miss(box, number)
    elseif not is_reserved(box, number) then put_back(box, number) end
  end
  for name in pairs(boxes) do wake_takes(name) end
  return answer()
end
