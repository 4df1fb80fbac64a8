-- The fleet's table at one server: which host may hold how many connections there.
--
-- KEYS[1] is one hash, so that it is lost as a whole or not at all. It has no time to live: a server that is short of
-- memory evicts keys with one first. All records are text, so that HGETALL explains itself:
--
--   !      run table learning used budget slack level headroom short ticked due made holder duty audited operator hosts
--          others ripe marked
--   NAME   grant seq end demand floor budget slack flags host        a lease
--   xNAME  marked_since, and the same                                a lease that is marked: its gate is shut
--
-- `short` is 2 while a host holds less than its fair part, 3 if moreover all floors together are more than there is, 1 while
-- a host lacks headroom because others hold it, else 0.
--
-- What a later version adds stands behind these, and is kept. Times are milliseconds of this server's clock.
-- ARGV[1] is what to do; its arguments are listed at each function. A rule's letter and number: ARCHITECTURE.md.

local DELTA = 1000          -- a lease is only marked when it ended this long ago (F4)
local UNWANTED = 60000      -- ... and this long ago, if no host wants its permits
local TICK, SOON = 1000, 100 -- between two passes over all records; while a host is short
local AT_ONCE = 1000        -- above this many hosts the pass is made less often
local DUTY = 5000           -- how long a host has the duty that did not renew since
local AUDIT = 30000         -- between two audits
local FIRST = 2             -- what a host gets that joins
local BEYOND = 8            -- a host has as much again as it uses, and at least so many, beyond that: more takes it one
                            -- question, and new hosts would have to wait until it gives them back

local key = KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- ---- records -----------------------------------------------------------------------------------------------------

local HEAD = '^(%S+) (%S+) (%d) (%d+) (%d+) (%d+) (%d+) (%d+) (%d) (%d+) (%d+) (%d+) (%S+) (%d+) (%d+) (%S+) (%d+) '
  .. '(%S+) (%d+) (%d+)(.*)$'

local function read_head(text)
  if not text then return nil end
  local run, number, learning, used, budget, slack, level, headroom, short, ticked, due, made, holder, duty, audited,
    operator, hosts, others, ripe, marked, rest = string.match(text, HEAD)
  if not run then return nil end
  return { -- in one go: a table that grows is made again at each doubling
    run = run, number = number, learning = learning == '1', used = tonumber(used), budget = tonumber(budget),
    slack = tonumber(slack), level = tonumber(level), headroom = tonumber(headroom), short = tonumber(short),
    ticked = tonumber(ticked), due = tonumber(due), made = tonumber(made), holder = holder, duty = tonumber(duty),
    audited = tonumber(audited), operator = operator, hosts = tonumber(hosts), others = others, ripe = tonumber(ripe),
    marked = tonumber(marked), rest = rest,
  }
end

local function head_text(t)
  return string.format('%s %s %d %.0f %.0f %.0f %.0f %.0f %d %.0f %.0f %.0f %s %.0f %.0f %s %.0f %s %.0f %.0f%s',
    t.run, t.number, t.learning and 1 or 0, t.used, t.budget, t.slack, t.level, t.headroom, t.short,
    t.ticked, t.due, t.made, t.holder, t.duty, t.audited, t.operator, t.hosts, t.others, t.ripe, t.marked, t.rest)
end

local LEASE = '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)'

local RENEWED = '^(%d+) (%d+) %S+ %S+ %S+ %S+ %S+ %S+ %S+(.*)$'

local function read_lease(text)
  local grant, seq, ends, demand, floor, budget, slack = string.match(text, LEASE)
  return tonumber(grant), tonumber(seq), tonumber(ends), tonumber(demand), tonumber(floor), tonumber(budget),
    tonumber(slack)
end

local function is_marked(field) return string.byte(field) == 120 end -- x

-- F4: its end has passed, and a host wants its permits (or will, some day).
local function is_ripe(ends, short) return now > ends + (short >= 2 and DELTA or UNWANTED) end

-- F4. A user who may not do both must not lose the lease: what a script has done is not undone when it fails.
local function mark(name, text)
  redis.call('HSET', key, 'x' .. name, string.format('%.0f %s', now, text))
  redis.call('HDEL', key, name)
end

-- ---- the pass over all records -----------------------------------------------------------------------------------

local function kept_back(room) return math.max(1, math.floor(room / 10)) end

-- What a host with so much demand may have beyond it.
local function beyond(t, demand) return demand == 0 and 0 or math.min(t.headroom, math.max(BEYOND, demand)) end

-- What a host with so much demand is to have before any other one has more.
local function fair_part(t, demand, floor) return math.min(demand, t.short == 3 and t.level or math.max(t.level, floor)) end

-- The exact sum, the budget in force (F9), the fair level, the headroom, and whose end has passed. O(hosts). `renewing`
-- has said something newer than its record.
local function tick(t, renewing)
  -- How far demands that are more than there is can be met evenly: the level at which what is left is used up (max-min).
  local function fair_level(demands, count, room)
    table.sort(demands)
    local left = room
    for i = 1, count do
      local share = math.floor(left / (count - i + 1))
      if demands[i] > share then return math.max(1, share) end
      left = left - demands[i]
    end
    return math.max(1, room)
  end
  -- Nobody was heard for a whole lease: it was the server that stood still, or its clock jumped. Who comes first must
  -- not fence all others, whose requests are on their way.
  local stood_still = t.ticked > 0 and now - t.ticked >= renewing.lease
  local all = redis.call('HGETALL', key)
  local used, hosts, wanted, floors, active, ripe, marked = 0, 0, 0, 0, 0, 0, 0
  local least, most = nil, 0
  local demands, grants, least_of, ended = {}, {}, {}, {}
  for i = 1, #all, 2 do
    local field, text = all[i], all[i + 1]
    if field == '!' then -- not a lease
    elseif is_marked(field) then
      used = used + tonumber(string.match(text, '^%d+ (%d+)'))
      marked = marked + 1
    else
      local grant, _, ends, demand, floor, budget, slack = read_lease(text)
      if field == renewing.name then
        grant, ends, demand, floor, budget, slack = renewing.word, now, renewing.demand, renewing.floor, renewing.budget,
          renewing.slack
      end
      if stood_still and ends < now then
        ends = now
        redis.call('HSET', key, field, (string.gsub(text, '^(%d+ %d+) %d+', string.format('%%1 %.0f', now))))
      end
      used = used + grant
      if now <= ends + DELTA then
        hosts = hosts + 1
        demands[hosts], grants[hosts] = demand, grant
        wanted = wanted + demand
        floors, least_of[hosts] = floors + math.min(demand, floor), floor
        if demand > 0 then active = active + 1 end
        if not least or budget < least then least = budget end
        if slack > most then most = slack end
      else
        ended[#ended + 1] = ends
      end
    end
  end
  if t.operator ~= '-' then least = tonumber(t.operator) end
  t.budget, t.slack = least or t.budget, most
  local room = math.max(0, t.budget - t.slack)
  t.level, t.headroom = math.max(1, room), 0
  if wanted > room then
    local sorted = {}
    for i = 1, hosts do sorted[i] = demands[i] end
    t.level = fair_level(sorted, hosts, room)
    local even = 0 -- what even parts leave over: one more each, for the hosts that ask first
    for i = 1, hosts do even = even + math.min(demands[i], t.level) end
    if even < room then t.headroom = 1 end
  elseif active > 0 then -- a tenth is kept for growth and for newcomers
    t.headroom = math.max(0, math.floor((room - kept_back(room) - wanted) / active))
  end
  t.short = floors > room and 3 or (wanted > room or used > room) and 2 or 0
  for i = 1, hosts do
    if grants[i] < fair_part(t, demands[i], least_of[i]) then
      t.short = math.max(t.short, 2)
      if wanted > room then t.headroom = 0 end -- one more than even for some, only once each has its even part
    elseif 2 * (grants[i] - demands[i]) < beyond(t, demands[i]) and t.short == 0 then t.short = 1 end
  end
  for i = 1, #ended do
    if is_ripe(ended[i], t.short) then ripe = ripe + 1 end
  end
  t.used, t.hosts, t.ripe, t.marked = used, hosts, ripe, marked
  t.ticked, t.due = now, now + TICK * math.max(1, math.floor(hosts / AT_ONCE))
end

-- In a fleet in which no host may list clients, if its hosts ask for that: a lease that is ripe is marked, one that was
-- marked so long ago is free, and a table that was made so long before all leases of earlier ones had ended has nothing
-- to be counted. How many were freed.
local function without_proof(t, renewing, unproven)
  local all, freed = redis.call('HGETALL', key), 0
  for i = 1, #all, 2 do
    local ends, flag = string.match(all[i + 1], '^%d+ %d+ (%d+) %d+ %d+ %d+ %d+ (%S+)')
    if all[i] ~= '!' and all[i] ~= renewing.name and not is_marked(all[i]) and flag == 'able'
      and now <= ends + DELTA then return 0 end
  end
  if t.learning and now > t.made + renewing.lease + DELTA + unproven then t.learning = false end
  for i = 1, #all, 2 do
    local field, text = all[i], all[i + 1]
    if field == '!' or field == renewing.name then -- not another's lease
    elseif is_marked(field) then
      if now > string.match(text, '^%d+') + unproven then
        redis.call('HDEL', key, field)
        freed = freed + 1
      end
    else
      local _, _, ends = read_lease(text)
      if not t.learning and is_ripe(ends, t.short) then mark(field, text) end
    end
  end
  return freed
end

-- ---- what a host asks --------------------------------------------------------------------------------------------

-- F8: a new table raises no grant before a census. It is written at once: the request that found none may
-- be refused, and the next one must meet the same table.
local function make(run, name, seq, budget, slack)
  local t = {
    run = run, number = string.format('%.0f.%s.%.0f', now, string.sub(name, 1, 4), seq), learning = true, used = 0,
    budget = budget, slack = slack, level = budget, headroom = 0, short = 0, ticked = 0, due = 0, made = now,
    holder = '-', duty = 0, audited = now, operator = '-', hosts = 0, others = '-', ripe = 0, marked = 0, rest = '',
  }
  redis.call('DEL', key)
  redis.call('HSET', key, '!', head_text(t))
  return t
end

-- A host's fair part, and what it may have beyond.
local function parts(t, demand, floor)
  local fair = fair_part(t, demand, floor)
  if demand > fair then return fair, math.min(demand, fair + t.headroom) end
  local scarce = t.level < t.budget - t.slack
  return fair, fair + (scarce and 0 or beyond(t, demand))
end

-- How much this host may hold from now on: never less than its word, and more only if all grants fit (F1).
local function granted(t, word, demand, joins, fair, target)
  local room = math.max(0, t.budget - t.slack) - t.used
  if t.learning or room <= 0 then return word end
  if joins then return word + math.max(0, math.min(demand, FIRST, room)) end
  if word >= target then return word end
  local more = math.min(math.max(0, fair - word), room)
  local kept = demand > fair and 0 or kept_back(t.budget - t.slack)
  return word + more + math.max(0, math.min(target - word - more, room - more - kept))
end

-- Whether others need what a host holds beyond its part: one is short, or has much less beyond than this one. Or what is
-- kept back for growth and newcomers is half used up: a host that needed it may not need it any more.
local function is_wanted(t, grant, target)
  if t.short >= 2 or (t.short == 1 and target * 2 < grant) then return true end
  local room = math.max(0, t.budget - t.slack)
  return not t.learning and 2 * (room - t.used) < kept_back(room)
end

-- What the host does for all, if it has the duty.
local function duty_of(t, name, able)
  if not able or not (t.holder == name or t.holder == '-' or now >= t.duty) then return '' end
  t.holder, t.duty = name, now + DUTY
  if t.learning then return 'census' end
  if t.ripe + t.marked > 0 then return 'fence' end
  if now >= t.audited + AUDIT then return 'audit' end
  return ''
end

-- renew RUN TABLE NAME SEQ WORD DEMAND FLOOR BUDGET SLACK LEASE UNTIL ABLE HOST UNPROVEN
-- TABLE `-`: NAME is new and joins. UNTIL: the end that NAME was last told. UNPROVEN: 0, or after how long a marked lease
-- is free though no host may list clients.
-- -> ok     table now grant target end wanted budget slack hosts others duty learning unproven
--    table  table now         the request speaks of another table: ask again, as a claim
--    old    table now seq     it is not newer than the last one that was executed
--    fenced table now         NAME is over: join under another one, with nothing
local function renew(run, number, name, seq, word, demand, floor, budget, slack, lease, ends, able, host, unproven)
  seq, word, demand, floor = tonumber(seq), tonumber(word), tonumber(demand), tonumber(floor)
  budget, slack, lease, ends = tonumber(budget), tonumber(slack), tonumber(lease), tonumber(ends)
  local got = redis.call('HMGET', key, '!', name, 'x' .. name)
  local t = read_head(got[1])
  if not t or t.run ~= run then
    t = make(run, name, seq, budget, slack)
    got[2], got[3] = false, false
  end
  local was_used, was_budget, was_slack, was_short, was_due, was_duty =
    t.used, t.budget, t.slack, t.short, t.due, t.duty
  local joins, rest = number == '-', ''
  if got[3] then return {'fenced', t.number, now} end -- F4: a mark is final
  if got[2] then
    local grant, last
    grant, last, rest = string.match(got[2], RENEWED)
    grant, last = tonumber(grant), tonumber(last)
    if not joins and number ~= t.number then return {'table', t.number, now} end
    if joins or seq <= last then return {'old', t.number, now, last} end -- F3: a name joins once
    -- A word is larger than its grant if another table gave it, at a process that this name led to meanwhile. It is a
    -- claim then (F8). If it does not fit, this name is over; what it has here is within the grant, by its gate.
    if word > grant and t.used - grant + word > math.max(0, t.budget - t.slack) then
      mark(name, got[2])
      t.marked = t.marked + 1
      redis.call('HSET', key, '!', head_text(t))
      return {'fenced', t.number, now}
    end
    t.used = t.used - grant + word
  elseif joins then
    if word > 0 then return {'fenced', t.number, now} end -- F7: a host that joins has nothing
    t.hosts = t.hosts + 1
  else -- a claim (F8): good while the table learns, the lease has not ended, and it fits
    if number ~= t.number then return {'table', t.number, now} end
    local fits = t.used + word <= math.max(0, t.budget - t.slack)
    if not t.learning or now >= ends or not fits then return {'fenced', t.number, now} end
    t.used = t.used + word
    t.hosts = t.hosts + 1
  end
  if t.operator == '-' and budget < t.budget then t.budget = budget end -- F9, until the next pass finds the least
  if slack > t.slack then t.slack = slack end
  local freed = 0
  if now >= t.due then
    local renewing = {name = name, word = word, demand = demand, floor = floor, budget = budget, slack = slack,
      lease = lease}
    if able ~= '1' and unproven and unproven ~= '0' then freed = without_proof(t, renewing, tonumber(unproven)) end
    -- The record has to be there for the pass, which takes the newer numbers from the request.
    if not got[2] then redis.call('HSET', key, name, '0 0 0 0 0 0 0') end
    tick(t, renewing)
  end
  local fair, target = parts(t, demand, floor)
  local grant = granted(t, word, demand, joins, fair, target)
  t.used = t.used + grant - word
  if grant < fair and not t.learning then
    t.short = math.max(t.short, 2)
    t.due = math.min(t.due, now + SOON)
  end
  local duty = duty_of(t, name, able == '1')
  -- ARGV: numbers that are written as they came.
  local record = string.format('%d %s %.0f %s %s %s %s %s %s%s', grant, ARGV[5], now + lease, ARGV[7], ARGV[8], ARGV[9],
    ARGV[10], able == '1' and 'able' or '-', host, rest)
  local same = got[2] and t.used == was_used and t.budget == was_budget and t.slack == was_slack
    and t.short == was_short and t.due == was_due and t.duty == was_duty
  if same then redis.call('HSET', key, name, record) -- most renewals change nothing else
  else redis.call('HSET', key, '!', head_text(t), name, record) end
  local wanted = grant > target and is_wanted(t, grant, target) and 1 or 0
  return {'ok', t.number, now, grant, target, now + lease, wanted, t.budget, t.slack, t.hosts, t.others, duty,
    t.learning and 1 or 0, freed}
end

-- Each call makes the functions that it passes by, so the question that is asked most is answered before the others'.
if ARGV[1] == 'renew' then
  return renew(ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12],
    ARGV[13], ARGV[14], ARGV[15])
end

-- F8: the table of this server process; nil if there is none, or another process's.
local function table_of(run)
  local t = read_head(redis.call('HGET', key, '!'))
  if t and t.run == run then return t end
  return nil
end

-- The same, if the question speaks of this very table; else what it is answered with.
local function spoken_of(run, number)
  local t = table_of(run)
  if not t then return nil, {'none'} end
  if number ~= t.number then return nil, {'table', t.number, now} end
  return t
end

-- leave RUN TABLE NAME: in good order, when nothing of NAME is open but the connection that says so.
local function leave(run, number, name)
  local t, refusal = spoken_of(run, number)
  if refusal then return refusal end
  local text = redis.call('HGET', key, name)
  if not text then return {'ok', 0} end
  t.used = math.max(0, t.used - read_lease(text))
  t.hosts = math.max(0, t.hosts - 1)
  if t.holder == name then t.holder, t.duty = '-', 0 end
  redis.call('HDEL', key, name)
  redis.call('HSET', key, '!', head_text(t))
  return {'ok', 1}
end

-- ---- what the host with the duty asks (F6) -----------------------------------------------------------------------

-- survey RUN: marks what is ripe, and says what there is. -> ok table now learning made [live] [marked]
local function survey(run)
  local t = table_of(run)
  if not t then return {'none'} end
  local all, live, marked = redis.call('HGETALL', key), {}, {}
  for i = 1, #all, 2 do
    local field, text = all[i], all[i + 1]
    if field == '!' then -- not a lease
    elseif is_marked(field) then
      marked[#marked + 1] = string.sub(field, 2)
    else
      local _, _, ends = read_lease(text)
      if not t.learning and is_ripe(ends, t.short) then
        mark(field, text)
        t.marked = t.marked + 1
        marked[#marked + 1] = field
      else
        live[#live + 1] = field
      end
    end
  end
  t.ripe = 0
  redis.call('HSET', key, '!', head_text(t))
  return {'ok', t.number, now, t.learning and 1 or 0, t.made, live, marked}
end

-- condemned RUN TABLE LEASE NAME...: which of these names, seen in a list, must have no connection: the marked, and those
-- that are not in the table. While it learns, the latter may still be claimed until all leases from before have ended.
local function condemned(run, number, lease, names)
  local t, refusal = spoken_of(run, number)
  if refusal then return refusal end
  local may_claim = t.learning and now <= t.made + tonumber(lease) + DELTA
  local found = {}
  for i = 1, #names do
    local got = redis.call('HMGET', key, names[i], 'x' .. names[i])
    if got[2] or (not got[1] and not may_claim) then found[#found + 1] = names[i] end
  end
  return {'ok', found}
end

-- proven RUN TABLE NAME...: a list that was asked for after they were marked shows nothing of them. -> ok [grant of each]
local function proven(run, number, names)
  local t, refusal = spoken_of(run, number)
  if refusal then return refusal end
  local freed = {}
  for i = 1, #names do
    local text = redis.call('HGET', key, 'x' .. names[i])
    local grant = text and tonumber(string.match(text, '^%d+ (%d+)')) or 0
    if text then
      redis.call('HDEL', key, 'x' .. names[i])
      t.used = math.max(0, t.used - grant)
      t.marked = math.max(0, t.marked - 1)
    end
    freed[i] = grant
  end
  redis.call('HSET', key, '!', head_text(t))
  return {'ok', freed}
end

-- census RUN TABLE NAME...: a list that was asked for after the table was made shows these names and nothing unnamed.
-- If all of them are in the table, it may raise. -> ok 1, or ok 0
local function census(run, number, names)
  local t, refusal = spoken_of(run, number)
  if refusal then return refusal end
  for i = 1, #names do
    local got = redis.call('HMGET', key, names[i], 'x' .. names[i])
    if not got[1] and not got[2] then return {'ok', 0} end
  end
  t.learning = false
  t.due = now
  redis.call('HSET', key, '!', head_text(t))
  return {'ok', 1}
end

-- audited RUN TABLE OTHERS: a list was compared with the table; so many clients are not of this fleet.
local function audited(run, number, others)
  local t, refusal = spoken_of(run, number)
  if refusal then return refusal end
  t.audited, t.others = now, others
  redis.call('HSET', key, '!', head_text(t))
  return {'ok', 1}
end

-- ---- what the operator asks --------------------------------------------------------------------------------------

-- budget RUN N: the operator's number goes before what hosts state (F9); `-`: no longer.
local function budget(run, number)
  local t = table_of(run)
  if not t then return {'none'} end
  t.operator, t.due = number, now
  if number ~= '-' then t.budget = tonumber(number) end
  redis.call('HSET', key, '!', head_text(t))
  return {'ok', 1}
end

-- fence RUN NAME: mark this lease now, wanted or not; only after its end (F4). -> ok 1, ok 0: not in the table or marked
-- before, ok -1 end: it has not ended
local function fence(run, name)
  local t = table_of(run)
  if not t then return {'none'} end
  local text = redis.call('HGET', key, name)
  if not text then return {'ok', 0} end
  local _, _, ends = read_lease(text)
  if t.learning or now <= ends + DELTA then return {'ok', -1, ends} end
  mark(name, text)
  t.marked = t.marked + 1
  redis.call('HSET', key, '!', head_text(t))
  return {'ok', 1}
end

-- ------------------------------------------------------------------------------------------------------------------

local function names_from(first)
  local names = {}
  for i = first, #ARGV do names[#names + 1] = ARGV[i] end
  return names
end

local what = ARGV[1]
if what == 'leave' then return leave(ARGV[2], ARGV[3], ARGV[4])
elseif what == 'survey' then return survey(ARGV[2])
elseif what == 'condemned' then return condemned(ARGV[2], ARGV[3], ARGV[4], names_from(5))
elseif what == 'proven' then return proven(ARGV[2], ARGV[3], names_from(4))
elseif what == 'census' then return census(ARGV[2], ARGV[3], names_from(4))
elseif what == 'audited' then return audited(ARGV[2], ARGV[3], ARGV[4])
elseif what == 'budget' then return budget(ARGV[2], ARGV[3])
elseif what == 'fence' then return fence(ARGV[2], ARGV[3])
end
return redis.error_reply('ERR unknown word: ' .. tostring(what))
