-- Matches a request again without the declared routes, when the route that it matched has `allow` in its metadata. The request
-- then takes its default route. If this script fails, the client gets that route's own response, 503.
function envoy_on_request(handle)
  if handle:metadata():get("allow") then
    handle:headers():add("x-ep-allowed", "1")
    handle:clearRouteCache()
  end
end
