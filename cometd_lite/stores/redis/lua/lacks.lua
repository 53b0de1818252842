-- Return the rules that the user lacks, by running each command where it changes nothing: of a command in a script
-- Redis says only that it is forbidden. This is a script of its own.

local prefix = string.sub(KEYS[1], 1, -7)
local none = prefix .. 'none'
local lacks, seen = {}, {}

local function lack(rule)
  if not seen[rule] then lacks[#lacks + 1] = rule end
  seen[rule] = true
end

for _, words in ipairs({
  {'DEL', none}, {'EXISTS', none}, {'GET', none}, {'HMGET', none, 'f'}, {'MGET', none}, {'RPUSH', none, 'v'},
  {'LINDEX', none, 0}, {'LRANGE', none, 0, 0}, {'LREM', none, 0, 'v'}, {'LSET', none, 0, 'v'}, {'LTRIM', none, 0, 0},
  {'DEL', none}, {'HSET', none, 'f', 'v'}, {'DEL', none}, {'MSET', none, 'v'}, {'DEL', none}, {'PUBLISH', none, ''},
  {'PUBSUB', 'NUMSUB', none}, {'SADD', none, 'm'}, {'SISMEMBER', none, 'm'}, {'SREM', none, 'm'},
  {'SET', none, 'v', 'XX'}, {'TIME'}, {'XADD', none, 'NOMKSTREAM', '*', 'f', 'v'}, {'XDEL', none, '1-0'},
  {'XRANGE', none, '-', '+'}, {'XREVRANGE', none, '+', '-'}, {'ZADD', none, 'XX', 1, 'm'}, {'ZCARD', none},
  {'ZMSCORE', none, 'm'}, {'ZPOPMIN', none}, {'ZRANGEBYSCORE', none, 1, 2}, {'ZREM', none, 'm'},
  {'ZREMRANGEBYRANK', none, 1, 2}, {'ZREMRANGEBYSCORE', none, 1, 2}, {'ZSCORE', none, 'm'},
}) do
  local done = redis.pcall(unpack(words))
  local err = type(done) == 'table' and done.err or ''
  -- Each version of Redis has other words for it.
  if string.find(err, 'permission') or string.find(err, 'NOPERM') or string.find(err, 'user executing') then
    if string.find(err, ' key') then lack('~' .. prefix .. '*')
    elseif string.find(err, 'channel') then lack('&' .. prefix .. '*')
    else lack('+' .. string.lower(words[1])) end
  end
end
return table.concat(lacks, ' ')
