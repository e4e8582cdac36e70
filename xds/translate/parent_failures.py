"""The replies of an exit whose parent fails: gateways retry on another exit, and clients never see the parent's 407."""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.core.v3 import DataSource, SubstitutionFormatString
from envoy_data_plane.envoy.extensions.filters.common.set_filter_state.v3 import FilterStateValue
from envoy_data_plane.envoy.extensions.filters.http.dynamic_forward_proxy.v3 import FilterConfig
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.set_filter_state.v3 import Config as SetFilterState
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter, LocalReplyConfig

from model.entities import Parent
from xds.translate import names
from xds.translate.encoding import overwrite
from xds.translate.http import exit_replies, http_filter
from xds.translate.lua import read_script
from xds.translate.parent_cluster import parent_dns_cache

PARENT_SCRIPT: Final = read_script("parent")
_POOL: Final = f"%METADATA(ROUTE:{names.METADATA}:{names.POOL_METADATA})%"
_FAILED: Final = f"exitplane: the exit of pool {_POOL} could not use its parent proxy (%RESPONSE_CODE_DETAILS%)\n"
_STATUS: Final = 'exitplane-exit; error=proxy_internal_error; details="parent: %RESPONSE_CODE_DETAILS%"'


def parent_replies() -> LocalReplyConfig:
    """Blame the parent for every failure: the exit's Envoy connects to nothing else."""
    detail = f"{names.PARENT_FAILED}%RESPONSE_CODE_DETAILS%"
    return exit_replies(_FAILED, overwrite(names.FAILURE_HEADER, detail), overwrite("proxy-status", _STATUS))


def parent_filters(parent: Parent) -> list[HttpFilter]:
    """Build the filters of an exit with a parent: they reject forbidden targets, and turn a 407 of the parent into the exit's failure.

    A parent's name is resolved as targets' names are, without the addresses of the exit's own host and link
    (docs/decisions/0036-parents-are-not-on-the-exits-host.md). Filter state names the parent as the host to resolve.
    """
    script = http_filter("envoy.filters.http.lua", Lua(default_source_code=DataSource(inline_string=PARENT_SCRIPT)))
    if not parent.is_named:
        return [script]
    host = SetFilterState(
        on_request_headers=[
            FilterStateValue(
                object_key=key,
                format_string=SubstitutionFormatString(text_format_source=DataSource(inline_string=value)),
            )
            for key, value in (
                ("envoy.upstream.dynamic_host", parent.address),
                ("envoy.upstream.dynamic_port", str(parent.port)),
            )
        ]
    )
    resolver = FilterConfig(dns_cache_config=parent_dns_cache(), allow_dynamic_host_from_filter_state=True)
    return [
        script,
        http_filter("envoy.filters.http.set_filter_state", host),
        http_filter("envoy.filters.http.dynamic_forward_proxy", resolver),
    ]
