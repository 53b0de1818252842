-- Pushes: whether there is room, what makes room, and how messages are appended and published.

-- The bounds of the mailboxes of a push where there are namespaces, for each name: whether a full one refuses it, its
-- capacity, its bytes, and when the messages expire.
local function bounds_of(rules)
  local bounds = {}
  for reject, capacity, bytes, expires in string.gmatch(rules, '(%d),(%d+),(%d+),(%S+)') do
    bounds[#bounds + 1] = {
      reject = reject == '1', capacity = tonumber(capacity), bytes = tonumber(bytes), expires = tonumber(expires),
    }
  end
  return bounds
end

-- Return the oldest messages, which must be dropped before so many messages and bytes fit; nil and the reason where
-- they cannot fit.
local function in_the_way(box, count, size, bounds)  -- rare
  local going, why = {}, 'full'
  local over, bytes_over = box.count + count - bounds.capacity, box.size + size - bounds.bytes
  if over <= 0 and bytes_over <= 0 then return going end
  if count > bounds.capacity or size > bounds.bytes then return nil, 'too large' end
  each_message(box, 0, function(one)
    if bounds.reject and not is_read(box, one.number) then return one.number > box.taken end
    going[#going + 1] = one
    over, bytes_over = over - 1, bytes_over - one.size
    if over <= 0 and bytes_over <= 0 then
      why = nil
      return true
    end
  end)
  if why then return nil, why end
  return going
end

local function read_already(box)  -- rare
  local going = {}
  local most = box.ends == 0 and math.max(box.acknowledged, box.taken) or box.taken
  each_message(box, 0, function(one)
    if one.number > most then return true end
    if is_read(box, one.number) then going[#going + 1] = one end
  end)
  return going
end

-- Drop what was read until so many bytes and mailboxes are free; return whether anything could go.
local function reclaim(memory, mailboxes)  -- rare
  local most_memory, most_mailboxes, before = log.memory - memory, log.mailboxes - mailboxes, log.messages
  for _ = 1, 2 do
    while log.memory > most_memory or log.mailboxes > most_mailboxes do
      local name = call('ZPOPMIN', RECLAIMABLE)[1]
      if not name then break end
      local box = box_of(name)
      if box.alive then
        set(box, 'turn', 0)
        drop(box, read_already(box))
      end
    end
    if log.messages < before then return true end
    if call('ZCARD', ACKNOWLEDGED) == 0 then return false end
    for _, raw in ipairs(call('XRANGE', ORDER, '-', '+', 'COUNT', LOOK)) do
      hear_of_patterns(box_of(raw[2][2]))
    end
  end
  return false
end

-- Drop what is in the way of a push. Return the refusal where there is no room for it, and for the mailboxes that are
-- missing.
local function make_room(names, count, size, memory, is_kept, bounds)  -- rare
  if not may_write() then return nil end
  local going
  while true do
    local refusal, created, over = nil, 0, log.memory + memory - MAX_MEMORY
    going = {}
    for at, name in ipairs(names) do
      local box, own = box_of(name), bounds[at] or bounds
      if not box.alive then created, over = created + 1, over + mailbox_cost(name) end
      if is_kept and not refusal and (box.count + count > own.capacity or box.size + size > own.bytes) then
        hear_of_patterns(box)
        local old, why = in_the_way(box, count, size, own)
        if old then
          going[name] = old
          for _, one in ipairs(old) do over = over - cost(name, #one.raw) end
        else
          refusal = {why, name}
        end
      end
    end
    local boxes_over = created > 0 and log.mailboxes + created - MAX_RECIPIENTS or 0
    if not refusal and over <= 0 and boxes_over <= 0 then break end
    if refusal or not reclaim(over, boxes_over) then
      save()  -- of what had to go already
      return refusal or {boxes_over > 0 and 'mailboxes' or 'memory'}
    end
  end
  for name, old in pairs(going) do drop(box_of(name), old) end
  return nil
end

-- Create the mailbox of a name. No rare function takes part: to make them, such a push took 42 µs of Redis in the place
-- of 28 (Redis 7.0).
local function create(box)
  local name, lost, newest = box.name, call('ZSCORE', LOST, box.name), box.newest
  if newest > 0 then  -- it was there until its last message went in this run
    for field, value in pairs(box_from(name, false)) do box[field] = value end
  end
  box.alive, box.lost, box.newest = true, tonumber(lost or log.floor), newest
  if lost then
    box.missed = call('SREM', MISSED, name)
    call('ZREM', LOST, name)
  end
  log.mailboxes, log.memory = log.mailboxes + 1, log.memory + mailbox_cost(name)
end

-- Answer a push that Redis refuses. Where Redis has no memory, drop messages that were read: the next try may find
-- room.
local function not_pushed()  -- rare
  local before = log.messages
  if string.find(log.said, 'OOM ', 1, true) then
    log.is_push, log.writable = false, nil
    reclaim(OOM_BYTES, 0)
    save()
  end
  return refused(before - log.messages)
end

-- Append messages to the mailboxes of names. words are ARGV of the verb:
--   2      the packed time at which the messages expire, then one character each:
--          k where they are kept, s where they are only shown to readers that wait
--          1 where a full mailbox refuses the push, 0 where it drops its oldest messages, n where there are namespaces
--          1 where there is a receipt, else 0
--          for each name, 1 where the process listens to its channel, else 0
--   3      the process, and the number to which other processes report how many readers they woke
--   4, ... the messages, without their numbers and expiries (see entries.py)
-- Behind the messages stand, with namespaces, what bounds_of takes, and with a receipt its id, the parts of its record
-- in front of the first number and behind it, its seconds, and how many receipts there may be. The results: the first
-- number, and how many processes were reached. Where some were, the numbers of the newest message before and of the
-- last lost one follow for each mailbox.
local function append(names, words)
  local expires, last, bounds = unpack_struct('<d', words[2]), #words, nil
  local kept, rejects, has_receipt = string.byte(words[2], 9, 11)
  local is_kept = kept == 107
  if has_receipt == 49 then
    last = last - 5
    local value = call('GET', prefix .. 'record:receipt:' .. words[last + 1])
    if value then
      save()  -- of what has ended
      return {'repeated', value}
    end
  end
  local receipt = last
  if rejects == 110 then
    bounds, last = bounds_of(words[last]), last - 1
  end
  if log.writable == false then return not_pushed() end
  local count, size, memory, created, created_memory = last - 3, 0, 0, 0, 0
  for at = 4, last do
    size = size + unpack_struct('<I4', words[at], 9)
    memory = memory + #words[at]
  end
  memory = (memory + count * (MESSAGE_COST + 16 - HEAD_SIZE)) * #names
  local is_crowded = false
  for at, name in ipairs(names) do
    local box, capacity, bytes = boxes[name] or box_of(name), CAPACITY, CAPACITY_BYTES
    if bounds then capacity, bytes = bounds[at].capacity, bounds[at].bytes end
    memory = memory + count * #name
    if not box.alive then created, created_memory = created + 1, created_memory + mailbox_cost(name) end
    is_crowded = is_crowded or (is_kept and (box.count + count > capacity or box.size + size > bytes))
  end
  if is_crowded or log.memory + memory + created_memory > MAX_MEMORY or
    (created > 0 and log.mailboxes + created > MAX_RECIPIENTS) then
    local own = bounds or {reject = rejects == 49, capacity = CAPACITY, bytes = CAPACITY_BYTES}
    local refusal = make_room(names, count, size, memory, is_kept, own)
    if refusal then return refusal end
    if not log.writable then return not_pushed() end
  end

  local first, number = log.sequence + 1, log.sequence
  for at = 4, last do
    for index, name in ipairs(names) do
      local box = boxes[name]
      if bounds then expires = bounds[index].expires end
      number = number + 1
      local raw = pack_struct('<dd', number, expires) .. words[at]
      if log.writable then
        call('RPUSH', box.key, raw)
      else
        -- The first thing that is written: Redis now answers whether it takes pushes.
        if type(redis.pcall('RPUSH', box.key, raw)) == 'table' then
          if not may_write() then return not_pushed() end
          call('RPUSH', box.key, raw)  -- which says what else is wrong
        end
        log.writable = true
      end
      if not box.alive then create(box) end
      call('XADD', ORDER, string.format('%.0f-0', number), 'n', name)
      if at == 4 then
        box.pushed, box.before, box.is_changed = {raw}, box.newest, true
        box.count, box.length, box.size = box.count + count, box.length + count, box.size + size
      else
        box.pushed[#box.pushed + 1] = raw
      end
      box.newest = number
      if expires < box.latest then box.mixed = 1 else box.latest = expires end
      if expires < box.expiry then
        box.expiry = expires
        call('ZADD', EXPIRIES, expires, name)
      end
    end
  end
  log.said, log.is_changed, log.sequence = 'ok', true, number
  log.messages, log.memory = log.messages + count * #names, log.memory + memory
  if has_receipt == 49 then
    local value = words[receipt + 2] .. whole(first) .. words[receipt + 3]
    local ends_at = now + tonumber(words[receipt + 4])
    remember('receipt', words[receipt + 1], value, ends_at, tonumber(words[receipt + 5]))
  end
  local receivers = wake(names, is_kept and 'pushed' or 'shown', words[3], string.sub(words[2], 12))
  if receivers == 0 then return answer(first, 0) end
  local numbers = {}
  for at, name in ipairs(names) do
    local box = boxes[name]
    numbers[2 * at - 1], numbers[2 * at] = box.before, math.max(box.lost, log.torn)
  end
  return answer(first, receivers, numbers)
end

function verbs.append()
  return append(names, ARGV)
end

-- ARGV: the number of each message, whose mailboxes are KEYS.
function verbs.retract()
  if not may_write() then return refused() end
  for at, name in ipairs(names) do
    local box, number = boxes[name], tonumber(ARGV[at + 1])
    local one = find(box, number)
    if one then
      leave_back(box, number)
      forget_leases(box, {one})
      remove(box, {one})
      if box.count == 0 then bury(box) end
    end
  end
  return answer()
end
