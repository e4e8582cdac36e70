-- For exits that send all on to a parent proxy: where they do not go, and what they say when the parent refuses them.
--
-- The parent resolves names, so an exit cannot look at their addresses. It refuses literals of the networks around a host,
-- names that only such networks know, and whatever is neither a plain address nor a public name: some resolvers take `127.1`,
-- `0x7f.1` and `2130706433` for addresses.

local FAILURE = "x-ep-exit-failure"
-- Special-use names (RFC 6761, 6762, 8375; `internal` by ICANN), and what home routers use.
local PRIVATE = { localhost = true, localdomain = true, ["local"] = true, internal = true, lan = true, home = true }

local function octet_of(text)
  local value = tonumber(text, 10)
  if value > 255 or (#text > 1 and text:sub(1, 1) == "0") then
    return nil
  end
  return value
end

-- The networks of xds/translate/forbidden_targets.py.
local function is_around(first, second)
  return first == 0
    or first == 10
    or first == 127
    or first >= 224
    or (first == 100 and second >= 64 and second <= 127)
    or (first == 169 and second == 254)
    or (first == 172 and second >= 16 and second <= 31)
    or (first == 192 and second == 168)
end

local function may_go_to_ipv4(host)
  local a, b, c, d = host:match("^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$")
  if a == nil then
    return false
  end
  local first, second = octet_of(a), octet_of(b)
  return first ~= nil and second ~= nil and octet_of(c) ~= nil and octet_of(d) ~= nil and not is_around(first, second)
end

local function may_go_to_name(host)
  local labels, last = 0, nil
  for label in (host:gsub("%.$", "") .. "."):gmatch("([^.]*)%.") do
    if not label:match("^[%w_-]+$") then
      return false
    end
    labels, last = labels + 1, label
  end
  if host:match("%.home%.arpa%.?$") then
    return false
  end
  return labels > 1 and last:match("^%a") ~= nil and not PRIVATE[last]
end

local function may_go_to(authority)
  local host = authority:lower():gsub(":%d*$", "")
  if #host > 255 then
    return false
  end
  if host:sub(1, 1) == "[" then
    -- 2000::/3, with all four digits of the first group: nothing else is written like that
    return host:match("^%[[23]%x%x%x:[%x:.]+%]$") ~= nil
  end
  return may_go_to_ipv4(host) or may_go_to_name(host)
end

function envoy_on_request(handle)
  if not may_go_to(handle:headers():get(":authority") or "") then
    -- the target's failure, not the exit's: no other exit would go there
    handle:respond({
      [":status"] = "503",
      [FAILURE] = "address_denied",
      ["proxy-status"] = 'exitplane-exit; error=destination_ip_prohibited; details="address_denied"',
      ["content-type"] = "text/plain",
    }, "exitplane: exits go neither to private networks nor to what is no public host name (address_denied)\n")
  end
end

-- A client would take the parent's 407 for the gateway's, and send it credentials of its own.
function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get(":status") ~= "407" then
    return
  end
  local length = handle:body(true):setBytes("exitplane: the parent proxy refuses the exit's credentials\n")
  headers:replace(":status", "503")
  headers:replace("content-length", length)
  headers:replace("content-type", "text/plain")
  headers:replace(FAILURE, "parent: credentials_refused")
  headers:replace("proxy-status", 'exitplane-exit; error=proxy_internal_error; details="parent: credentials_refused"')
  headers:remove("proxy-authenticate")
  headers:remove("transfer-encoding")
end
