-- The mailboxes in Redis: everything that is asked of them is one run of this script, which is all or nothing.
-- What is meant by each word is said in mailbox.py and memory.py; here the same rules hold.
--
-- KEYS[1] is the prefix of all keys. In front of this text stand the bounds, in capitals. Below the prefix lie
--   log             hash: the epoch, the last number, and what is counted over all mailboxes
--   order           stream: each message's number, and for whom it is; what readers of patterns look through
--   messages:NAME   stream: a mailbox's messages; the number is the entry's id
--   box:NAME        hash: what a mailbox knows besides
--   expiries        sorted set: mailboxes by when their next message expires
--   reclaimable     sorted set: mailboxes of which something was read, longest ago first
--   lost, missed    sorted set and set: losses of mailboxes that are no more, and of patterns
--   acknowledged    sorted set: how far the readers of each pattern came back
--   runs            sorted set: where the log stood when a run of Redis was over
--   record:KIND:ID  string: a record; records:KIND are all of a kind by the time when they are forgotten
-- Channels: wake:KEY, where readers stand at a name or pattern; all; told; process:PROCESS, for one alone.

local PREFIX = KEYS[1]
local LOG, ORDER, RUNS = PREFIX .. 'log', PREFIX .. 'order', PREFIX .. 'runs'
local EXPIRIES, RECLAIMABLE = PREFIX .. 'expiries', PREFIX .. 'reclaimable'
local LOST, MISSED, ACKNOWLEDGED = PREFIX .. 'lost', PREFIX .. 'missed', PREFIX .. 'acknowledged'
local CHUNK = 100  -- entries that are fetched at once
local NEVER = 1e15

local call = redis.call
local verb, epoch, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
local log = {}
local changed = {}  -- fields of the log
local boxes = {}
local lost_here = {}  -- what this run has noted as lost and could not write

-- -- whether Redis takes what is written
--
-- Redis refuses writes while it cannot save (MISCONF), has too few replicas (NOREPLICAS) or follows another one
-- (READONLY). Without memory (OOM) it refuses what may take memory, unless the script has written something before:
-- so a DEL goes first, and only pushes are refused. While writes are refused, what is there is read all the same:
-- then write() does nothing, and what has changed is known to this run alone.

local said = ''  -- what Redis has said of writes: an error, 'ok' where it takes pushes, or nothing yet
local writable

local function may_write()
  if writable == nil then
    local done = redis.pcall('DEL', PREFIX .. 'none')
    writable = type(done) ~= 'table'
    if not writable then said = done.err end
  end
  return writable
end

local function may_grow()
  local done = redis.pcall('HSETNX', LOG, 'epoch', epoch)
  said = type(done) == 'table' and done.err or 'ok'
  if said == 'ok' then writable = true end
  return said == 'ok'
end

local function write(...)
  if may_write() then return call(...) end
end

local function whole(number)
  return string.format('%.0f', number)
end

local function set_log(field, value)
  log[field] = value
  changed[field] = true
end

local function load_log()
  local fields = {'sequence', 'floor', 'torn', 'memory', 'messages', 'mailboxes', 'turn', 'runs'}
  local values = call('HMGET', LOG, 'epoch', 'run', unpack(fields))
  log.epoch, log.run = values[1], values[2] or ''
  for at, field in ipairs(fields) do log[field] = tonumber(values[at + 2] or 0) end
end

-- The keys at which readers of a name stand: itself first, then its patterns; see recipient.py.
local function covering(name)
  local keys = {name}
  if string.sub(name, 1, 1) == '$' or (#name == 41 and string.find(name, '^~[0-9a-f]+$')) then return keys end
  local parent = string.match(name, '^(.*/)[^/]*$') or ''
  keys[2] = parent .. '*'
  while parent ~= '' do
    keys[#keys + 1] = parent .. '**'
    parent = string.match(parent, '^(.*/)[^/]*/$') or ''
  end
  keys[#keys + 1] = '**'
  return keys
end

local function is_pattern(name)
  local last = string.match(name, '[^/]*$')
  return last == '*' or last == '**'
end

-- What was lost of a name that has no mailbox.
local function note(name, number, missed)
  if number <= log.floor and not missed and not call('ZSCORE', LOST, name) then return end
  if not may_write() then
    lost_here[name] = math.max(lost_here[name] or 0, number)
    return
  end
  call('ZADD', LOST, 'GT', number, name)
  if missed then call('SADD', MISSED, name) else call('SREM', MISSED, name) end
  if call('ZCARD', LOST) > MAX_RECIPIENTS then
    local gone = call('ZPOPMIN', LOST)
    call('SREM', MISSED, gone[1])
    set_log('floor', math.max(log.floor, tonumber(gone[2])))
  end
end

local function is_back(box, number)
  return box.back ~= '' and string.find(box.back, ' ' .. whole(number) .. ' ', 1, true) ~= nil
end

local function is_read(box, number)
  return number <= box.acknowledged or (number <= box.taken and not is_back(box, number))
end

local function set(box, field, value)
  if box[field] ~= value then
    box[field] = value
    box.changed[field] = true
  end
end

local function leave_back(box, number)
  if is_back(box, number) then
    local back = string.gsub(box.back, ' ' .. whole(number) .. ' ', ' ', 1)
    set(box, 'back', back == ' ' and '' or back)
  end
end

-- An entry of a stream as a table; the fields are in the order in which append wrote them.
local function entry(found)
  local fields = found[2]
  return {
    number = tonumber(string.match(found[1], '^%d+')), type = fields[2], form = fields[4], body = fields[6],
    created_at = fields[8], expires_at = fields[10], event = fields[12],
  }
end

-- Whether a message's time is not over: it may be kept for longer where it could not be taken out.
local function is_current(one)
  return tonumber(one.expires_at) > now
end

local function after(number)
  return whole(number + 1) .. '-0'
end

local function range(box, first, count)
  return call('XRANGE', box.key, first, '+', 'COUNT', count)
end

local function cost(name, type, body, event)
  return MESSAGE_COST + 2 * #name + #type + #body + #event
end

local function bury(box)
  write('DEL', box.key, PREFIX .. 'box:' .. box.name)
  write('ZREM', EXPIRIES, box.name)
  write('ZREM', RECLAIMABLE, box.name)
  set_log('mailboxes', log.mailboxes - 1)
  set_log('memory', log.memory - MAILBOX_COST)
  box.alive, box.changed = false, {}
  note(box.name, box.lost, box.missed == 1)
end

local function remove(box, entries)
  local ids, size, memory = {}, 0, 0
  for at, gone in ipairs(entries) do
    ids[at] = whole(gone.number) .. '-0'
    size = size + #gone.body
    memory = memory + cost(box.name, gone.type, gone.body, gone.event)
  end
  for first = 1, #ids, 1000 do
    local last = math.min(first + 999, #ids)
    write('XDEL', ORDER, unpack(ids, first, last))
    write('XDEL', box.key, unpack(ids, first, last))
  end
  set(box, 'size', box.size - size)
  set(box, 'count', box.count - #ids)
  set_log('messages', log.messages - #ids)
  set_log('memory', log.memory - memory)
end

-- Take messages out, oldest first; readers before them have a gap.
local function drop(box, entries)
  if #entries == 0 then return end
  for _, gone in ipairs(entries) do
    local number = gone.number
    set(box, 'lost', math.max(box.lost, number))
    if number > box.taken or is_back(box, number) then
      set(box, 'missed', 1)
      leave_back(box, number)
    end
  end
  remove(box, entries)
  local patterns = covering(box.name)
  for at = 2, #patterns do note(patterns[at], entries[#entries].number, false) end
  if box.count == 0 then bury(box) end
end

local function expire(box)
  local going, first, earliest, done = {}, '-', NEVER, false
  repeat
    local found = range(box, first, CHUNK)
    for _, raw in ipairs(found) do
      local one = entry(raw)
      local expires_at = tonumber(one.expires_at)
      if expires_at <= now then
        going[#going + 1] = one
      else
        earliest = math.min(earliest, expires_at)
        done = box.mixed == 0
        if done then break end
      end
      first = after(one.number)
    end
  until done or #found < CHUNK
  drop(box, going)
  if box.alive then
    set(box, 'expiry', earliest)
    write('ZADD', EXPIRIES, earliest, box.name)
  end
end

local FIELDS = {'lost', 'missed', 'acknowledged', 'taken', 'count', 'size', 'expiry', 'latest', 'mixed'}

-- The mailbox of a name, in which nothing is whose time is over; alive says whether there is one.
local function box_of(name)
  local box = boxes[name]
  if box then return box end
  local values = call('HMGET', PREFIX .. 'box:' .. name, 'back', unpack(FIELDS))
  box = {name = name, key = PREFIX .. 'messages:' .. name, alive = values[6] ~= false, changed = {}}
  box.back = values[1] or ''
  for at, field in ipairs(FIELDS) do box[field] = tonumber(values[at + 1] or 0) end
  boxes[name] = box
  if not box.alive then
    box.expiry = NEVER
  elseif box.expiry <= now then
    expire(box)
  end
  return box
end

-- Up to where messages of a name were lost that are no longer kept.
local function lost_of(box)
  if box.alive then return box.lost end
  return math.max(tonumber(call('ZSCORE', LOST, box.name) or log.floor), lost_here[box.name] or 0)
end

local function create(box)
  local lost = lost_of(box)
  local missed = call('SREM', MISSED, box.name)
  call('ZREM', LOST, box.name)
  for _, field in ipairs(FIELDS) do set(box, field, 0) end
  box.alive, box.lost, box.missed, box.expiry, box.back = true, lost, missed, NEVER, ''
  box.changed = {lost = true, missed = true, acknowledged = true, taken = true, mixed = true, back = true}
  set_log('mailboxes', log.mailboxes + 1)
  set_log('memory', log.memory + MAILBOX_COST)
end

local function save_hash(key, values, fields)
  local words = {}
  for field in pairs(fields) do
    words[#words + 1] = field
    words[#words + 1] = values[field]
  end
  if #words > 0 then write('HSET', key, unpack(words)) end
end

local function save()
  for name, box in pairs(boxes) do
    if box.alive then save_hash(PREFIX .. 'box:' .. name, box, box.changed) end
  end
  save_hash(LOG, log, changed)
end

local function answer(...)
  save()
  return {'ok', {log.sequence, log.mailboxes, log.messages, log.memory, said}, ...}
end

-- What was asked for is not done; freed is how many messages were dropped for it all the same.
local function refused(freed)
  return {'refused', {}, said, freed or 0}
end

-- -- who waits

local function wake(name, origin, ask)
  local receivers = 0
  for _, key in ipairs(covering(name)) do
    receivers = receivers + call('PUBLISH', PREFIX .. 'wake:' .. key, origin .. ' ' .. ask .. ' ' .. name)
  end
  return receivers
end

-- -- what was read

local function reclaimable(box)
  if not call('ZSCORE', RECLAIMABLE, box.name) then
    set_log('turn', log.turn + 1)
    write('ZADD', RECLAIMABLE, log.turn, box.name)
  end
end

-- Acknowledge what the readers of patterns that cover the recipient had.
local function hear_of_patterns(box)
  local best = 0
  for _, score in ipairs(call('ZMSCORE', ACKNOWLEDGED, unpack(covering(box.name)))) do
    best = math.max(best, tonumber(score or 0))
  end
  if box.alive and box.acknowledged < best then
    set(box, 'acknowledged', best)
    reclaimable(box)
  end
end

local function acknowledge(names, number)
  for _, name in ipairs(names) do
    local box = box_of(name)
    if box.alive then
      if box.acknowledged < number then
        set(box, 'acknowledged', number)
        reclaimable(box)
      end
    elseif is_pattern(name) and may_write() then
      call('ZADD', ACKNOWLEDGED, 'GT', number, name)
      if call('ZCARD', ACKNOWLEDGED) > MAX_RECIPIENTS then call('ZPOPMIN', ACKNOWLEDGED) end
    end
  end
end

-- -- room

-- The oldest messages that must go before count more of so many bytes fit; nil and why where they do not.
local function in_the_way(box, count, size, reject)
  local going = {}
  local over, bytes_over = box.count + count - CAPACITY, box.size + size - CAPACITY_BYTES
  if over <= 0 and bytes_over <= 0 then return going end
  if count > CAPACITY or size > CAPACITY_BYTES then return nil, 'too large' end
  local first = '-'
  repeat
    local found = range(box, first, CHUNK)
    for _, raw in ipairs(found) do
      local one = entry(raw)
      first = after(one.number)
      if reject and not is_read(box, one.number) then
        if one.number > box.taken then return nil, 'full' end
      else
        going[#going + 1] = one
        over, bytes_over = over - 1, bytes_over - #one.body
        if over <= 0 and bytes_over <= 0 then return going end
      end
    end
  until #found < CHUNK
  return nil, 'full'
end

local function read_already(box)
  local going, first = {}, '-'
  local most = math.max(box.acknowledged, box.taken)
  repeat
    local found = range(box, first, CHUNK)
    for _, raw in ipairs(found) do
      local one = entry(raw)
      if one.number > most then return going end
      if is_read(box, one.number) then going[#going + 1] = one end
      first = after(one.number)
    end
  until #found < CHUNK
  return going
end

-- Drop what was read until so many bytes and mailboxes are free; return whether anything could go.
local function reclaim(memory, mailboxes)
  local most_memory, most_mailboxes, before = log.memory - memory, log.mailboxes - mailboxes, log.messages
  for _ = 1, 2 do
    while log.memory > most_memory or log.mailboxes > most_mailboxes do
      local name = call('ZPOPMIN', RECLAIMABLE)[1]
      if not name then break end
      local box = box_of(name)
      if box.alive then drop(box, read_already(box)) end
    end
    if log.messages < before then return true end
    if call('ZCARD', ACKNOWLEDGED) == 0 then return false end
    for _, raw in ipairs(call('XRANGE', ORDER, '-', '+', 'COUNT', LOOK)) do
      hear_of_patterns(box_of(raw[2][2]))
    end
  end
  return false
end

-- -- records

local function remember(kind, id, value, seconds, most)
  local all = PREFIX .. 'records:' .. kind
  call('SET', PREFIX .. 'record:' .. kind .. ':' .. id, value, 'PX', whole(seconds * 1000))
  call('ZADD', all, now + seconds, id)
  if call('ZCARD', all) > most then
    call('DEL', PREFIX .. 'record:' .. kind .. ':' .. call('ZPOPMIN', all)[1])
  end
end

-- -- reading

-- Go through the messages of several mailboxes in the one order, and return up to so many of them.
local function merged(sources, limit)
  local count = math.max(1, math.min(CHUNK, math.ceil((limit + 1) / #sources)))
  local function head(source)
    local one = source.found[source.at]
    while not one and not source.over do
      local raw = range(source.box, after(source.last), count)
      source.over, source.found, source.at = #raw < count, {}, 1
      for _, each in ipairs(raw) do
        each = entry(each)
        source.last = each.number
        if is_current(each) then source.found[#source.found + 1] = each end
      end
      one = source.found[1]
    end
    return one
  end
  local messages, bytes = {}, 0
  while true do
    local best, from
    for _, source in ipairs(sources) do
      local one = head(source)
      if one and (not best or one.number < best.number) then best, from = one, source end
    end
    if not best then return messages, 0 end
    bytes = bytes + #best.body
    if #messages == limit or (#messages > 0 and bytes > POLL_BYTES) then return messages, 1 end
    best.box = from.box
    messages[#messages + 1] = best
    from.at = from.at + 1
  end
end

-- Look through the one order for readers of patterns; the last result is how far was looked.
local function looked_through(names, number, limit)
  local wanted, messages, bytes, looked = {}, {}, 0, 0
  for _, name in ipairs(names) do wanted[name] = true end
  while looked < LOOK do
    local found = call('XRANGE', ORDER, after(number), '+', 'COUNT', CHUNK)
    for _, raw in ipairs(found) do
      local at, name = tonumber(string.match(raw[1], '^%d+')), raw[2][2]
      for _, key in ipairs(covering(name)) do
        if wanted[key] then
          local box = box_of(name)
          local one = box.alive and call('XRANGE', box.key, raw[1], raw[1])[1]
          one = one and entry(one)
          if one and is_current(one) then
            bytes = bytes + #one.body
            if #messages == limit or (#messages > 0 and bytes > POLL_BYTES) then return messages, 1, number end
            one.box = box
            messages[#messages + 1] = one
          end
          break
        end
      end
      number = at
    end
    if #found < CHUNK then return messages, 0, log.sequence end
    looked = looked + CHUNK
  end
  return messages, 1, number
end

local function shown(messages)
  local rows = {}
  for at, one in ipairs(messages) do
    rows[at] = {
      one.number, one.box.name, one.type, one.form, one.body, one.created_at, one.expires_at, one.event,
    }
  end
  return rows
end

local function names_from(first)
  local names = {}
  for at = first, #ARGV do names[#names + 1] = ARGV[at] end
  return names
end

-- ARGV: pairs of a number and a name.
local function each_named(use)
  for at = 4, #ARGV, 2 do use(tonumber(ARGV[at]), box_of(ARGV[at + 1])) end
end

-- Return the rules that the user lacks, by running each command where it changes nothing: of a command in a script
-- Redis says only that it is forbidden.
local function lacking()
  local none = PREFIX .. 'none'
  local lacks, seen = {}, {}
  local function lack(rule)
    if not seen[rule] then lacks[#lacks + 1] = rule end
    seen[rule] = true
  end
  for _, words in ipairs({
    {'DEL', none}, {'EXISTS', none}, {'GET', none}, {'HMGET', none, 'f'}, {'HSETNX', none, 'f', 'v'},
    {'HSET', none, 'f', 'v'}, {'DEL', none}, {'PUBLISH', none, ''}, {'SADD', none, 'm'}, {'SISMEMBER', none, 'm'},
    {'SREM', none, 'm'}, {'SET', none, 'v', 'XX'}, {'TIME'}, {'XADD', none, 'NOMKSTREAM', '*', 'f', 'v'},
    {'XDEL', none, '1-0'}, {'XRANGE', none, '-', '+'}, {'ZADD', none, 'XX', 1, 'm'}, {'ZCARD', none},
    {'ZMSCORE', none, 'm'}, {'ZPOPMIN', none}, {'ZRANGEBYSCORE', none, 1, 2}, {'ZREM', none, 'm'},
    {'ZREMRANGEBYRANK', none, 1, 2}, {'ZREMRANGEBYSCORE', none, 1, 2}, {'ZSCORE', none, 'm'},
  }) do
    local done = redis.pcall(unpack(words))
    local err = type(done) == 'table' and done.err or ''
    -- Each version of Redis has other words for it.
    if string.find(err, 'permission') or string.find(err, 'NOPERM') or string.find(err, 'user executing') then
      if string.find(err, ' key') then lack('~' .. PREFIX .. '*')
      elseif string.find(err, 'channel') then lack('&' .. PREFIX .. '*')
      else lack('+' .. string.lower(words[1])) end
    end
  end
  return lacks
end

-- -- what is asked

if verb == 'attach' then
  local lacks = lacking()
  if #lacks > 0 then return {'lacks', {}, table.concat(lacks, ' ')} end
end
load_log()
if verb ~= 'attach' and log.epoch ~= epoch then return {'another log', {}} end

if verb == 'append' then
  -- ARGV: process, number of the ask, created at, expires at, event, reject, queue, the record's id (or ''), what
  -- stands before and after the number in its value, its seconds, most records, recipients, their number before
  -- them, then the type, form and body of each content.
  local origin, ask, created_at, expires_at, event = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
  local reject, queue, id = ARGV[9] == '1', ARGV[10] == '1', ARGV[11]
  if id ~= '' then
    local value = call('GET', PREFIX .. 'record:receipt:' .. id)
    if value then return {'repeated', {}, value} end
  end
  if not may_grow() then
    local before = log.messages
    if string.find(said, 'OOM ', 1, true) then
      -- What was read goes, so that the next try may find room.
      reclaim(OOM_BYTES, 0)
      save()
    end
    return refused(before - log.messages)
  end
  local names, at = {}, 17 + tonumber(ARGV[16])
  for index = 17, at - 1 do names[#names + 1] = ARGV[index] end
  local count, size, memory = (#ARGV - at + 1) / 3, 0, 0
  for index = at, #ARGV, 3 do
    size = size + #ARGV[index + 2]
    for _, name in ipairs(names) do memory = memory + cost(name, ARGV[index], ARGV[index + 2], event) end
  end

  local going, freed = {}, 0
  local function look_for_room()
    going, freed = {}, 0
    if not queue then return nil end
    for _, name in ipairs(names) do
      local box = box_of(name)
      if box.count + count > CAPACITY or box.size + size > CAPACITY_BYTES then
        hear_of_patterns(box)
        local old, why = in_the_way(box, count, size, reject)
        if not old then return {why, {}, name} end
        going[name] = old
        for _, one in ipairs(old) do freed = freed + cost(name, one.type, one.body, one.event) end
      end
    end
    return nil
  end
  while true do
    local refused = look_for_room()
    local created = 0
    for _, name in ipairs(names) do if not box_of(name).alive then created = created + 1 end end
    local over = log.memory + memory + created * MAILBOX_COST - freed - MAX_MEMORY
    local boxes_over = created > 0 and log.mailboxes + created - MAX_RECIPIENTS or 0
    if not refused and over <= 0 and boxes_over <= 0 then break end
    if refused or not reclaim(over, boxes_over) then
      save()  -- of what had to go already
      return refused or {boxes_over > 0 and 'mailboxes' or 'memory', {}}
    end
  end
  for name, old in pairs(going) do drop(box_of(name), old) end

  local first = log.sequence + 1
  local number, expires = log.sequence, tonumber(expires_at)
  for index = at, #ARGV, 3 do
    for _, name in ipairs(names) do
      local box = box_of(name)
      if not box.alive then create(box) end
      number = number + 1
      call('XADD', box.key, whole(number) .. '-0', 't', ARGV[index], 'f', ARGV[index + 1], 'b', ARGV[index + 2],
        'c', created_at, 'x', expires_at, 'e', event)
      call('XADD', ORDER, whole(number) .. '-0', 'n', name)
      set(box, 'count', box.count + 1)
      set(box, 'size', box.size + #ARGV[index + 2])
      if expires < box.latest then set(box, 'mixed', 1) else set(box, 'latest', expires) end
      if expires < box.expiry then
        set(box, 'expiry', expires)
        call('ZADD', EXPIRIES, expires_at, name)
      end
    end
  end
  set_log('sequence', number)
  set_log('messages', log.messages + count * #names)
  set_log('memory', log.memory + memory)
  if id ~= '' then
    local value = ARGV[12] .. whole(first) .. ARGV[13]
    remember('receipt', id, value, tonumber(ARGV[14]), tonumber(ARGV[15]))
  end
  local receivers = 0
  for _, name in ipairs(names) do receivers = receivers + wake(name, origin, ask) end
  return answer(first, receivers)

elseif verb == 'retract' then
  if not may_write() then return refused() end
  each_named(function(number, box)
    local found = box.alive and range(box, whole(number) .. '-0', 1)[1]
    if found and entry(found).number == number then
      leave_back(box, number)
      remove(box, {entry(found)})
      if box.count == 0 then bury(box) end
    end
  end)
  return answer()

elseif verb == 'read' then
  -- ARGV: the epoch and number after which to read, where to go on looking, limit, 1 to acknowledge, names.
  local place, from, limit, names = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), names_from(9)
  if ARGV[4] == 'now' then return answer(log.sequence, 0, 0, {}) end
  local known = ARGV[4] == log.epoch and place <= log.sequence
  if known and ARGV[8] == '1' then acknowledge(names, place) end
  if not known then place = 0 end
  local patterned, sources, gap = false, {}, known and place < log.torn
  for _, name in ipairs(names) do
    patterned = patterned or is_pattern(name)
    local box = box_of(name)
    if box.alive then
      sources[#sources + 1] = {box = box, found = {}, at = 1, last = math.max(place, from)}
    end
  end
  local messages, more, looked
  if patterned then
    messages, more, looked = looked_through(names, math.max(place, from), limit)
  else
    messages, more = merged(sources, limit)
  end
  -- Only now: on its way a pattern meets mailboxes in which messages expire.
  for _, name in ipairs(names) do gap = gap or (known and place < lost_of(box_of(name))) end
  if not known then gap = ARGV[4] ~= 'oldest' end
  if not patterned then looked = (known and not gap) and place or log.sequence end
  if #messages > 0 then looked = messages[#messages].number end
  return answer(looked, gap and 1 or 0, more, shown(messages))

elseif verb == 'acknowledge' then
  -- ARGV: pairs of a number and a name; what was acknowledged while it could not be written.
  if not may_write() then return refused() end
  each_named(function(number, box)
    if number <= log.sequence then acknowledge({box.name}, number) end
  end)
  return answer()

elseif verb == 'take' then
  -- ARGV: limit, names.
  local limit, gap, sources = tonumber(ARGV[4]), 0, {}
  for _, name in ipairs(names_from(5)) do
    local box = box_of(name)
    if box.alive then
      if box.missed == 1 then gap = 1 end
      set(box, 'missed', 0)
      local source = {box = box, found = {}, at = 1, last = box.taken}
      for number in string.gmatch(box.back, '%d+') do
        local one = entry(range(box, number .. '-0', 1)[1])
        if is_current(one) then source.found[#source.found + 1] = one end
      end
      table.sort(source.found, function(one, other) return one.number < other.number end)
      sources[#sources + 1] = source
    elseif call('SISMEMBER', MISSED, name) == 1 then
      gap = 1
      write('SREM', MISSED, name)
    end
  end
  local messages, more = {}, 0
  if #sources > 0 then messages, more = merged(sources, limit) end
  if (#messages > 0 or gap == 1) and not may_write() then return refused() end
  for _, one in ipairs(messages) do
    if is_back(one.box, one.number) then leave_back(one.box, one.number)
    else set(one.box, 'taken', one.number) end
    reclaimable(one.box)
  end
  return answer(#messages > 0 and messages[#messages].number or log.sequence, gap, more, shown(messages))

elseif verb == 'give_back' then
  if not may_write() then return refused() end
  each_named(function(number, box)
    if not box.alive then
      if number <= tonumber(call('ZSCORE', LOST, box.name) or 0) then call('SADD', MISSED, box.name) end
      return
    end
    local found = range(box, whole(number) .. '-0', 1)[1]
    if found and entry(found).number == number then
      set(box, 'back', (box.back == '' and ' ' or box.back) .. whole(number) .. ' ')
    elseif number <= box.lost then
      set(box, 'missed', 1)
    end
  end)
  for name in pairs(boxes) do wake(name, '-', '0') end
  return answer()

elseif verb == 'delete' then
  local box = box_of(ARGV[4])
  if box.alive then
    if not may_write() then return refused() end
    local all = {}
    for at, raw in ipairs(range(box, '-', CAPACITY)) do all[at] = entry(raw) end
    drop(box, all)
  end
  return answer()

elseif verb == 'describe' then
  local box = box_of(ARGV[4])
  if not box.alive then return answer(0, 0, 0, 0) end
  hear_of_patterns(box)
  local queued, size, oldest, newest = 0, 0, nil, 0
  for _, raw in ipairs(range(box, '-', CAPACITY)) do
    local one = entry(raw)
    if is_current(one) then
      oldest, newest = oldest or one.number, one.number
      if not is_read(box, one.number) then queued, size = queued + 1, size + #one.body end
    end
  end
  return answer(queued, size, oldest, newest)

elseif verb == 'who' then
  -- ARGV: process, number of the ask, name: those where readers of it stand are asked how many there are.
  return answer(wake(ARGV[6], ARGV[4], '?' .. ARGV[5]))

elseif verb == 'expire' then
  -- The mailboxes whose time has come, as many as are one step; the result says whether there are more.
  if not may_grow() and not may_write() then return answer(0) end
  local names = call('ZRANGEBYSCORE', EXPIRIES, '-inf', ARGV[3], 'LIMIT', 0, EXPIRED_AT_ONCE)
  for _, name in ipairs(names) do box_of(name) end
  for at = 4, #ARGV do call('ZREMRANGEBYSCORE', PREFIX .. 'records:' .. ARGV[at], '-inf', ARGV[3]) end
  return answer(#names == EXPIRED_AT_ONCE and 1 or 0)

elseif verb == 'remember' or verb == 'renew' then
  -- ARGV: kind, id, value, seconds, most of the kind. A record that was forgotten is not renewed: its end at one
  -- process may come between what another one has read of it and writes of it.
  if not may_write() then return refused() end
  if verb == 'renew' and call('EXISTS', PREFIX .. 'record:' .. ARGV[4] .. ':' .. ARGV[5]) == 0 then return answer() end
  remember(ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]))
  return answer()

elseif verb == 'forget' then
  if not may_write() then return refused() end
  call('DEL', PREFIX .. 'record:' .. ARGV[4] .. ':' .. ARGV[5])
  call('ZREM', PREFIX .. 'records:' .. ARGV[4], ARGV[5])
  return answer()

elseif verb == 'attach' then
  -- A process has connected. ARGV: the run of Redis that it found; the epoch, run and last number that it heard of
  -- before; a name for the log's life if it is new. Where a run ended before a number that some process has heard of
  -- in it, messages were lost: the log then goes on far behind, and every reader is told a gap.
  -- Where that cannot be written, the process may read, and attaches again as soon as it can.
  local run, heard_epoch, heard_run, heard = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
  local time = call('TIME')
  time = time[1] .. '.' .. string.format('%06d', time[2])
  if not may_write() then
    if not log.epoch then return refused() end
    return answer(log.epoch, log.run, time)
  end
  if not log.epoch then set_log('epoch', ARGV[8]) end
  if string.match(log.run, '[^ ]*$') ~= run then
    -- With a number, because a failover may lead back to where one has led away from.
    if log.run ~= '' then call('ZADD', RUNS, log.sequence, log.run) end
    call('ZREMRANGEBYRANK', RUNS, 0, -RUNS_KNOWN - 1)
    set_log('runs', log.runs + 1)
    set_log('run', whole(log.runs) .. ' ' .. run)
  end
  if heard_epoch == log.epoch then
    local ended = heard_run == log.run and log.sequence or tonumber(call('ZSCORE', RUNS, heard_run) or -1)
    if heard > ended then
      set_log('sequence', math.max(log.sequence, heard) + NUMBERS_RESERVED)
      set_log('torn', log.sequence)
      call('PUBLISH', PREFIX .. 'all', '')
    end
  end
  return answer(log.epoch, log.run, time)

end
