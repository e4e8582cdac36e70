-- Admits a user whose secret was right, unless the user is disabled or has expired. The header `x-ep-shard` is removed last: a request
-- that still has it is refused by a later filter. `TABLE`, ahead of this text, has a line for each user who is not admitted for ever: the
-- name and the time of the end in seconds since 1970, 0 for a disabled user.
local end_of = {}
for user, ends in TABLE:gmatch("(%S+) (%d+)\n") do
  end_of[user] = tonumber(ends)
end

local function refuse(handle, reason, text)
  handle:respond({
    [":status"] = "403",
    ["content-type"] = "text/plain",
    ["proxy-status"] = "exitplane; error=http_request_denied; details=" .. reason,
  }, "exitplane: " .. text .. "\n")
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local user = headers:get("x-ep-user"):match("^[^/]*") -- ahead of the first character of the secret
  headers:remove("proxy-authorization")
  headers:replace("x-ep-user", user)
  local ends = end_of[user]
  if ends == 0 then
    refuse(handle, "user_disabled", "the user " .. user .. " is disabled")
  elseif ends and ends <= os.time() then
    refuse(handle, "user_expired", "the user " .. user .. " has expired")
  else
    headers:remove("x-ep-shard")
  end
end
