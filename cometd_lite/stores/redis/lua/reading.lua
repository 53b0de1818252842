-- Reading: the messages of mailboxes and of patterns, after a number; and what readers acknowledge.

-- The bytes that a message takes at most when it is sent, about as sent_size in core/message.py has it.
local function sent_size(one)
  local _, _, _, size, kind, event, form = unpack_struct(HEAD, one.raw)
  local envelope = 200 + 4 * (kind + event)
  if form == 0 then return envelope + size end
  if form == 2 then return envelope + size * 4 / 3 end
  local _, escaped = string.gsub(string.sub(one.raw, -size), '[%c"\\]', '')
  return envelope + size + 7 * escaped
end

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
local function looked_through(number, limit)  -- rare
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

-- The number of each mailbox's newest message, and that of the last one that is lost: before that, readers have a gap.
local function ends()
  local numbers = {}
  for at, name in ipairs(names) do
    local box = boxes[name]
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

-- ARGV: the epoch and number after which to read, where to go on looking, limit, 1 to acknowledge, 1 where a pattern is
-- among the names. In the place of an epoch may stand now, oldest, or history: the beginning of one, before which there
-- is no gap. The results: where to go on, 1 where messages were lost, 1 where there are more, the messages, and, where
-- no pattern is read, the ends of the mailboxes.
function verbs.read()
  local after, place, limit, is_patterned = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5]), ARGV[7] == '1'
  local is_known, gap = after == log.epoch and place <= log.sequence, 0
  local messages, more, looked = {}, 0, log.sequence
  if after ~= 'now' then
    if is_known and ARGV[6] == '1' then
      for _, name in ipairs(names) do acknowledge(boxes[name], place) end
    end
    if not is_known and after ~= 'history' then place = 0 end
    if is_patterned then
      messages, more, looked = looked_through(math.max(place, tonumber(ARGV[4])), limit)
    else
      local sources = {}
      for _, name in ipairs(names) do
        local box = boxes[name]
        if box.alive and box.newest > place then
          sources[#sources + 1] = {box = box, found = {}, at = 1, next = place_after(box, place)}
        end
      end
      if #sources > 0 then messages, more = merged(sources, limit) end
    end
    if not is_known and after ~= 'oldest' and after ~= 'history' then gap = 1 end
  end
  -- Only now: on its way a pattern meets mailboxes in which messages expire.
  local numbers = ends()
  for at = 2, #numbers, 2 do
    if is_known and place < numbers[at] then gap = 1 end
  end
  if #messages > 0 then looked = messages[#messages].number
  elseif not is_patterned and is_known and gap == 0 then looked = place end
  return answer(looked, gap, more, shown(messages), is_patterned and {} or numbers)
end

-- The results: the log's last number, and the ends of the mailboxes.
function verbs.newest()
  return answer(log.sequence, ends())
end

-- ARGV: the number up to which each of KEYS was acknowledged.
function verbs.acknowledge()
  for at, name in ipairs(names) do
    local number = tonumber(ARGV[at + 1])
    if number <= log.sequence then acknowledge(boxes[name], number) end
  end
  local done = answer()
  return log.writable == false and refused() or done
end
