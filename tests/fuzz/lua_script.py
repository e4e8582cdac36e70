"""Envoy's Lua scripts in LuaJIT, with a stand-in for the parts of Envoy's stream handle that they use.

Source: the documentation of Envoy 1.40's Lua filter, "Stream handle API" and "Header object API". The scripts'
tests on a real Envoy are in tests/envoy.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from lupa.luajit21 import LuaRuntime

_HANDLE = b"""
local methods = {}
function methods.get(headers, name) return rawget(headers, name) end
function methods.add(headers, name, value)
  local held = rawget(headers, name)
  rawset(headers, name, held and held .. "," .. value or value)
end
function methods.replace(headers, name, value) rawset(headers, name, value) end
function methods.remove(headers, name) rawset(headers, name, nil) end
local function nothing() end

return function(given, server_name, encode)
  local headers = setmetatable(given, { __index = methods })
  local status
  local metadata = { set = nothing }
  local stream_info = {
    dynamicMetadata = function() return metadata end,
    requestedServerName = function() return server_name end,
  }
  envoy_on_request({
    headers = function() return headers end,
    streamInfo = function() return stream_info end,
    respond = function(_, answer) status = answer[":status"] end,
    base64Escape = function(_, text) return encode(text) end,
  })
  return setmetatable(headers, nil), status
end
"""


@dataclass(frozen=True, slots=True)
class ScriptOutcome:
    """The headers of a request after a script, and the status of its own answer (None: the request goes on)."""

    headers: Mapping[bytes, bytes]
    status: bytes | None


class LuaScript:
    """A script of envoy/, loaded once."""

    def __init__(self, source: str) -> None:
        lua = LuaRuntime(encoding=None, unpack_returned_tuples=True)
        lua.execute(source.encode())
        self._table_of = lua.table_from
        self._run = lua.execute(_HANDLE)

    def run(self, headers: Mapping[bytes, bytes], server_name: bytes = b"") -> ScriptOutcome:
        """Run `envoy_on_request`. Raises lupa.LuaError when the script fails."""
        left, status = self._run(self._table_of(headers), server_name, base64.b64encode)
        return ScriptOutcome(dict(left.items()), status)
