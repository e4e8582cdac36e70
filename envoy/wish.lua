-- Understands what a client asks for, and leaves nothing of the proxy's own in the request.
--
-- docs/routes.md says what may be wished and which source goes first. Understood wishes go on as `x-ep-…`, in lower case, which
-- the routes match on and remove. `LISTENER`, ahead of this text, holds what is wished where a client says nothing: `country`
-- or `pool`, and `countries` by the TLS server name.
--
-- A value that is too long, or holds what no name can hold, becomes one that nothing has ("?"), and is not dropped: then a
-- client would be sent elsewhere than it asked for.

local VALUE = {}
do
  local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  for index = 1, #alphabet do
    VALUE[alphabet:byte(index)] = index - 1
  end
end

local PADDING = ("="):byte()
local KEYS = { country = true, city = true, pool = true, session = true }
local TTLS = { 60, 300, 600, 1800, 3600, 86400 }
local LONGEST = 128
local LONGEST_HOST = 255
-- Of a tunnel or a request that changes nothing, a second attempt harms nobody, even if the first one was cut (Envoy reads
-- this header beside the routes' own conditions, and removes it).
local REPEATABLE = { CONNECT = true, GET = true, HEAD = true, OPTIONS = true }

-- Envoy's Lua can only encode base64. Returns nil for what is none.
local function decode_base64(text)
  local last = #text
  while text:byte(last) == PADDING do -- the pattern "=+$" would take seconds for a long row of them
    last = last - 1
  end
  local bytes, bits, held = {}, 0, 0
  for index = 1, last do
    local value = VALUE[text:byte(index)]
    if value == nil then
      return nil
    end
    held = held * 64 + value
    bits = bits + 6
    if bits >= 8 then
      bits = bits - 8
      local power = 2 ^ bits
      bytes[#bytes + 1] = string.char(math.floor(held / power))
      held = held % power
    end
  end
  return table.concat(bytes)
end

local function user_of(authorization)
  local encoded = authorization:match("^[Bb][Aa][Ss][Ii][Cc]%s+(%S+)%s*$")
  local credentials = encoded and decode_base64(encoded)
  return credentials and credentials:match("^([^:]*)")
end

-- A name as routes have it; nil for none.
local function name_of(text)
  if text == nil or text == "" then
    return nil
  end
  if #text > LONGEST then
    return "?"
  end
  return (text:lower():gsub("[^!-~]", "?"))
end

local function country_of(text)
  if text == nil or text == "" then
    return nil
  end
  if #text > LONGEST then
    return "?"
  end
  local country = text:lower():gsub("%W", "?") -- a user name may hold line breaks, which no header can
  return country == "uk" and "gb" or country
end

-- `New York` and `new_york` are `newyork`.
local function city_of(text)
  if text == nil or text == "" then
    return nil
  end
  local city = #text <= LONGEST and text:lower():gsub("[^a-z0-9]", "") or ""
  return city == "" and "?" or city
end

-- The base user name, and the first value of each key after it. That of `pool` may hold hyphens: it ends where another key
-- begins.
local function read_user(user)
  local words, starts, said = {}, {}, {}
  for start, word in user:gmatch("()([^-]+)") do
    words[#words + 1], starts[#starts + 1] = word, start
  end
  local function text_of(first, last)
    return user:sub(starts[first], starts[last] + #words[last] - 1)
  end
  local base, index = nil, 2
  while index < #words do
    local key = words[index]
    if KEYS[key] then
      base = base or text_of(1, index - 1)
      local last = index + 1
      while key == "pool" and last < #words and not KEYS[words[last + 1]] do
        last = last + 1
      end
      said[key] = said[key] or text_of(index + 1, last)
      index = last + 1
    else
      index = index + 1
    end
  end
  if #words == 0 then
    return nil, said
  end
  return base or text_of(1, #words), said
end

-- No client may choose what only Exitplane or Envoy itself says.
local function strip_internal(headers)
  local names = {}
  for name, _ in pairs(headers) do
    if name:sub(1, 5) == "x-ep-" or name:sub(1, 8) == "x-envoy-" then
      names[#names + 1] = name
    end
  end
  for _, name in ipairs(names) do
    headers:remove(name)
  end
end

-- Takes a header out of the request.
local function take(headers, name)
  local value = headers:get(name)
  if value ~= nil then
    headers:remove(name)
  end
  return value
end

-- Host and port of the target, and the host's labels reversed if it is a name.
local function target_of(authority, is_tunnel)
  if #authority > LONGEST_HOST + #"[]:65535" then
    return "?", "?", nil
  end
  local host, port = authority:match("^%[([^%]]*)%]:?(%d*)$")
  if host == nil then
    host, port = authority:match("^([^:]*):?(%d*)$")
  end
  if host == nil then
    return "?", "?", nil
  end
  port = #port <= 5 and (tonumber(port) or (port == "" and (is_tunnel and 443 or 80))) or "?"
  local last = #host
  while host:byte(last) == 46 do -- `example.com.` is `example.com`
    last = last - 1
  end
  host = host:sub(1, last)
  if last == 0 or last > LONGEST_HOST or ("." .. host):find("..", 1, true) then
    return "?", port, nil
  end
  host = host:lower():gsub("[^a-z0-9%.%-_:]", "?")
  if host:find(":", 1, true) or host:find("^%d+%.%d+%.%d+%.%d+$") then
    return host, port, nil
  end
  local labels = {}
  for label in host:gmatch("[^.]+") do
    table.insert(labels, 1, label)
  end
  return host, port, table.concat(labels, ".") .. "."
end

local minute, minute_text

-- Monday is 0.
local function time_of(seconds)
  local now = math.floor(seconds / 60)
  if now ~= minute then
    local day = tonumber(os.date("!%w", seconds))
    minute, minute_text = now, (day + 6) % 7 .. os.date("!-%H%M", seconds)
  end
  return minute_text
end

-- Whether a source says where, or part of it; what it says goes on.
local function says_where(headers, country, city, pool)
  pool = name_of(pool)
  if pool then
    headers:add("x-ep-pool", pool)
    return true
  end
  country, city = country_of(country), city_of(city)
  if country then
    headers:add("x-ep-country", country)
  end
  if city then
    headers:add("x-ep-city", city) -- alone it is refused
  end
  return country ~= nil or city ~= nil
end

local function say_where(handle, headers, said)
  local country, city, pool = take(headers, "exit-country"), take(headers, "exit-city"), take(headers, "exit-pool")
  if says_where(headers, country, city, pool) or says_where(headers, said.country, said.city, said.pool) then
    return
  end
  if next(LISTENER.countries) and says_where(headers, LISTENER.countries[handle:streamInfo():requestedServerName():lower()]) then
    return
  end
  says_where(headers, LISTENER.country, nil, LISTENER.pool)
end

-- For pools whose sessions end: the session with a number that changes once in each time to live, for every session at a moment
-- of its own, so that not all are moved at once. It is the same on all gateways whose clocks agree.
local function say_periods(metadata, session)
  local now, offset = os.time(), 0
  for index = 1, #session do
    offset = (offset * 31 + session:byte(index)) % 86400
  end
  for _, ttl in ipairs(TTLS) do
    metadata:set("exitplane.session", tostring(ttl), session .. "@" .. math.floor((now + offset) / ttl))
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  strip_internal(headers)
  local authorization = take(headers, "proxy-authorization")
  headers:remove("proxy-connection")
  local raw = authorization and user_of(authorization)
  local user, said = nil, {}
  if raw then
    user, said = read_user(raw)
  end
  say_where(handle, headers, said)
  local session = name_of(take(headers, "exit-session")) or name_of(said.session)
  if session then
    headers:add("x-ep-session", session)
    say_periods(handle:streamInfo():dynamicMetadata(), session)
  end
  user = name_of(user)
  if user then
    headers:add("x-ep-user", user)
  end
  local method, authority = headers:get(":method"), headers:get(":authority") or ""
  local host, port, domain = target_of(authority, method == "CONNECT")
  if method == "CONNECT" and host ~= "?" and not authority:find(":%d+$") then
    headers:replace(":authority", authority:gsub(":$", "") .. ":443") -- an exit would take it for 80
  end
  headers:add("x-ep-host", host)
  headers:add("x-ep-port", tostring(port))
  if domain then
    headers:add("x-ep-domain", domain)
  end
  headers:add("x-ep-time", time_of(os.time()))
  if REPEATABLE[method] then
    headers:add("x-envoy-retry-on", "reset")
  end
end
