-- How a process enters the log.

local RUNS = prefix .. 'runs'

-- ARGV: the run of Redis that the process has found; the epoch, run and last number that it heard of before; a name for
-- the log's life if it is new. Where a run ended before a number that some process has heard of in it, messages were
-- lost: the log then goes on far behind, and every reader gets a gap. Where that cannot be written, the process may
-- read, and attaches again as soon as it can. The results: the epoch, the run by the log's name, and the time.
function verbs.attach()
  local run, heard_epoch, heard_run, heard = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
  local known = call('HMGET', LOG, 'layout', 'run', 'epoch')
  local layout, log_run = known[1], known[2] or ''
  local time = call('TIME')
  time = time[1] .. '.' .. string.format('%06d', time[2])
  if not layout and (known[2] or known[3]) then layout = '1' end  -- the first had no number
  if layout and layout ~= LAYOUT then return {'layout', layout} end
  if not may_write() then
    if log.epoch == '' then return refused() end
    return answer(log.epoch, log_run, time)
  end
  if log.epoch == '' then
    log.epoch, log.is_changed, log_run = ARGV[6], true, ''
  end
  if not layout then call('HSET', LOG, 'layout', LAYOUT) end
  if string.match(log_run, '[^ ]*$') ~= run then
    -- With a number, because a failover may lead back to where one has led away from.
    if log_run ~= '' then
      call('ZADD', RUNS, log.sequence, log_run)
      -- Readers may have read numbers that this run does not know. What gets such a number again, they would miss.
      set_log('sequence', log.sequence + NUMBERS_RESERVED)
    end
    call('ZREMRANGEBYRANK', RUNS, 0, -RUNS_KNOWN - 1)
    set_log('runs', log.runs + 1)
    log_run = whole(log.runs) .. ' ' .. run
    call('HSET', LOG, 'run', log_run)
  end
  if heard_epoch == log.epoch then
    local ended = heard_run == log_run and log.sequence or tonumber(call('ZSCORE', RUNS, heard_run) or -1)
    if heard > ended then
      set_log('sequence', math.max(log.sequence, heard) + NUMBERS_RESERVED)
      set_log('torn', log.sequence)
      call('PUBLISH', prefix .. 'all', '')
    end
  end
  return answer(log.epoch, log_run, time)
end
