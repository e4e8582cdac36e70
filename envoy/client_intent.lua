-- Reads a client's intent from its request, and removes the headers that are meant for the proxy.
--
-- docs/routes.md lists the values and the precedence of their sources. The intent goes into `x-ep-…` headers, in lower case; routes
-- match on them and remove them. `LISTENER`, ahead of this text, holds the defaults for clients that ask for nothing: `country` or
-- `pool`, and `countries` by the TLS server name. If it `authenticates`, the user's name is not taken from the credentials here: they
-- are written as the filter that compares them has them, and that filter sets the name.
--
-- A value that is too long or has invalid characters becomes "?", which matches nothing. If it were dropped, the client would leave
-- from another place than it asked for.

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
local SHARDS = 32 -- USER_SHARDS in model/entities.py
local VALUE_MAX = 128
local HOST_MAX = 255
local CREDENTIALS_MAX = 2048 -- decoding takes a millisecond for each 8 KiB
-- Methods that are safe to retry even after a first attempt was cut. Envoy adds the conditions of `x-envoy-retry-on` to those of the
-- routes, and removes the header.
local RETRY_SAFE = { CONNECT = true, GET = true, HEAD = true, OPTIONS = true }

-- Decodes base64, which Envoy's Lua API can only encode. Returns nil for invalid text.
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

-- Returns the user name and the secret of Basic credentials. Without a colon all of it is the name.
local function credentials_of(authorization)
  local encoded = authorization:match("^[Bb][Aa][Ss][Ii][Cc]%s+(%S+)%s*$")
  local credentials = encoded and decode_base64(encoded)
  if credentials then
    return credentials:match("^([^:]*):?(.*)$")
  end
end

-- Returns the part that holds a user, as `user_shard` in model/entities.py does.
local function shard_of(user)
  local number = 0
  for index = 1, #user do
    number = (number * 31 + user:byte(index)) % 65521
  end
  return number % SHARDS
end

-- Writes the credentials for the filter that compares them. It knows one secret by one name, so that the first character of a
-- secret is part of the name.
local function set_credentials(handle, headers, user, secret)
  user = user or ""
  headers:add("x-ep-shard", tostring(shard_of(user)))
  if secret then
    local slot = secret:match("^%w") or "-"
    headers:add("proxy-authorization", "Basic " .. handle:base64Escape(user .. "/" .. slot .. ":" .. secret))
  end
end

-- Writes a name as routes have it; nil for an empty one.
local function name_of(text)
  if text == nil or text == "" then
    return nil
  end
  if #text > VALUE_MAX then
    return "?"
  end
  return (text:lower():gsub("[^!-~]", "?"))
end

local function country_of(text)
  if text == nil or text == "" then
    return nil
  end
  if #text > VALUE_MAX then
    return "?"
  end
  local country = text:lower():gsub("%W", "?") -- a user name may have line breaks, which a header cannot
  return country == "uk" and "gb" or country
end

-- `New York` and `new_york` become `newyork`.
local function city_of(text)
  if text == nil or text == "" then
    return nil
  end
  local city = #text <= VALUE_MAX and text:lower():gsub("[^a-z0-9]", "") or ""
  return city == "" and "?" or city
end

-- Returns the base user name and the first value of each key after it. The value of `pool` may have hyphens: it ends at the next
-- key.
local function parse_user_name(user)
  local words, starts, options = {}, {}, {}
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
      options[key] = options[key] or text_of(index + 1, last)
      index = last + 1
    else
      index = index + 1
    end
  end
  if #words == 0 then
    return nil, options
  end
  return base or text_of(1, #words), options
end

-- Removes the headers that only Exitplane and Envoy may set.
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

-- Removes a header and returns its value.
local function take(headers, name)
  local value = headers:get(name)
  if value ~= nil then
    headers:remove(name)
  end
  return value
end

-- Returns whether all four parts are numbers up to 255 without leading zeros.
local function is_ipv4(host)
  local octets = { host:match("^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$") }
  for _, octet in ipairs(octets) do
    if tonumber(octet, 10) > 255 or octet:find("^0%d") then
      return false
    end
  end
  return #octets == 4
end

-- Returns whether a host is a number in its last part, as no public name is: some resolvers read `127.1`, `0x7f.1` and `0177.0.0.1`
-- as addresses.
local function ends_in_number(host)
  local last = host:match("[^.]*$")
  return last:find("^%d+$") ~= nil or last:find("^0x%x*$") ~= nil
end

-- Returns host and port of the target, and the host's labels reversed if it is a name.
local function target_of(authority, is_tunnel)
  if #authority > HOST_MAX + #"[]:65535" then
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
  local length, last = #host, #host
  while host:byte(last) == 46 do -- `example.com.` is `example.com`
    last = last - 1
  end
  host = host:sub(1, last)
  if last == 0 or length > HOST_MAX or ("." .. host):find("..", 1, true) then
    return "?", port, nil
  end
  host = host:lower():gsub("[^a-z0-9%.%-_:]", "?")
  if host:find(":", 1, true) or is_ipv4(host) then
    return host, port, nil
  end
  if ends_in_number(host) then -- a route for its network would not match it
    return "?", port, nil
  end
  local labels = {}
  for label in host:gmatch("[^.]+") do
    table.insert(labels, 1, label)
  end
  return host, port, table.concat(labels, ".") .. "."
end

local minute, minute_text

-- Writes day of the week (0: Monday) and time of day in UTC.
local function time_of(seconds)
  local now = math.floor(seconds / 60)
  if now ~= minute then
    local day = tonumber(os.date("!%w", seconds))
    minute, minute_text = now, (day + 6) % 7 .. os.date("!-%H%M", seconds)
  end
  return minute_text
end

-- Adds the headers of a source's location. Returns whether the source has one, or part of one.
local function add_location(headers, country, city, pool)
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
    headers:add("x-ep-city", city) -- without a country it is rejected
  end
  return country ~= nil or city ~= nil
end

local function choose_location(handle, headers, options)
  local country, city, pool = take(headers, "exit-country"), take(headers, "exit-city"), take(headers, "exit-pool")
  if add_location(headers, country, city, pool) or add_location(headers, options.country, options.city, options.pool) then
    return
  end
  if next(LISTENER.countries) and add_location(headers, LISTENER.countries[handle:streamInfo():requestedServerName():lower()]) then
    return
  end
  add_location(headers, LISTENER.country, nil, LISTENER.pool)
end

-- Stores, for pools with a session TTL, the session with a number that changes once per TTL. Each session has its own offset, so
-- that they do not all move at once. Gateways with equal clocks compute the same number.
local function set_session_periods(metadata, session)
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
  if authorization and #authorization > CREDENTIALS_MAX then
    handle:respond({ [":status"] = "431", ["content-type"] = "text/plain" }, "exitplane: the proxy credentials are too long\n")
    return
  end
  local raw, secret
  if authorization then
    raw, secret = credentials_of(authorization)
  end
  local user, options = nil, {}
  if raw then
    user, options = parse_user_name(raw)
  end
  choose_location(handle, headers, options)
  local session = name_of(take(headers, "exit-session")) or name_of(options.session)
  if session then
    headers:add("x-ep-session", session)
    set_session_periods(handle:streamInfo():dynamicMetadata(), session)
  end
  user = name_of(user)
  if LISTENER.authenticates then
    set_credentials(handle, headers, user, secret)
  elseif user then
    headers:add("x-ep-user", user)
  end
  local method, authority = headers:get(":method"), headers:get(":authority") or ""
  local host, port, domain = target_of(authority, method == "CONNECT")
  if method == "CONNECT" and host ~= "?" and not authority:find(":%d+$") then
    headers:replace(":authority", authority:gsub(":$", "") .. ":443") -- an exit would default to port 80
  end
  headers:add("x-ep-host", host)
  headers:add("x-ep-port", tostring(port))
  if domain then
    headers:add("x-ep-domain", domain)
  end
  headers:add("x-ep-time", time_of(os.time()))
  if RETRY_SAFE[method] then
    headers:add("x-envoy-retry-on", "reset")
  end
end
