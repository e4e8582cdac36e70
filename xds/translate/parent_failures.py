"""The replies of an exit whose parent fails: gateways retry on another exit, and clients never see the parent's 407."""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter, LocalReplyConfig

from xds.translate import names
from xds.translate.encoding import overwrite
from xds.translate.http import exit_replies, http_filter
from xds.translate.lua import read_script

PARENT_SCRIPT: Final = read_script("parent")
_POOL: Final = f"%METADATA(ROUTE:{names.METADATA}:{names.POOL_METADATA})%"
_FAILED: Final = f"exitplane: the exit of pool {_POOL} could not use its parent proxy (%RESPONSE_CODE_DETAILS%)\n"
_STATUS: Final = 'exitplane-exit; error=proxy_internal_error; details="parent: %RESPONSE_CODE_DETAILS%"'


def parent_replies() -> LocalReplyConfig:
    """Blame the parent for every failure: the exit's Envoy connects to nothing else."""
    detail = f"{names.PARENT_FAILED}%RESPONSE_CODE_DETAILS%"
    return exit_replies(_FAILED, overwrite(names.FAILURE_HEADER, detail), overwrite("proxy-status", _STATUS))


def parent_filter() -> HttpFilter:
    """Reject forbidden targets, and turn a 407 of the parent into the exit's failure."""
    return http_filter("envoy.filters.http.lua", Lua(default_source_code=DataSource(inline_string=PARENT_SCRIPT)))
