-- Removes the challenge of a web server from a gateway's own: clients are to log in at a proxy.
function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get(":status") == "407" then
    headers:remove("www-authenticate")
  end
end
