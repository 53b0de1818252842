-- How mailboxes come and go: what is taken out of them, what expires, and how a run ends.

local function bury(box)  -- rare
  write('DEL', box.key, prefix .. 'box:' .. box.name)
  if box.ends ~= 0 then
    write('ZREM', ENDING, box.name)
    write('ZREM', EXHAUSTED, box.name)
  end
  write('ZREM', EXPIRIES, box.name)
  write('ZREM', RECLAIMABLE, box.name)
  set_log('mailboxes', log.mailboxes - 1)
  set_log('memory', log.memory - mailbox_cost(box.name))
  box.alive = false
  note(box.name, box.lost, box.missed == 1)
end

-- Take messages out of the list, given in its order.
local function remove(box, entries)  -- rare
  local ids, size, memory, count = {}, 0, 0, #entries
  for at, gone in ipairs(entries) do
    ids[at] = whole(gone.number) .. '-0'
    size = size + gone.size
    memory = memory + cost(box.name, #gone.raw)
  end
  for first = 1, count, 1000 do write('XDEL', ORDER, unpack(ids, first, math.min(first + 999, count))) end
  if entries[count].at == count - 1 then
    write('LTRIM', box.key, count, -1)
  else
    for _, gone in ipairs(entries) do write('LSET', box.key, gone.at, '') end
    write('LREM', box.key, count, '')
  end
  if may_write() then box.length = box.length - count end
  set(box, 'size', box.size - size)
  set(box, 'count', box.count - count)
  set_log('messages', log.messages - count)
  set_log('memory', log.memory - memory)
end

-- Take messages out, oldest first; readers before them have a gap.
local function drop(box, entries)  -- rare
  if #entries == 0 then return end
  box.has_dropped = true
  for _, gone in ipairs(entries) do
    local number = gone.number
    set(box, 'lost', math.max(box.lost, number))
    if number > box.taken or is_back(box, number) or is_reserved(box, number) then
      set(box, 'missed', 1)
      leave_back(box, number)
    end
  end
  forget_leases(box, entries)
  remove(box, entries)
  local patterns = covering(box.name)
  for at = 2, #patterns do note(patterns[at], entries[#entries].number, false) end
  if box.count == 0 then bury(box) end
end

local function expire(box)  -- rare
  local going, earliest = {}, NEVER
  each_message(box, 0, function(one)
    if one.expires_at <= now then
      going[#going + 1] = one
    else
      earliest = math.min(earliest, one.expires_at)
      return box.mixed == 0
    end
  end)
  drop(box, going)
  if box.alive then
    set(box, 'expiry', earliest)
    write('ZADD', EXPIRIES, earliest, box.name)
  end
end

-- Drop the messages of a mailbox that have expired, and end its leases whose time is over.
local function end_times(box)  -- rare
  if box.expiry <= now then expire(box) end
  if box.ends ~= 0 and box.ends <= now and box.alive then end_leases(box) end
end

-- The mailbox of a name that is not among KEYS.
local function box_of(name)  -- rare
  if not boxes[name] then
    boxes[name] = box_from(name, call('GET', prefix .. 'box:' .. name))
    end_times(boxes[name])
  end
  return boxes[name]
end

-- Publish that messages were dropped, where no push does so (see windows.py).
local function tell_dropped(box)  -- rare
  if may_write() then
    call('PUBLISH', prefix .. 'wake:' .. box.name,
      string.format('dropped - 0 %s 0 %.0f %s', epoch, lost_of(box), box.name))
    box.has_dropped = false
  end
end

-- Write any number of pairs of keys and values. A DEL goes first, so that Redis takes them without memory.
local function set_all(words)  -- rare
  if not may_write() then return end
  for first = 1, #words, 1000 do call('MSET', unpack(words, first, math.min(first + 999, #words))) end
end

local function save()
  local words = {}
  for name, box in pairs(boxes) do
    if box.has_dropped and not box.pushed then tell_dropped(box) end
    if box.alive and box.is_changed then
      words[#words + 1] = prefix .. 'box:' .. name
      words[#words + 1] = pack_struct(PACKED, box.lost, box.missed, box.acknowledged, box.taken, box.count, box.size,
        box.expiry, box.latest, box.mixed, box.newest, box.turn, box.ends) .. box.back
    end
  end
  if log.is_changed then
    words[#words + 1] = COUNTS
    words[#words + 1] = pack_struct(COUNTED, log.sequence, log.floor, log.torn, log.memory, log.messages,
      log.mailboxes, log.turn, log.runs, log.leased, log.exhausted) .. log.epoch
  end
  local count = #words
  if count == 0 then return end
  if count > 1000 or log.writable == false or redis.pcall('MSET', unpack(words)).err then set_all(words) end
end

local function answer(...)
  save()
  return {'ok', log.sequence, log.mailboxes, log.messages, log.memory, log.said, ...}
end

-- Answer that nothing was done, except that so many messages were dropped.
local function refused(freed)  -- rare
  return {'refused', log.said, freed or 0}
end

-- Load the mailboxes of KEYS. A push that Redis refuses changes nothing, so it does not end what is over.
for at = 2, #KEYS do
  local name = string.sub(KEYS[at], #prefix + 5)
  local box = boxes[name]
  names[at - 1] = name
  if not box then
    box = box_from(name, stored[at])
    boxes[name] = box
    if (box.expiry <= now or (box.ends ~= 0 and box.ends <= now)) and (not log.is_push or may_write()) then
      end_times(box)
    end
  end
end

-- -- what was read

local function reclaimable(box)  -- rare
  if box.turn == 0 then
    set_log('turn', log.turn + 1)
    set(box, 'turn', log.turn)
    write('ZADD', RECLAIMABLE, log.turn, box.name)
  end
end

-- Acknowledge what readers of patterns that cover the recipient have acknowledged.
local function hear_of_patterns(box)  -- rare
  local best = 0
  for _, score in ipairs(call('ZMSCORE', ACKNOWLEDGED, unpack(covering(box.name)))) do
    best = math.max(best, tonumber(score or 0))
  end
  if box.alive and box.acknowledged < best then
    set(box, 'acknowledged', best)
    reclaimable(box)
  end
end

local function acknowledge(box, number)
  if box.alive then
    if box.acknowledged < number then
      box.acknowledged, box.is_changed = number, true
      if box.turn == 0 then reclaimable(box) end
    end
  elseif is_pattern(box.name) and may_write() then
    call('ZADD', ACKNOWLEDGED, 'GT', number, box.name)
    if call('ZCARD', ACKNOWLEDGED) > MAX_RECIPIENTS then call('ZPOPMIN', ACKNOWLEDGED) end
  end
end
