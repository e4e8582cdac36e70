-- For exits with a parent proxy: denies forbidden targets, and replaces the parent's 407.
--
-- The parent resolves names, so the exit cannot check their addresses. It denies address literals of private networks, names that
-- only private networks resolve, and hosts that are neither a plain address nor a public name: some resolvers read `127.1`,
-- `0x7f.1` and `2130706433` as addresses.

local FAILURE = "x-ep-exit-failure"
-- Special-use names (RFC 6761, 6762, 8375; `internal` by ICANN), and the names that home routers use.
local PRIVATE = { localhost = true, localdomain = true, ["local"] = true, internal = true, lan = true, home = true }

local function octet_of(text)
  local value = tonumber(text, 10)
  if value > 255 or (#text > 1 and text:sub(1, 1) == "0") then
    return nil
  end
  return value
end

-- The same networks as in xds/translate/forbidden_targets.py.
local function is_private(first, second, third, fourth)
  return first == 0
    or first == 10
    or first == 127
    or first >= 224
    or (first == 100 and second >= 64 and second <= 127)
    or (first == 168 and second == 63 and third == 129 and fourth == 16)
    or (first == 169 and second == 254)
    or (first == 172 and second >= 16 and second <= 31)
    or (first == 192 and (second == 168 or (second == 0 and third == 0)))
end

local function is_public_ipv4(host)
  local a, b, c, d = host:match("^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$")
  if a == nil then
    return false
  end
  local first, second, third, fourth = octet_of(a), octet_of(b), octet_of(c), octet_of(d)
  return first and second and third and fourth and not is_private(first, second, third, fourth)
end

local function is_public_name(host)
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

local function is_public(authority)
  local host = authority:lower():gsub(":%d*$", "")
  if #host > 255 then
    return false
  end
  if host:sub(1, 1) == "[" then
    -- 2000::/3 with all four digits of the first group; no other network is written like that. 2001::/32 and 2002::/16 contain
    -- IPv4 addresses.
    return host:match("^%[[23]%x%x%x:[%x:.]+%]$") ~= nil and not host:match("^%[2001:0*:") and not host:match("^%[2002:")
  end
  return is_public_ipv4(host) or is_public_name(host)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  handle:streamInfo():dynamicMetadata():set("exitplane", "tunnel", headers:get(":method") == "CONNECT")
  if not is_public(headers:get(":authority") or "") then
    -- a failure of the target, not of the exit: every other exit would deny it too
    handle:respond({
      [":status"] = "503",
      [FAILURE] = "address_denied",
      ["proxy-status"] = 'exitplane-exit; error=destination_ip_prohibited; details="address_denied"',
      ["content-type"] = "text/plain",
    }, "exitplane: exits go neither to private networks nor to what is no public host name (address_denied)\n")
  end
end

-- A client would read a 407 as the gateway's, and send its own credentials. Only the parent answers a CONNECT, so another exit may
-- try it. A 407 for plain HTTP may be the target's, which would have the request repeated.
function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get(":status") ~= "407" then
    return
  end
  local length = handle:body(true):setBytes("exitplane: the parent proxy refuses the exit's credentials\n")
  headers:replace(":status", "503")
  headers:replace("content-length", length)
  headers:replace("content-type", "text/plain")
  if handle:streamInfo():dynamicMetadata():get("exitplane").tunnel then
    headers:replace(FAILURE, "parent: credentials_refused")
  end
  headers:replace("proxy-status", 'exitplane-exit; error=proxy_internal_error; details="parent: credentials_refused"')
  headers:remove("proxy-authenticate")
  headers:remove("transfer-encoding")
end
