-- The log in Redis: its keys, what is counted of it, and how a run begins and writes. Read mailboxes.lua next.
--
-- A process asks Redis for something by a verb. Each verb is one script, and each run of it is all or nothing.
-- script.py puts the scripts together from these files.
--
-- Redis makes every function again in each run, which takes more time than most commands. Each variable that a function
-- uses of its surroundings takes time too. Therefore a script has only the functions that its verb uses, and a function
-- that is marked as rare is made when it is called. script.py puts the values of constants, which have names in
-- capitals, in their places. Constants without a definition in these files are bounds from cometd_lite/limits.
--
-- KEYS[1] is the prefix of all keys, with "counts" behind it. The other KEYS are the boxes (see below) of the
-- mailboxes that the verb is about. ARGV[1] is the packed time and the epoch. Each verb describes the rest of ARGV,
-- and the results behind those that answer() adds. LAYOUT grows with each change that processes of the version before
-- do not understand. These keys and channels begin with the prefix:
--   counts          string: what is counted over all mailboxes, see COUNTED, then the epoch
--   log             hash: the layout, the run of Redis in which the log goes on, and the last event, see presence.lua
--   order           stream: each message's number, and for whom it is; what readers of patterns look through
--   messages:NAME   list: a mailbox's messages, the oldest first
--   box:NAME        string: what a mailbox knows besides, see PACKED
--   expiries        sorted set: mailboxes by when their next message expires
--   reclaimable     sorted set: mailboxes of which something was read, longest ago first
--   lost, missed    sorted set and set: losses of mailboxes that are no more, and of patterns
--   acknowledged    sorted set: how far the readers of each pattern came back
--   leases:NAME     sorted set: the last lease of each message, as "number attempt secret"; see leases.lua
--   ending          sorted set: mailboxes by when the first of their leases ends
--   exhausted       sorted set: mailboxes with messages that were leased too often, by when to try to move them
--   runs            sorted set: where the log stood when a run of Redis was over
--   record:KIND:ID  string: a record; records:KIND are all of a kind by the time when they are forgotten
--   wake:NAME       channel: processes listen to it that have readers of the name or pattern
--   patterns        channel: processes listen to it that have a reader of any pattern
--   process:PROCESS channel: one process listens to it
--   all, told       channels: all processes listen to them
-- presence.lua lists its own keys.

local COUNTS = KEYS[1]
local LOG = prefix .. 'log'
local ORDER = prefix .. 'order'
local EXPIRIES = prefix .. 'expiries'
local RECLAIMABLE = prefix .. 'reclaimable'
local LOST = prefix .. 'lost'
local MISSED = prefix .. 'missed'
local ACKNOWLEDGED = prefix .. 'acknowledged'
local ENDING = prefix .. 'ending'
local EXHAUSTED = prefix .. 'exhausted'
local CHUNK = 100  -- entries that are fetched at once
local NEVER = 1e15

-- What is counted over all mailboxes: numbers, packed in this order.
--   sequence   the last number that was given
--   floor      losses up to here may be forgotten
--   torn       readers before it have a gap, because Redis has lost messages
--   memory     bytes of all messages and mailboxes
--   messages   how many there are
--   mailboxes  how many there are
--   turn       the last turn that was given to a mailbox that became reclaimable
--   runs       how many runs of Redis there were
--   leased     messages that workers hold
--   exhausted  messages that were leased too often
local COUNTED = '<dddddddddd'

local call, pack_struct, unpack_struct = redis.call, struct.pack, struct.unpack
local prefix = string.sub(COUNTS, 1, -7)
local now, epoch_at = unpack_struct('<d', ARGV[1])
local epoch = string.sub(ARGV[1], epoch_at)
local boxes, names = {}, {}  -- the mailboxes that this run has looked at, by their names; the names of KEYS
local stored  -- the values of KEYS

-- What is counted, and of this run:
--   counts      what is counted as it was read, packed
--   is_changed  whether it has changed
--   said        what Redis has said of writes: an error, 'ok' where it takes pushes, or nothing yet
--   writable    whether it takes them; nil until something was written
--   is_push     whether the first thing that is written is to take memory
local log

-- The values of more keys than Lua unpacks at once.
local function values_of_many()  -- rare
  local values = {}
  for first = 1, #KEYS, 1000 do
    for _, value in ipairs(call('MGET', unpack(KEYS, first, math.min(first + 999, #KEYS)))) do
      values[#values + 1] = value
    end
  end
  return values
end

do
  stored = #KEYS <= 1000 and call('MGET', unpack(KEYS)) or values_of_many()
  local counts = stored[1] or pack_struct(COUNTED, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
  local sequence, floor, torn, memory, messages, mailboxes, turn, runs, leased, exhausted, behind =
    unpack_struct(COUNTED, counts)
  log = {
    sequence = sequence, floor = floor, torn = torn, memory = memory, messages = messages, mailboxes = mailboxes,
    turn = turn, runs = runs, leased = leased, exhausted = exhausted, epoch = string.sub(counts, behind),
    counts = counts, said = '', is_push = VERB == 'append',
  }
  if log.epoch ~= epoch and VERB ~= 'attach' then return {'another log'} end
end

-- -- whether Redis takes what is written
--
-- Redis refuses writes while it cannot save (MISCONF), has too few replicas (NOREPLICAS) or follows another one
-- (READONLY). Without memory (OOM) it refuses what may take memory, unless the script has written something before:
-- so a DEL goes first, and only pushes are refused. While writes are refused, what is there is read all the same:
-- then write() does nothing, and what has changed is known to this run alone.

local function may_write()  -- rare
  if log.writable == nil then
    local done = log.is_push and redis.pcall('SET', COUNTS, log.counts) or redis.pcall('DEL', prefix .. 'none')
    local refusal = type(done) == 'table' and done.err
    log.writable = not refusal
    if refusal or log.is_push then log.said = refusal or 'ok' end
  end
  return log.writable
end

local function write(...)  -- rare
  if may_write() then return call(...) end
end

local function whole(number)  -- rare
  return string.format('%.0f', number)
end

local function set_log(field, value)  -- rare
  log[field] = value
  log.is_changed = true
end
