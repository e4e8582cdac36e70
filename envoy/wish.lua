-- Reads which country a client asks for, and leaves nothing of the proxy's own in the request.
--
-- The wish stands in the header `exit-country` or in the user name of `proxy-authorization`, as NAME-country-CC among
-- other KEY-VALUE pairs (alice-country-de-session-x); the header wins, for it speaks of one request and the user name of
-- many. It goes on as `x-ep-country`, in lower case, which the routes match on and remove.

local VALUE = {}
do
  local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  for index = 1, #alphabet do
    VALUE[alphabet:byte(index)] = index - 1
  end
end

local PADDING = ("="):byte()

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

-- The value of `country` among the pairs that follow the base user name.
local function country_of(user)
  local words = {}
  for word in user:gmatch("[^-]+") do
    words[#words + 1] = word
  end
  for index = 2, #words - 1, 2 do
    if words[index] == "country" then
      return words[index + 1]
    end
  end
  return nil
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

function envoy_on_request(handle)
  local headers = handle:headers()
  strip_internal(headers)
  local wish = headers:get("exit-country")
  local authorization = headers:get("proxy-authorization")
  headers:remove("exit-country")
  headers:remove("proxy-authorization")
  headers:remove("proxy-connection")
  if wish == nil and authorization ~= nil then
    local user = user_of(authorization)
    wish = user and country_of(user)
  end
  if wish == nil then
    return
  end
  wish = wish:lower():gsub("%W", "?") -- a user name may hold line breaks, which no header can
  if wish == "uk" then
    wish = "gb"
  end
  headers:add("x-ep-country", wish)
end
