-- Presence: who reads a recipient, by name.
--
-- Each process reports how many readers of a name it has, at each recipient and pattern (see presence.py). Below the
-- prefix lie
--   presence:PROCESS  sorted set: "NAME\nname" by how many readers it has there; the name is JSON, or empty for none
--   present           sorted set: recipients and patterns, by how many readers they have at all processes
--   present:NAME      sorted set: the names that read a recipient, as JSON, by when they came
--   processes         sorted set: processes, by when they have last reported
--   gone              sorted set: processes whose readers are to be taken out
--   counting          sorted set: recipients of which only the count is published, by when

local PRESENT = prefix .. 'present'
local PROCESSES = prefix .. 'processes'
local GONE = prefix .. 'gone'
local COUNTING = prefix .. 'counting'
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

-- Keep an event for the application, in the order of the runs that made the events: the clocks of processes differ by
-- a little. ARGV[7] is its date, or '' where no application is notified.
local function keep_event(event, recipient, name, readers)
  local known = call('HMGET', LOG, 'events', 'events_end')
  local number, ends_at = tonumber(known[1] or 0) + 1, math.max(now + EVENT_SECONDS, tonumber(known[2] or 0))
  call('HSET', LOG, 'events', whole(number), 'events_end', string.format('%.17g', ends_at))
  local said = '{"event":"%s","recipient":%s,"name":%s,"readers":%.0f,"at":"%s"}'
  said = string.format(said, event, cjson.encode(recipient), name, readers, ARGV[7])
  remember('event', string.format('%012.0f', number), said, ends_at, EVENTS_MOST)
end

local function note_presence(date, recipient, event, name)
  local readers, members = present_readers(recipient), call('ZCARD', prefix .. 'present:' .. recipient)
  if ARGV[7] ~= '' then keep_event(event, recipient, name, readers) end
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
    local words = {'', pack_struct('<d', now + PRESENT_KEPT_SECONDS) .. 'k00', '- 0', unpack(all, first)}
    local pushed = append({'$presence/' .. recipient}, words)[1] == 'ok'
    untold = untold + (pushed and first - 1 or #all)
  end
end

-- The other processes that have readers of a name, and how many processes that were taken out have.
local function others_with(process, field)
  local found, gone = {}, 0
  for _, other in ipairs(call('ZRANGEBYSCORE', PROCESSES, '-inf', '+inf')) do
    if other ~= process and call('ZSCORE', prefix .. 'presence:' .. other, field) then found[#found + 1] = other end
  end
  for _, other in ipairs(call('ZRANGEBYSCORE', GONE, '-inf', '+inf')) do
    if other ~= process and call('ZSCORE', prefix .. 'presence:' .. other, field) then gone = gone + 1 end
  end
  return found, gone
end

-- A process has so many readers of a name; former is its name before, or ''.
local function count_presence(date, process, former, field, what, readers)
  local recipient, name = string.match(field, '^(.-)\n(.*)$')
  local key = prefix .. 'presence:' .. process
  local before = score(key, field)
  if former ~= '' then
    before = before + score(prefix .. 'presence:' .. former, field)
    call('ZREM', prefix .. 'presence:' .. former, field)
  end
  set_score(key, field, readers)
  if readers ~= before then set_score(PRESENT, recipient, score(PRESENT, recipient) + readers - before) end
  if readers == before and what == '' then return end
  local others, gone = others_with(process, field)
  if what ~= '' or readers > before then
    -- One that comes here may have left there a moment ago.
    local said = (what == '' and 'replaced ' .. whole(readers - before) or what) .. ' ' .. field
    for _, other in ipairs(others) do
      call('PUBLISH', prefix .. 'process:' .. string.match(other, '^[^.]*'), said)
    end
  end
  if name == '' or is_pattern(recipient) then return end
  if readers > 0 then
    if call('ZADD', prefix .. 'present:' .. recipient, 'NX', date, name) == 1 then
      note_presence(date, recipient, 'join', name)
    end
  elseif #others + gone == 0 and call('ZREM', prefix .. 'present:' .. recipient, name) == 1 then
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
  local fields = call('ZRANGEBYSCORE', prefix .. 'presence:' .. process, '-inf', '+inf', 'LIMIT', 0, TAKEN_OUT_AT_ONCE)
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
        for at, count in ipairs(call('ZMSCORE', prefix .. 'presence:' .. process, unpack(fields, first, last))) do
          counts[first + at - 1] = (counts[first + at - 1] or 0) + tonumber(count or 0)
        end
      end
    end
  end
  return counts
end

-- ARGV: the process, its name before or '', the date, 1 where all of its readers are reported with this, 1 where its
-- name is new, the date of events for an application, or '', then for each name of a reader: the field, what is
-- published to the others, or '', and how many readers there are. The results: 1 where the process is known, 1 where
-- there is more to do, how many events could not be published, and the events.
function verbs.attend()
  if not may_write() then return refused() end
  local process, former, date = ARGV[2], ARGV[3], tonumber(ARGV[4])
  if ARGV[6] ~= '1' and not call('ZSCORE', PROCESSES, process) then return answer(0, 1, 0) end
  call('ZADD', PROCESSES, now, process)
  for at = 8, #ARGV, 3 do count_presence(date, process, former, ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])) end
  if former ~= '' and ARGV[5] == '1' then
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
end

-- ARGV: a recipient. The results: how many readers it has, 1 where it has more members, then for each the name, since
-- when it is there, and how many readers it has.
function verbs.present()
  local recipient = ARGV[2]
  local key = prefix .. 'present:' .. recipient
  local found = call('ZRANGEBYSCORE', key, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, PRESENT_MEMBERS)
  local fields, rows = {}, {}
  for at = 1, #found, 2 do fields[#fields + 1] = recipient .. '\n' .. found[at] end
  for at, count in ipairs(count_members(fields)) do
    for _, word in ipairs({found[2 * at - 1], found[2 * at], count}) do rows[#rows + 1] = word end
  end
  local more = call('ZCARD', key) > PRESENT_MEMBERS
  return answer(present_readers(recipient), more and 1 or 0, unpack(rows))
end
