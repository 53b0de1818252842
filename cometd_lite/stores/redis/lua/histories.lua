-- Where a history begins: after=last and after=since.

-- The number of the first message, of all mailboxes, that was accepted at a time or later; nil where there is none.
-- It is searched by halves: a step looks at the first message above the middle of what is left.
local function accepted_from(created_at)
  local oldest = call('XRANGE', ORDER, '-', '+', 'COUNT', 1)[1]
  if not oldest then return nil end
  local low, high = tonumber(string.match(oldest[1], '^%d+')), log.sequence + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    local raw = call('XRANGE', ORDER, whole(middle) .. '-0', '+', 'COUNT', 1)[1]
    local name = raw and raw[2][2]
    -- Nothing expires on the way.
    local box = raw and box_from(name, call('GET', prefix .. 'box:' .. name))
    local one = raw and find(box, tonumber(string.match(raw[1], '^%d+')))
    if not one or one.created_at >= created_at then high = middle else low = one.number + 1 end
  end
  return low <= log.sequence and low or nil
end

-- The number before the newest messages of several mailboxes; the end of the log where they have none.
local function before_newest(count)
  local chunk = math.max(1, math.min(CHUNK, math.ceil(count / #names)))
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
    for _, box in pairs(boxes) do
      local number = box.alive and head(box)
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
local function looked_back(count, from, place)
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

-- ARGV: 'last' or 'accepted', how many messages or since when, where to go on looking back ('+' at first), the place
-- that was found so far ('' at first), and 1 where a pattern is among the names. The results: where to go on ('' where
-- that is nowhere), the place after which the history begins, and how many messages are left to be found.
function verbs.history()
  local count = tonumber(ARGV[3])
  if ARGV[2] == 'accepted' then
    local first = accepted_from(count / 1000)
    return answer('', first and first - 1 or log.sequence, 0)
  end
  if ARGV[6] ~= '1' then return answer('', before_newest(count), 0) end
  local on, place, left = looked_back(count, ARGV[4], tonumber(ARGV[5]) or log.sequence)
  return answer(on or '', place, left)
end
