"""ECDS for gateways: which group a user belongs to, as the source of a filter. A change of users is this resource alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from envoy_data_plane.envoy.config.core.v3 import DataSource, TypedExtensionConfig
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua

from xds.translate import names
from xds.translate.encoding import pack
from xds.translate.lua import quoted, read_script

GROUPS_SCRIPT: Final = read_script("groups")
NOBODY_SCRIPT: Final = "function envoy_on_request(handle) end\n"
"""For a fleet whose routes ask for no group."""


def translate_groups(groups: Sequence[tuple[str, str]]) -> TypedExtensionConfig:
    """The filter that knows these pairs of a user and a group."""
    text = f"local TABLE = {quoted(_table(groups))}\n{GROUPS_SCRIPT}" if groups else NOBODY_SCRIPT
    config = Lua(default_source_code=DataSource(inline_string=text))
    return TypedExtensionConfig(name=names.GROUPS_FILTER, typed_config=pack(config))


def _table(groups: Sequence[tuple[str, str]]) -> str:
    """One string, which Lua takes apart when it loads: it bounds the constants of a function, not their length."""
    lines: dict[str, list[str]] = {}
    for user, group in sorted(groups):
        lines.setdefault(group, []).append(user)
    return "".join(f"{group} {' '.join(users)}\n" for group, users in sorted(lines.items()))
