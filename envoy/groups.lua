-- Adds the header with the user's group. `TABLE`, ahead of this text, has a line for each group: its name and its users.
local group_of = {}
for group, users in TABLE:gmatch("(%S+)([^\n]*)") do
  for user in users:gmatch("%S+") do
    group_of[user] = group
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local user = headers:get("x-ep-user")
  local group = user and group_of[user]
  if group then
    headers:add("x-ep-group", group)
  end
end
