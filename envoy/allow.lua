-- A route that allows a wish says so in its metadata. Then the routes are looked up once more, past all that are declared, so
-- that the wish leads where it would lead without any. A gateway that fails to do so refuses: that route's own answer is 503.
function envoy_on_request(handle)
  if handle:metadata():get("allow") then
    handle:headers():add("x-ep-allowed", "1")
    handle:clearRouteCache()
  end
end
