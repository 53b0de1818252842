-- Mailboxes and their messages: how they lie in Redis, what is lost of them, and how they are written at the end of a
-- run. What is meant by each word is said in mailbox.py and memory.py; here the same rules hold.
--
-- A message is one string: a head (see HEAD), then its type, its event and its body. Its number is the first thing in
-- it, so that what the process has packed is stored, published and answered as it came. A mailbox is a list of these,
-- because nothing else is as small. With the default configuration a mailbox takes, for its first message of 100 bytes
-- and for each further one, so many bytes (Redis 7.0, measured): as a stream 4,356, with room for the next 20, since it
-- allocates 4 KB at once; as a sorted set 1,159 and 296; as a hash, which has no order, 433 and 249; as a list 393 and
-- 177. A number is found in the list by a search from its end, where most readers are.

-- The head of a message: its number, when it expires and was accepted, in seconds, the bytes of its body, type and
-- event, and its form. The process packs all but the first two; see entries.py.
local HEAD = '<dddI4HHB'
local HEAD_SIZE = 33

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
local PACKED = '<dddddddddddd'
local EMPTY = pack_struct(PACKED, 0, 0, 0, 0, 0, 0, NEVER, 0, 0, 0, 0, 0)

-- The mailbox of a name as it lies there; alive says whether there is one. The length of its list is its count, unless
-- something could not be taken out.
local function box_from(name, packed)
  local lost, missed, acknowledged, taken, count, size, expiry, latest, mixed, newest, turn, ends, behind =
    unpack_struct(PACKED, packed or pack_struct(PACKED, 0, 0, 0, 0, 0, 0, NEVER, 0, 0, 0, 0, 0))
  return {
    name = name, key = prefix .. 'messages:' .. name, alive = packed ~= false, lost = lost,
    missed = missed, acknowledged = acknowledged, taken = taken, count = count, length = count, size = size,
    expiry = expiry, latest = latest, mixed = mixed, newest = newest, turn = turn, ends = ends,
    back = packed and string.sub(packed, behind) or '',
  }
end

local function set(box, field, value)  -- rare
  if box[field] ~= value then
    box[field] = value
    box.is_changed = true
  end
end

-- -- what takes gave back

local function is_back(box, number)  -- rare
  return box.back ~= '' and string.find(box.back, ' ' .. whole(number) .. ' ', 1, true) ~= nil
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

-- -- messages

-- A message of a mailbox as a table; at is its place in the list, from 0 for the oldest.
local function entry(raw, at)
  local number, expires_at, created_at, size = unpack_struct(HEAD, raw)
  return {number = number, expires_at = expires_at, created_at = created_at, size = size, raw = raw, at = at}
end

-- Whether a message's time is not over: it may be kept for longer where it could not be taken out.
local function is_current(one)
  return one.expires_at > now
end

-- The place in a mailbox's list of its first message after a number. Most are looked for at its end.
local function place_after(box, number)
  if number >= box.newest then return box.length end
  if number == 0 then return 0 end
  local low, high, step = 0, box.length, 1  -- those below low are not after it; those from high on are
  while low < high do
    local middle = math.max(high - step, math.floor((low + high) / 2))
    if unpack_struct('<d', call('LINDEX', box.key, middle)) > number then high, step = middle, 2 * step
    else low = middle + 1 end
  end
  return high
end

-- Give the messages of a mailbox to use, from a place on, until it returns true.
local function each_message(box, at, use)  -- rare
  local count = 2
  while at < box.length do
    for index, raw in ipairs(call('LRANGE', box.key, at, at + count - 1)) do
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
  return one and one.number == number and one or nil
end

-- What a message of so many bytes takes, besides its head; its name is in the order too.
local function cost(name, bytes)  -- rare
  return MESSAGE_COST + #name + bytes - HEAD_SIZE
end

local function mailbox_cost(name)
  return MAILBOX_COST + 4 * #name
end

-- -- what is lost

local lost_here = {}  -- what this run has noted as lost and could not write

-- Note what was lost of a name that has no mailbox.
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

-- Up to where messages of a name were lost that are no longer kept.
local function lost_of(box)
  if box.alive then return box.lost end
  return math.max(tonumber(call('ZSCORE', LOST, box.name) or log.floor), lost_here[box.name] or 0)
end
