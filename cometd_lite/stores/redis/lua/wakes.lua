-- Who waits: what is published to readers.

-- The keys at which readers of a name stand: itself first, then its patterns; see recipient.py.
local function covering(name)  -- rare
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

local function is_pattern(name)  -- rare
  local last = string.match(name, '[^/]*$')
  return last == '*' or last == '**'
end

-- Publish to the channels of names where processes listen, and return how many processes were reached. A publication
-- has the kind (see wakes.py), the process that wants a report (or -) and its number for it, the epoch, the number of
-- the mailbox's newest message before, that of the last lost one, and the name. On the channel of the name itself, the
-- messages of the push follow in a second line, unless they are too large. While no process listens to the channel
-- "patterns", none listens to the channel of any pattern. own has a 1 for each name to whose channel the asking
-- process listens. Where it is the only one, it is counted, and nothing is published: it takes the same from the
-- answer.
local function wake(names, kind, origin, own)
  local receivers = 0
  for first = 1, #names, CHUNK do
    local words = {'PUBSUB', 'NUMSUB', prefix .. 'patterns'}
    for at = first, math.min(first + CHUNK - 1, #names) do words[#words + 1] = prefix .. 'wake:' .. names[at] end
    local listening = call(unpack(words))
    local has_patterns = listening[2] > 0
    for at = 3, #listening, 2 do
      local index, channel, count = first + (at - 3) / 2, listening[at], listening[at + 1]
      if count == 1 and string.byte(own, index) == 49 then count, receivers = 0, receivers + 1 end
      if count > 0 or has_patterns then
        local name = names[index]
        local box = boxes[name]
        local said = string.format('%s %s %s %.0f %.0f %s', kind, origin, epoch, box and box.before or 0,
          box and box.alive and math.max(box.lost, log.torn) or 0, name)
        if count > 0 then
          local entries = kind == 'pushed' and table.concat(box.pushed) or ''
          local whole_said = #entries <= WAKE_BYTES and said .. '\n' .. entries or said
          receivers = receivers + call('PUBLISH', channel, whole_said)
        end
        if has_patterns then
          local keys = covering(name)
          for key = 2, #keys do receivers = receivers + call('PUBLISH', prefix .. 'wake:' .. keys[key], said) end
        end
      end
    end
  end
  return receivers
end
