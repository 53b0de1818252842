-- The mailboxes in Redis: everything that is asked of them is one run of this script, which is all or nothing.
-- What is meant by each word is said in mailbox.py and memory.py; here the same rules hold.
--
-- Redis makes each function anew in each run, and so many take more time than most of what is asked. So script.py makes
-- a script for each verb, with only what it uses of the definitions here: each begins with "local" at the left margin,
-- and no other line there does. What is marked as rare is made where it is called.
--
-- KEYS[1] is the prefix of all keys. In front of this text stand the bounds, in capitals, and LAYOUT, which is raised
-- with every change that processes of the version before would not understand. Below the prefix lie
--   log             hash: the layout, the epoch, and what is counted over all mailboxes, see COUNTS
--   order           stream: each message's number, and for whom it is; what readers of patterns look through
--   messages:NAME   list: a mailbox's messages, the oldest first
--   box:NAME        string: what a mailbox knows besides, see PACKED
--   expiries        sorted set: mailboxes by when their next message expires
--   reclaimable     sorted set: mailboxes of which something was read, longest ago first
--   lost, missed    sorted set and set: losses of mailboxes that are no more, and of patterns
--   acknowledged    sorted set: how far the readers of each pattern came back
--   leases:NAME     sorted set: the last lease of each message, as "number attempt secret"; see "leases" below
--   ending          sorted set: mailboxes by when the first of their leases ends
--   exhausted       sorted set: mailboxes with messages that were leased too often, by when to try to move them
--   runs            sorted set: where the log stood when a run of Redis was over
--   record:KIND:ID  string: a record; records:KIND are all of a kind by the time when they are forgotten
--
-- A message is one string: a head (see HEAD), then its type, its event and its body. Its number is the first thing in
-- it, so that what the process has packed is stored, published and answered as it came. A mailbox is a list of these,
-- because nothing else is as small. With the default configuration a mailbox takes, for its first message of 100 bytes
-- and for each further one, so many bytes (Redis 7.0, measured): as a stream 4,356, with room for the next 20, since it
-- allocates 4 KB at once; as a sorted set 1,159 and 296; as a hash, which has no order, 433 and 249; as a list 393 and
-- 177. A number is found in the list by a search from its end, where most readers are.
--
-- Channels: wake:KEY, where readers stand at a name or pattern; patterns, by which it is known whether any stands at
-- a pattern; all; told; process:PROCESS, for one alone.

local PREFIX = KEYS[1]
local LOG, ORDER, RUNS = PREFIX .. 'log', PREFIX .. 'order', PREFIX .. 'runs'
local EXPIRIES, RECLAIMABLE = PREFIX .. 'expiries', PREFIX .. 'reclaimable'
local LOST, MISSED, ACKNOWLEDGED = PREFIX .. 'lost', PREFIX .. 'missed', PREFIX .. 'acknowledged'
local ENDING, EXHAUSTED = PREFIX .. 'ending', PREFIX .. 'exhausted'
local CHUNK = 100  -- entries that are fetched at once
local NEVER = 1e15
-- The head of a message: its number, when it expires and was accepted, in seconds, the bytes of its body, type and
-- event, and its form. The process packs all but the first two; see entries.py.
local HEAD, HEAD_SIZE = '<dddI4HHB', 33

local call, pack_struct, unpack_struct = redis.call, struct.pack, struct.unpack
local verb, epoch, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
local log = {}
local is_changed = false  -- whether what is counted in the log has changed
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

-- What is counted: numbers, which are packed in this order in one field of the log.
--   sequence   the last number that was given
--   floor      losses up to here may be forgotten
--   torn       readers before it have a gap, because Redis has lost messages
--   memory     bytes of all messages and mailboxes
--   messages   how many there are
--   mailboxes  how many there are
--   turn       the last turn that was given to a mailbox that became reclaimable
--   runs       how many runs of Redis there were
local COUNTS = '<dddddddd'

local function set_log(field, value)
  log[field] = value
  is_changed = true
end

local function load_log()
  local values = call('HMGET', LOG, 'epoch', 'run', 'layout', 'counts')
  log.epoch, log.run, log.layout = values[1], values[2] or '', values[3] or '1'
  log.sequence, log.floor, log.torn, log.memory, log.messages, log.mailboxes, log.turn, log.runs =
    unpack_struct(COUNTS, values[4] or pack_struct(COUNTS, 0, 0, 0, 0, 0, 0, 0, 0))
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
local function note(name, number, missed)  -- rare
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

local function is_back(box, number)  -- rare
  return box.back ~= '' and string.find(box.back, ' ' .. whole(number) .. ' ', 1, true) ~= nil
end

local function set(box, field, value)
  if box[field] ~= value then
    box[field] = value
    box.is_changed = true
  end
end

local function leave_back(box, number)  -- rare
  if is_back(box, number) then
    local back = string.gsub(box.back, ' ' .. whole(number) .. ' ', ' ', 1)
    set(box, 'back', back == ' ' and '' or back)
  end
end

local function put_back(box, number)  -- rare
  if is_back(box, number) then return end
  set(box, 'back', (box.back == '' and ' ' or box.back) .. whole(number) .. ' ')
end

-- -- who waits

-- Publish to names, where readers stand, and return how many processes it has reached. What is said is its kind (see
-- wakes.py), the process that wants a report, or -, and its number for it; then, for windows.py, the epoch, the number
-- of the mailbox's newest message before, and that of the last one that is lost; then the name. On a channel of the name
-- itself the messages of the push follow in a second line, unless they are too large.
-- Processes that have a reader of any pattern listen to one more channel: while it has no listener, no channel of a
-- pattern has one.
local function wake(names, kind, origin, ask)
  local receivers = 0
  for first = 1, #names, CHUNK do
    local channels = {}
    for at = first, math.min(first + CHUNK - 1, #names) do channels[#channels + 1] = PREFIX .. 'wake:' .. names[at] end
    local listening = call('PUBSUB', 'NUMSUB', PREFIX .. 'patterns', unpack(channels))
    for at, channel in ipairs(channels) do
      local here, patterns = listening[2 * at + 2] > 0, listening[2] > 0
      if here or patterns then
        local name = names[first + at - 1]
        local box = boxes[name]
        local said = string.format('%s %s %s %s %.0f %.0f %s', kind, origin, ask, epoch, box and box.before or 0,
          box and box.alive and math.max(box.lost, log.torn) or 0, name)
        if here then
          local entries = kind == 'pushed' and table.concat(box.pushed) or ''
          local whole_said = #entries <= WAKE_BYTES and said .. '\n' .. entries or said
          receivers = receivers + call('PUBLISH', channel, whole_said)
        end
        if patterns then
          local keys = covering(name)
          for index = 2, #keys do receivers = receivers + call('PUBLISH', PREFIX .. 'wake:' .. keys[index], said) end
        end
      end
    end
  end
  return receivers
end

-- -- leases
--
-- The rules are those of leases.py. The score of a lease says what it is: the time at which it ends where a worker
-- holds it; minus the number of the message where it has ended, so that it is found by that, and RELEASED less where its
-- worker has given it back; and SPENT plus the time at which to try to move it where the message is exhausted. Of a
-- message that is done or dropped there is none.

local SPENT, RELEASED = 1e15, 0.5
local TRY_SECONDS = 10  -- a process that moves an exhausted message has so long; then another one tries
local leases_left = LEASES_ENDED_AT_ONCE

local function lease_key(box)  -- rare
  return PREFIX .. 'leases:' .. box.name
end

local function lease_words(lease)  -- rare
  local number, attempt, secret = string.match(lease, '^(%d+) (%d+) (%S+)$')
  return tonumber(number), tonumber(attempt), secret
end

local function count_leases(field, by)  -- rare
  if by ~= 0 then write('HSET', LOG, field, whole(tonumber(call('HMGET', LOG, field)[1] or 0) + by)) end
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

-- End a lease that a worker holds; return whether others may have the message, or it is exhausted.
local function free_lease(box, lease)  -- rare
  local number, attempt = lease_words(lease)
  count_leases('leased', -1)
  if attempt < MAX_ATTEMPTS or string.sub(box.name, 1, 6) == '$dead/' then
    put_lease(box, lease, -number)
    put_back(box, number)
    return true
  end
  put_lease(box, lease, SPENT + now)
  write('ZADD', EXHAUSTED, now, box.name)
  count_leases('exhausted', 1)
  return false
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
  if is_there then wake({box.name}, 'back', '-', '0') end
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
      local score = tonumber(found[at + 1])
      if score >= SPENT then count_leases('exhausted', -1)
      elseif score > 0 then count_leases('leased', -1) end
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

-- -- messages and mailboxes

-- A message of a mailbox as a table; at is its place in the list, from 0 for the oldest.
local function entry(raw, at)
  local number, expires_at, created_at, size = unpack_struct(HEAD, raw)
  return {number = number, expires_at = expires_at, created_at = created_at, size = size, raw = raw, at = at}
end

-- The bytes that a message takes at most when it is sent, about as sent_size in core/message.py has it.
local function sent_size(one)
  local _, _, _, size, kind, event, form = unpack_struct(HEAD, one.raw)
  local envelope = 200 + 4 * (kind + event)
  if form == 0 then return envelope + size end
  if form == 2 then return envelope + size * 4 / 3 end
  local _, escaped = string.gsub(string.sub(one.raw, -size), '[%c"\\]', '')
  return envelope + size + 7 * escaped
end

-- Whether a message's time is not over: it may be kept for longer where it could not be taken out.
local function is_current(one)
  return one.expires_at > now
end

local function number_at(box, at)
  return (unpack_struct('<d', call('LINDEX', box.key, at)))
end

-- The place in a mailbox's list of its first message after a number. Most are looked for at its end.
local function place_after(box, number)
  if number >= box.newest then return box.length end
  if number == 0 then return 0 end
  local low, high, step = 0, box.length, 1  -- those below low are not after it; those from high on are
  while low < high do
    local middle = math.max(high - step, math.floor((low + high) / 2))
    if number_at(box, middle) > number then high, step = middle, 2 * step else low = middle + 1 end
  end
  return high
end

-- Give the messages of a mailbox to use, from a place on, until it returns true.
local function each_message(box, at, use)  -- rare
  local count = 2
  while at < box.length do
    local found = call('LRANGE', box.key, at, at + count - 1)
    for index, raw in ipairs(found) do
      if use(entry(raw, at + index - 1)) then return end
    end
    at, count = at + count, math.min(4 * count, CHUNK)
  end
end

-- The message with a number; nil where it is not kept.
local function find(box, number)  -- rare
  if not box.alive then return nil end
  local at = place_after(box, number - 1)
  local raw = at < box.length and call('LINDEX', box.key, at)
  local one = raw and entry(raw, at)
  if one and one.number == number then return one end
  return nil
end

-- What a message of so many bytes takes, besides its head; its name is in the order too.
local function cost(name, bytes)
  return MESSAGE_COST + #name + bytes - HEAD_SIZE
end

local function mailbox_cost(name)
  return MAILBOX_COST + 4 * #name
end

local function bury(box)  -- rare
  write('DEL', box.key, PREFIX .. 'box:' .. box.name)
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

-- What a mailbox knows: numbers, which are packed in this order, and then the numbers that takes gave back.
--   lost          the newest message that is not kept any more; readers before it have a gap
--   missed        1 where takes have missed a message
--   acknowledged  up to where some reader has acknowledged
--   taken         up to where takes were given messages, but for those in back
--   count, size   messages, and bytes of their bodies
--   expiry        no message expires before
--   latest        the time at which the last of them expires, if none expires before one that came earlier: else
--   mixed         is 1
--   newest        the last number that was given to a message of it
--   turn          when it became reclaimable; 0 where it is not
--   ends          no lease ends before; 0 where the mailbox was never leased from
local PACKED, PACKED_SIZE = '<dddddddddddd', 96

-- What is known of a mailbox that is not there.
local function empty(box)
  for _, field in ipairs({
    'lost', 'missed', 'acknowledged', 'taken', 'count', 'size', 'expiry', 'latest', 'mixed', 'newest', 'turn', 'ends',
  }) do
    box[field] = 0
  end
  box.expiry, box.back, box.length = NEVER, '', 0
end

-- The mailbox of a name as it lies there; alive says whether there is one. The length of its list is its count, unless
-- something could not be taken out.
local function load_box(name)
  local packed = call('GET', PREFIX .. 'box:' .. name)
  local box = {name = name, key = PREFIX .. 'messages:' .. name, alive = packed ~= false}
  if packed then
    box.lost, box.missed, box.acknowledged, box.taken, box.count, box.size, box.expiry, box.latest, box.mixed,
      box.newest, box.turn, box.ends = unpack_struct(PACKED, packed)
    box.back, box.length = string.sub(packed, PACKED_SIZE + 1), box.count
  else
    empty(box)
  end
  return box
end

-- The mailbox of a name, in which nothing is whose time is over.
local function box_of(name)
  local box = boxes[name]
  if not box then
    box = load_box(name)
    boxes[name] = box
    if box.expiry <= now then expire(box) end
    if box.ends ~= 0 and box.ends <= now and box.alive then end_leases(box) end
  end
  return box
end

-- Up to where messages of a name were lost that are no longer kept.
local function lost_of(box)
  if box.alive then return box.lost end
  return math.max(tonumber(call('ZSCORE', LOST, box.name) or log.floor), lost_here[box.name] or 0)
end

local function create(box)  -- rare
  local lost, newest = lost_of(box), box.newest  -- it may have been there until its last message went in this run
  local missed = call('SREM', MISSED, box.name)
  call('ZREM', LOST, box.name)
  empty(box)
  box.alive, box.is_changed, box.lost, box.missed, box.expiry, box.back = true, true, lost, missed, NEVER, ''
  box.newest = newest
  set_log('mailboxes', log.mailboxes + 1)
  set_log('memory', log.memory + mailbox_cost(box.name))
end

local function save()
  for name, box in pairs(boxes) do
    if box.has_dropped and not box.pushed and may_write() then
      call('PUBLISH', PREFIX .. 'wake:' .. name, string.format('dropped - 0 %s 0 %.0f %s', epoch, lost_of(box), name))
      box.has_dropped = false
    end
    if box.alive and box.is_changed then
      write('SET', PREFIX .. 'box:' .. name, pack_struct(PACKED, box.lost, box.missed, box.acknowledged, box.taken,
        box.count, box.size, box.expiry, box.latest, box.mixed, box.newest, box.turn, box.ends) .. box.back)
    end
  end
  if is_changed then
    write('HSET', LOG, 'counts', pack_struct(COUNTS, log.sequence, log.floor, log.torn, log.memory, log.messages,
      log.mailboxes, log.turn, log.runs))
  end
end

local function answer(...)
  save()
  return {'ok', {log.sequence, log.mailboxes, log.messages, log.memory, said}, ...}
end

-- What was asked for is not done; freed is how many messages were dropped for it all the same.
local function refused(freed)  -- rare
  return {'refused', {}, said, freed or 0}
end

-- -- what was read

local function reclaimable(box)
  if box.turn == 0 then
    set_log('turn', log.turn + 1)
    set(box, 'turn', log.turn)
    write('ZADD', RECLAIMABLE, log.turn, box.name)
  end
end

-- Acknowledge what the readers of patterns that cover the recipient had.
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

-- The server's own bounds for the mailboxes of a push, and those of each name where there are namespaces, else nil.
-- rules say whether a full mailbox refuses the push, or, with namespaces, for each name whether its mailbox does, its
-- capacity, its bytes, and when the messages expire. Without namespaces no table is made for names: that took 1 us.
local function bounds_of(names, rules, expires_at)
  local own = {reject = rules == '1', capacity = CAPACITY, bytes = CAPACITY_BYTES, expires = tonumber(expires_at)}
  if #rules == 1 then return own, nil end
  local bounds, at = {}, 0
  for reject, capacity, bytes, expires in string.gmatch(rules, '(%d),(%d+),(%d+),(%S+)') do
    at = at + 1
    bounds[names[at]] = {
      reject = reject == '1', capacity = tonumber(capacity), bytes = tonumber(bytes),
      expires = tonumber(expires),
    }
  end
  return own, bounds
end

-- The oldest messages that must go before count more of so many bytes fit; nil and why where they do not.
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

-- -- records

local function remember(kind, id, value, ends_at, most)  -- rare
  local all = PREFIX .. 'records:' .. kind
  call('SET', PREFIX .. 'record:' .. kind .. ':' .. id, value, 'PX', whole((ends_at - now) * 1000))
  call('ZADD', all, ends_at, id)
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
    while not one and source.next < source.box.length do
      local raw = call('LRANGE', source.box.key, source.next, source.next + count - 1)
      source.found, source.at = {}, 1
      for index, each in ipairs(raw) do
        each = entry(each, source.next + index - 1)
        if is_current(each) then source.found[#source.found + 1] = each end
      end
      source.next = source.next + count
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
    bytes = bytes + sent_size(best)
    if #messages == limit or (#messages > 0 and bytes > POLL_BYTES) then return messages, 1 end
    best.box = from.box
    messages[#messages + 1] = best
    from.at = from.at + 1
  end
end

-- Look through the one order for readers of patterns; the last result is how far was looked.
local function looked_through(names, number, limit)  -- rare
  local wanted, messages, bytes, looked = {}, {}, 0, 0
  for _, name in ipairs(names) do wanted[name] = true end
  while looked < LOOK do
    local found = call('XRANGE', ORDER, whole(number + 1) .. '-0', '+', 'COUNT', CHUNK)
    for _, raw in ipairs(found) do
      local at, name = tonumber(string.match(raw[1], '^%d+')), raw[2][2]
      for _, key in ipairs(covering(name)) do
        if wanted[key] then
          local box = box_of(name)
          local one = find(box, at)
          if one and is_current(one) then
            bytes = bytes + sent_size(one)
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

-- -- histories

-- The number of the first message, of all mailboxes, that was accepted at a time or later; nil where there is none.
-- It is searched by halves: a step looks at the first message above the middle of what is left.
local function accepted_from(created_at)
  local oldest = call('XRANGE', ORDER, '-', '+', 'COUNT', 1)[1]
  if not oldest then return nil end
  local low, high = tonumber(string.match(oldest[1], '^%d+')), log.sequence + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    local raw = call('XRANGE', ORDER, whole(middle) .. '-0', '+', 'COUNT', 1)[1]
    local one = raw and find(load_box(raw[2][2]), tonumber(string.match(raw[1], '^%d+')))
    if not one or one.created_at >= created_at then high = middle else low = one.number + 1 end
  end
  return low <= log.sequence and low or nil
end

-- The number before the newest messages of several mailboxes; the end of the log where they have none.
local function before_newest(boxes, count)
  local chunk = math.max(1, math.min(CHUNK, math.ceil(count / #boxes)))
  local heads, place = {}, log.sequence
  local function head(box)
    local source = heads[box] or {found = {}, at = 1, last = box.length}
    heads[box] = source
    while source.at > #source.found and source.last > 0 do
      local first = math.max(0, source.last - chunk)
      local raw = call('LRANGE', box.key, first, source.last - 1)
      source.found, source.at, source.last = {}, 1, first
      for index = #raw, 1, -1 do
        local one = entry(raw[index])
        if is_current(one) then source.found[#source.found + 1] = one.number end
      end
    end
    return source.found[source.at]
  end
  for _ = 1, count do
    local best, from
    for _, box in ipairs(boxes) do
      local number = head(box)
      if number and (not best or number > best) then best, from = number, box end
    end
    if not best then break end
    place = best - 1
    heads[from].at = heads[from].at + 1
  end
  return place
end

-- Look back through the one order for the newest messages that patterns cover. Returns where to go on looking, nil
-- where that is nowhere, the number before those that were found, and how many are left to be found.
local function looked_back(names, count, from, place)
  local wanted, looked = {}, 0
  for _, name in ipairs(names) do wanted[name] = true end
  while looked < LOOK do
    local found = call('XREVRANGE', ORDER, from, '-', 'COUNT', CHUNK)
    for _, raw in ipairs(found) do
      from = '(' .. raw[1]
      for _, key in ipairs(covering(raw[2][2])) do
        if wanted[key] then
          local box = box_of(raw[2][2])
          local one = find(box, tonumber(string.match(raw[1], '^%d+')))
          if one and is_current(one) then
            place, count = one.number - 1, count - 1
            if count == 0 then return nil, place, 0 end
          end
          break
        end
      end
    end
    if #found < CHUNK then return nil, place, count end
    looked = looked + CHUNK
  end
  return from, place, count
end

-- The number of each mailbox's newest message, and that of the last one that is lost: before that, readers have a gap.
local function ends(names)
  local numbers = {}
  for at, name in ipairs(names) do
    local box = box_of(name)
    numbers[2 * at - 1], numbers[2 * at] = box.alive and box.newest or 0, math.max(lost_of(box), log.torn)
  end
  return numbers
end

-- Messages as they are answered: the name and the message of each.
local function shown(messages)
  local rows = {}
  for at, one in ipairs(messages) do
    rows[2 * at - 1], rows[2 * at] = one.box.name, one.raw
  end
  return rows
end

-- -- taking and leasing

-- The oldest messages that no take has had, whether there are more, and 1 where some were lost before.
local function untaken(names, limit)
  local gap, sources = 0, {}
  for _, name in ipairs(names) do
    local box = box_of(name)
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

-- Note that a message came back which is no longer kept: where it was lost, no take has had it.
local function miss(box, number)
  if box.alive then
    if number <= box.lost then set(box, 'missed', 1) end
  elseif number <= tonumber(call('ZSCORE', LOST, box.name) or 0) then
    call('SADD', MISSED, box.name)
  end
end

-- Some of the exhausted messages, which this process is to move, and the attempt and secret of each. For TRY_SECONDS
-- no other process is given them.
local function exhausted()
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
local function lacking()  -- rare
  local none = PREFIX .. 'none'
  local lacks, seen = {}, {}
  local function lack(rule)
    if not seen[rule] then lacks[#lacks + 1] = rule end
    seen[rule] = true
  end
  for _, words in ipairs({
    {'DEL', none}, {'EXISTS', none}, {'GET', none}, {'HMGET', none, 'f'}, {'HSETNX', none, 'f', 'v'},
    {'DEL', none}, {'RPUSH', none, 'v'}, {'LINDEX', none, 0}, {'LRANGE', none, 0, 0}, {'LREM', none, 0, 'v'},
    {'LSET', none, 0, 'v'}, {'LTRIM', none, 0, 0}, {'DEL', none},
    {'HSET', none, 'f', 'v'}, {'DEL', none}, {'PUBLISH', none, ''}, {'PUBSUB', 'NUMSUB', none}, {'SADD', none, 'm'},
    {'SISMEMBER', none, 'm'}, {'SREM', none, 'm'}, {'SET', none, 'v', 'XX'}, {'TIME'},
    {'XADD', none, 'NOMKSTREAM', '*', 'f', 'v'}, {'XDEL', none, '1-0'}, {'XRANGE', none, '-', '+'},
    {'XREVRANGE', none, '+', '-'}, {'ZADD', none, 'XX', 1, 'm'}, {'ZCARD', none}, {'ZMSCORE', none, 'm'},
    {'ZPOPMIN', none}, {'ZRANGEBYSCORE', none, 1, 2}, {'ZREM', none, 'm'}, {'ZREMRANGEBYRANK', none, 1, 2},
    {'ZREMRANGEBYSCORE', none, 1, 2}, {'ZSCORE', none, 'm'},
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

if verb ~= 'attach' then
  load_log()
  if log.epoch ~= epoch then return {'another log', {}} end
end

local function append(ARGV)
  -- ARGV: process, number of the ask, expires at, rules, queue, the record's id (or ''), what stands before and after
  -- the number in its value, its seconds, most records, recipients, their number before them, then each message without
  -- its number and its expiry. The results: the first number, how many processes were reached, and, where any was, what
  -- windows.py needs of each mailbox.
  local origin, ask, queue, id = ARGV[4], ARGV[5], ARGV[8] == '1', ARGV[9]
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
  local names, at = {}, 15 + tonumber(ARGV[14])
  for index = 15, at - 1 do names[#names + 1] = ARGV[index] end
  local own, spaced = bounds_of(names, ARGV[7], ARGV[6])
  local count, size, memory = #ARGV - at + 1, 0, 0
  for index = at, #ARGV do
    size = size + unpack_struct('<I4', ARGV[index], 9)
    for _, name in ipairs(names) do memory = memory + cost(name, #ARGV[index] + 16) end
  end

  local going, freed = {}, 0
  local function look_for_room()
    going, freed = {}, 0
    if not queue then return nil end
    for _, name in ipairs(names) do
      local box, bounds = box_of(name), spaced and spaced[name] or own
      if box.count + count > bounds.capacity or box.size + size > bounds.bytes then
        hear_of_patterns(box)
        local old, why = in_the_way(box, count, size, bounds)
        if not old then return {why, {}, name} end
        going[name] = old
        for _, one in ipairs(old) do freed = freed + cost(name, #one.raw) end
      end
    end
    return nil
  end
  while true do
    local refused = look_for_room()
    local created, over = 0, log.memory + memory - freed - MAX_MEMORY
    for _, name in ipairs(names) do
      if not box_of(name).alive then created, over = created + 1, over + mailbox_cost(name) end
    end
    local boxes_over = created > 0 and log.mailboxes + created - MAX_RECIPIENTS or 0
    if not refused and over <= 0 and boxes_over <= 0 then break end
    if refused or not reclaim(over, boxes_over) then
      save()  -- of what had to go already
      return refused or {boxes_over > 0 and 'mailboxes' or 'memory', {}}
    end
  end
  for name, old in pairs(going) do drop(box_of(name), old) end

  for _, name in ipairs(names) do
    local box = box_of(name)
    if not box.alive then create(box) end
    box.pushed, box.before = {}, box.newest
  end
  local first, number = log.sequence + 1, log.sequence
  for index = at, #ARGV do
    local bytes = unpack_struct('<I4', ARGV[index], 9)
    for _, name in ipairs(names) do
      local box, expires = box_of(name), (spaced and spaced[name] or own).expires
      number = number + 1
      local raw = pack_struct('<dd', number, expires) .. ARGV[index]
      box.pushed[#box.pushed + 1] = raw
      call('RPUSH', box.key, raw)
      call('XADD', ORDER, whole(number) .. '-0', 'n', name)
      box.count, box.length, box.size = box.count + 1, box.length + 1, box.size + bytes
      box.newest, box.is_changed = number, true
      if expires < box.latest then box.mixed = 1 else box.latest = expires end
      if expires < box.expiry then
        box.expiry = expires
        call('ZADD', EXPIRIES, expires, name)
      end
    end
  end
  set_log('sequence', number)
  set_log('messages', log.messages + count * #names)
  set_log('memory', log.memory + memory)
  if id ~= '' then
    local value = ARGV[10] .. whole(first) .. ARGV[11]
    remember('receipt', id, value, now + tonumber(ARGV[12]), tonumber(ARGV[13]))
  end
  local receivers, befores = wake(names, queue and 'pushed' or 'shown', origin, ask), {}
  if receivers > 0 then
    for _, name in ipairs(names) do
      local box = boxes[name]
      befores[#befores + 1] = box.before
      befores[#befores + 1] = math.max(box.lost, log.torn)
    end
  end
  return answer(first, receivers, befores)
end

-- -- presence
--
-- Each process reports how many readers of a name it has, at each recipient and pattern (see presence.py). Below the
-- prefix lie
--   presence:PROCESS  sorted set: "NAME\nname" by how many readers it has there; the name is JSON, or empty for none
--   present           sorted set: recipients and patterns, by how many readers they have at all processes
--   present:NAME      sorted set: the names that read a recipient, as JSON, by when they came
--   processes         sorted set: processes, by when they have last reported
--   gone              sorted set: processes whose readers are to be taken out
--   counting          sorted set: recipients of which only the count is told, by when that is to be done

local PRESENT, PROCESSES, GONE = PREFIX .. 'present', PREFIX .. 'processes', PREFIX .. 'gone'
local COUNTING = PREFIX .. 'counting'
local TAKEN_OUT_AT_ONCE = 100
local pushes = {}  -- the messages of each recipient, which are pushed when all is counted
local presences = {}  -- what has happened: an event, a recipient, a name, and how many readers there are
local untold = 0

local function score(key, member)
  return tonumber(call('ZSCORE', key, member) or 0)
end

local function set_score(key, member, value)
  if value > 0 then call('ZADD', key, value, member) else call('ZREM', key, member) end
end

local function present_readers(recipient)
  local readers = 0
  for _, count in ipairs(call('ZMSCORE', PRESENT, unpack(covering(recipient)))) do
    readers = readers + tonumber(count or 0)
  end
  return readers
end

-- Make a message of $presence/RECIPIENT; the name is JSON, or nil.
local function announce(date, recipient, event, name, readers)
  local said = '{' .. (name and '"name":' .. name .. ',' or '') .. '"readers":' .. whole(readers) .. '}'
  local type = 'application/json'
  local all = pushes[recipient] or {}
  pushes[recipient] = all
  all[#all + 1] = pack_struct('<dI4HHB', date, #said, #type, #event, 0) .. type .. event .. said
end

-- Keep an event for the application that is told of them, in the order of the runs that made them; the clocks of
-- processes differ by a little. ARGV[9] has its date, or '' where no application is told.
local function keep_event(event, recipient, name, readers)
  local counted = call('HMGET', LOG, 'events', 'events_end')
  local number, ends_at = tonumber(counted[1] or 0) + 1, math.max(now + EVENT_SECONDS, tonumber(counted[2] or 0))
  call('HSET', LOG, 'events', whole(number), 'events_end', string.format('%.17g', ends_at))
  local said = '{"event":"%s","recipient":%s,"name":%s,"readers":%.0f,"at":"%s"}'
  said = string.format(said, event, cjson.encode(recipient), name, readers, ARGV[9])
  remember('event', string.format('%012.0f', number), said, ends_at, EVENTS_MOST)
end

local function note_presence(date, recipient, event, name)
  local readers, members = present_readers(recipient), call('ZCARD', PREFIX .. 'present:' .. recipient)
  if ARGV[9] ~= '' then keep_event(event, recipient, name, readers) end
  for _, word in ipairs({event, recipient, name, readers}) do presences[#presences + 1] = word end
  if members + (event == 'leave' and 1 or 0) <= PRESENT_MEMBERS then
    announce(date, recipient, event, name, readers)
  else
    call('ZADD', COUNTING, 'NX', now + PRESENT_COUNT_SECONDS, recipient)
  end
end

local function push_presences()
  for recipient, all in pairs(pushes) do
    local first = math.max(1, #all - CAPACITY + 1)
    local words = {
      'append', epoch, ARGV[3], '-', '0', now + PRESENT_KEPT_SECONDS, '0', '1', '', '', '', '', '', '1',
      '$presence/' .. recipient, unpack(all, first),
    }
    local pushed = append(words)[1] == 'ok'
    untold = untold + (pushed and first - 1 or #all)
  end
end

-- The other processes that have readers of a name, and how many processes that were taken out have.
local function others_with(process, field)
  local found, gone = {}, 0
  for _, other in ipairs(call('ZRANGEBYSCORE', PROCESSES, '-inf', '+inf')) do
    if other ~= process and call('ZSCORE', PREFIX .. 'presence:' .. other, field) then found[#found + 1] = other end
  end
  for _, other in ipairs(call('ZRANGEBYSCORE', GONE, '-inf', '+inf')) do
    if other ~= process and call('ZSCORE', PREFIX .. 'presence:' .. other, field) then gone = gone + 1 end
  end
  return found, gone
end

-- A process has so many readers of a name; former is its name before, or ''.
local function count_presence(date, process, former, field, what, readers)
  local recipient, name = string.match(field, '^(.-)\n(.*)$')
  local key = PREFIX .. 'presence:' .. process
  local before = score(key, field)
  if former ~= '' then
    before = before + score(PREFIX .. 'presence:' .. former, field)
    call('ZREM', PREFIX .. 'presence:' .. former, field)
  end
  set_score(key, field, readers)
  if readers ~= before then set_score(PRESENT, recipient, score(PRESENT, recipient) + readers - before) end
  if readers == before and what == '' then return end
  local others, gone = others_with(process, field)
  if what ~= '' or readers > before then
    -- One that comes here may have left there a moment ago.
    local said = (what == '' and 'replaced ' .. whole(readers - before) or what) .. ' ' .. field
    for _, other in ipairs(others) do
      call('PUBLISH', PREFIX .. 'process:' .. string.match(other, '^[^.]*'), said)
    end
  end
  if name == '' or is_pattern(recipient) then return end
  if readers > 0 then
    if call('ZADD', PREFIX .. 'present:' .. recipient, 'NX', date, name) == 1 then
      note_presence(date, recipient, 'join', name)
    end
  elseif #others + gone == 0 and call('ZREM', PREFIX .. 'present:' .. recipient, name) == 1 then
    note_presence(date, recipient, 'leave', name)
  end
end

-- Take out readers of processes that do not report any more; return whether there are more.
local function take_out(date)
  for _, process in ipairs(call('ZRANGEBYSCORE', PROCESSES, '-inf', now - PRESENT_SECONDS)) do
    call('ZREM', PROCESSES, process)
    call('ZADD', GONE, now, process)
  end
  local process = call('ZRANGEBYSCORE', GONE, '-inf', '+inf', 'LIMIT', 0, 1)[1]
  if not process then return 0 end
  local fields = call('ZRANGEBYSCORE', PREFIX .. 'presence:' .. process, '-inf', '+inf', 'LIMIT', 0, TAKEN_OUT_AT_ONCE)
  for _, field in ipairs(fields) do count_presence(date, process, '', field, '', 0) end
  if #fields < TAKEN_OUT_AT_ONCE then call('ZREM', GONE, process) end
  return 1
end

local function count_members(fields)
  local counts = {}
  for _, key in ipairs({PROCESSES, GONE}) do
    for _, process in ipairs(call('ZRANGEBYSCORE', key, '-inf', '+inf')) do
      for first = 1, #fields, CHUNK do
        local last = math.min(first + CHUNK - 1, #fields)
        for at, count in ipairs(call('ZMSCORE', PREFIX .. 'presence:' .. process, unpack(fields, first, last))) do
          counts[first + at - 1] = (counts[first + at - 1] or 0) + tonumber(count or 0)
        end
      end
    end
  end
  return counts
end

if verb == 'append' then
  return append(ARGV)

elseif verb == 'attend' then
  -- ARGV: the process, its name before or '', the date, 1 where all of its readers are reported with this, 1 where its
  -- name is new, the date of events as an application is told it, or '', then for each name of a reader: the field, what
  -- is told to the others, or '', and how many readers there are. The results: 1 where the process is known, 1 where
  -- there is more to do, how many events could not be told, and the events.
  if not may_write() then return refused() end
  local process, former, date = ARGV[4], ARGV[5], tonumber(ARGV[6])
  if ARGV[8] ~= '1' and not call('ZSCORE', PROCESSES, process) then return answer(0, 1, 0) end
  call('ZADD', PROCESSES, now, process)
  for at = 10, #ARGV, 3 do count_presence(date, process, former, ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])) end
  if former ~= '' and ARGV[7] == '1' then
    call('ZREM', PROCESSES, former)
    call('ZADD', GONE, now, former)
  end
  local more = take_out(date)
  for _, recipient in ipairs(call('ZRANGEBYSCORE', COUNTING, '-inf', now, 'LIMIT', 0, CHUNK)) do
    announce(date, recipient, 'count', nil, present_readers(recipient))
    call('ZREM', COUNTING, recipient)
  end
  push_presences()
  return answer(1, more, untold, unpack(presences))

elseif verb == 'present' then
  -- ARGV: a recipient. The results: how many readers it has, 1 where it has more members, then for each the name, since
  -- when it is there, and how many readers it has.
  local recipient = ARGV[4]
  local found = call('ZRANGEBYSCORE', PREFIX .. 'present:' .. recipient, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, PRESENT_MEMBERS)
  local fields, shown = {}, {}
  for at = 1, #found, 2 do fields[#fields + 1] = recipient .. '\n' .. found[at] end
  for at, count in ipairs(count_members(fields)) do
    for _, word in ipairs({found[2 * at - 1], found[2 * at], count}) do shown[#shown + 1] = word end
  end
  local more = call('ZCARD', PREFIX .. 'present:' .. recipient) > PRESENT_MEMBERS
  return answer(present_readers(recipient), more and 1 or 0, unpack(shown))

elseif verb == 'retract' then
  if not may_write() then return refused() end
  each_named(function(number, box)
    local one = find(box, number)
    if one then
      leave_back(box, number)
      forget_leases(box, {one})
      remove(box, {one})
      if box.count == 0 then bury(box) end
    end
  end)
  return answer()

elseif verb == 'read' then
  -- ARGV: the epoch and number after which to read, where to go on looking, limit, 1 to acknowledge, names. In the
  -- place of an epoch may stand now, oldest, or history: the beginning of one, before which there is no gap.
  local place, from, limit, names = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), names_from(9)
  local patterned = false
  for _, name in ipairs(names) do patterned = patterned or is_pattern(name) end
  if ARGV[4] == 'now' then return answer(log.sequence, 0, 0, {}, patterned and {} or ends(names)) end
  local known = ARGV[4] == log.epoch and place <= log.sequence
  if known and ARGV[8] == '1' then acknowledge(names, place) end
  if not known and ARGV[4] ~= 'history' then place = 0 end
  local messages, more, looked
  if patterned then
    messages, more, looked = looked_through(names, math.max(place, from), limit)
  else
    local sources = {}
    for _, name in ipairs(names) do
      local box = box_of(name)
      if box.alive then sources[#sources + 1] = {box = box, found = {}, at = 1, next = place_after(box, place)} end
    end
    messages, more = merged(sources, limit)
  end
  -- Only now: on its way a pattern meets mailboxes in which messages expire.
  local gap, numbers = not known and ARGV[4] ~= 'oldest' and ARGV[4] ~= 'history', ends(names)
  for at = 2, #numbers, 2 do gap = gap or (known and place < numbers[at]) end
  if not patterned then looked = (known and not gap) and place or log.sequence end
  if #messages > 0 then looked = messages[#messages].number end
  return answer(looked, gap and 1 or 0, more, shown(messages), patterned and {} or numbers)

elseif verb == 'newest' then
  -- ARGV: names. The log's last number, and of each mailbox that of its newest message and the last one that is lost.
  return answer(log.sequence, ends(names_from(4)))

elseif verb == 'history' then
  -- ARGV: 'last' or 'accepted', how many messages or since when, where to go on looking back ('+' at first) and the
  -- place that was found so far ('' at first), names. The results: where to go on ('' where that is nowhere), the place
  -- after which the history begins, and how many messages are left to be found.
  local count, names = tonumber(ARGV[5]), names_from(8)
  if ARGV[4] == 'accepted' then
    local first = accepted_from(count / 1000)
    return answer('', first and first - 1 or log.sequence, 0)
  end
  local boxes, patterned = {}, false
  for _, name in ipairs(names) do
    patterned = patterned or is_pattern(name)
    local box = box_of(name)
    if box.alive then boxes[#boxes + 1] = box end
  end
  if not patterned then return answer('', #boxes > 0 and before_newest(boxes, count) or log.sequence, 0) end
  local on, place, left = looked_back(names, count, ARGV[6], tonumber(ARGV[7]) or log.sequence)
  return answer(on or '', place, left)

elseif verb == 'acknowledge' then
  -- ARGV: pairs of a number and a name; what was acknowledged while it could not be written.
  if not may_write() then return refused() end
  each_named(function(number, box)
    if number <= log.sequence then acknowledge({box.name}, number) end
  end)
  return answer()

elseif verb == 'take' then
  -- ARGV: limit, names.
  local messages, more, gap = untaken(names_from(5), tonumber(ARGV[4]))
  if (#messages > 0 or gap == 1) and not may_write() then return refused() end
  take(messages)
  return answer(#messages > 0 and messages[#messages].number or log.sequence, gap, more, shown(messages))

elseif verb == 'lease' then
  -- ARGV: limit, seconds, secret, names. The last result has the number of the attempt of each message.
  local messages, more, gap = untaken(names_from(7), tonumber(ARGV[4]))
  if (#messages > 0 or gap == 1) and not may_write() then return refused() end
  local attempts = {}
  for at, one in ipairs(messages) do
    local last = is_back(one.box, one.number) and last_lease(one.box, one.number)
    attempts[at] = 1
    if last then
      attempts[at] = select(2, lease_words(last)) + 1
      remove_lease(one.box, last)
    end
    hold_lease(one.box, whole(one.number) .. ' ' .. attempts[at] .. ' ' .. ARGV[6], now + tonumber(ARGV[5]))
  end
  take(messages)
  count_leases('leased', #messages)
  local last = #messages > 0 and messages[#messages].number or log.sequence
  return answer(last, gap, more, shown(messages), attempts)

elseif verb == 'settle' then
  -- ARGV: done, extended or released, seconds, name, and leases. For each 1, where it was the last of its message.
  local settlement, ends_at, box = ARGV[4], now + tonumber(ARGV[5]), box_of(ARGV[6])
  local settled = {}
  for at = 7, #ARGV do
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
        if score >= SPENT then count_leases('exhausted', -1)
        elseif score > 0 then count_leases('leased', -1) end
        reclaimable(box)
      else
        hold_lease(box, lease, ends_at)
        if score < 0 then count_leases('leased', 1) end
      end
    end
  end
  if settlement == 'released' and box.alive then wake({box.name}, 'back', '-', '0') end
  return answer(settled)

elseif verb == 'undo' then
  -- ARGV: number, name and lease of each message whose worker was gone before it was answered.
  if not may_write() then return refused() end
  for at = 4, #ARGV, 3 do
    local number, box, lease = tonumber(ARGV[at]), box_of(ARGV[at + 1]), ARGV[at + 2]
    local score = tonumber(call('ZSCORE', lease_key(box), lease))
    if score and score > 0 and score < SPENT then
      local _, attempt, secret = lease_words(lease)
      remove_lease(box, lease)
      count_leases('leased', -1)
      if attempt > 1 then put_lease(box, whole(number) .. ' ' .. (attempt - 1) .. ' ' .. secret, -number) end
      put_back(box, number)
    elseif not find(box, number) then
      miss(box, number)
    end
  end
  for name in pairs(boxes) do wake({name}, 'back', '-', '0') end
  return answer()

elseif verb == 'give_back' then
  if not may_write() then return refused() end
  -- What a process gives back again, because it does not know whether that was done, may be leased since.
  each_named(function(number, box)
    if not find(box, number) then miss(box, number)
    elseif not is_reserved(box, number) then put_back(box, number) end
  end)
  for name in pairs(boxes) do wake({name}, 'back', '-', '0') end
  return answer()

elseif verb == 'delete' then
  -- ARGV: name, and the number of the last message that goes, nothing in the first step. As many go as are one step;
  -- the result is that number, and whether there are more.
  local box, last, more = box_of(ARGV[4]), tonumber(ARGV[5]) or log.sequence, 0
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

elseif verb == 'describe' then
  local box = box_of(ARGV[4])
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

elseif verb == 'who' then
  -- ARGV: process, number of the ask, name: those where readers of it stand are asked how many there are.
  return answer(wake({ARGV[6]}, 'who', ARGV[4], ARGV[5]))

elseif verb == 'expire' then
  -- The mailboxes whose time has come, as many as are one step; the result says whether there are more. It has also
  -- the exhausted messages that this process is to move, and how many are leased and exhausted in all.
  if not may_grow() and not may_write() then return answer(0, {}, {}, 0, 0) end
  local names = call('ZRANGEBYSCORE', EXPIRIES, '-inf', ARGV[3], 'LIMIT', 0, EXPIRED_AT_ONCE)
  local before, left_out = log.messages, false
  for _, name in ipairs(names) do
    left_out = before - log.messages >= GOING_AT_ONCE
    if left_out then break end
    box_of(name)
  end
  for at = 4, #ARGV do call('ZREMRANGEBYSCORE', PREFIX .. 'records:' .. ARGV[at], '-inf', ARGV[3]) end
  local ending = call('ZRANGEBYSCORE', ENDING, '-inf', ARGV[3], 'LIMIT', 0, EXPIRED_AT_ONCE)
  for _, name in ipairs(ending) do
    if leases_left > 0 and not box_of(name).alive then write('ZREM', ENDING, name) end
  end
  local is_all = not left_out and #names < EXPIRED_AT_ONCE and #ending < EXPIRED_AT_ONCE and leases_left > 0
  local rows, leases = exhausted()
  local counts = call('HMGET', LOG, 'leased', 'exhausted')
  return answer(is_all and 0 or 1, rows, leases, tonumber(counts[1] or 0), tonumber(counts[2] or 0))

elseif verb == 'remember' or verb == 'renew' then
  -- ARGV: kind, id, value, seconds, most of the kind. A record that was forgotten is not renewed: its end at one
  -- process may come between what another one has read of it and writes of it.
  if not may_write() then return refused() end
  if verb == 'renew' and call('EXISTS', PREFIX .. 'record:' .. ARGV[4] .. ':' .. ARGV[5]) == 0 then return answer() end
  remember(ARGV[4], ARGV[5], ARGV[6], now + tonumber(ARGV[7]), tonumber(ARGV[8]))
  return answer()

elseif verb == 'note' or verb == 'hold' then
  -- ARGV: kind, id, process, seconds, most of the kind. The result says whether the record is this process' now: no
  -- process has it, or, for 'hold', this one has it already.
  if not may_write() then return refused() end
  local holder = call('GET', PREFIX .. 'record:' .. ARGV[4] .. ':' .. ARGV[5])
  local ends = tonumber(call('ZSCORE', PREFIX .. 'records:' .. ARGV[4], ARGV[5]) or 0)
  if holder and ends > now and (verb == 'note' or holder ~= ARGV[6]) then return answer(0) end
  remember(ARGV[4], ARGV[5], ARGV[6], now + tonumber(ARGV[7]), tonumber(ARGV[8]))
  return answer(1)

elseif verb == 'forget' then
  if not may_write() then return refused() end
  call('DEL', PREFIX .. 'record:' .. ARGV[4] .. ':' .. ARGV[5])
  call('ZREM', PREFIX .. 'records:' .. ARGV[4], ARGV[5])
  return answer()

elseif verb == 'attach' then
  -- A process has connected. ARGV: the run of Redis that it found; the epoch, run and last number that it heard of
  -- before; a name for the log's life if it is new. Where a run ended before a number that some process has heard of
  -- in it, messages were lost: the log then goes on far behind, and every reader gets a gap.
  -- Where that cannot be written, the process may read, and attaches again as soon as it can.
  local lacks = lacking()
  if #lacks > 0 then return {'lacks', {}, table.concat(lacks, ' ')} end
  load_log()
  local run, heard_epoch, heard_run, heard = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
  local time = call('TIME')
  time = time[1] .. '.' .. string.format('%06d', time[2])
  if log.epoch and log.layout ~= LAYOUT then return {'layout', {}, log.layout} end
  if not may_write() then
    if not log.epoch then return refused() end
    return answer(log.epoch, log.run, time)
  end
  if not log.epoch then
    log.epoch = ARGV[8]
    call('HSET', LOG, 'epoch', log.epoch, 'layout', LAYOUT)
  end
  if string.match(log.run, '[^ ]*$') ~= run then
    -- With a number, because a failover may lead back to where one has led away from.
    if log.run ~= '' then call('ZADD', RUNS, log.sequence, log.run) end
    call('ZREMRANGEBYRANK', RUNS, 0, -RUNS_KNOWN - 1)
    set_log('runs', log.runs + 1)
    log.run = whole(log.runs) .. ' ' .. run
    call('HSET', LOG, 'run', log.run)
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
