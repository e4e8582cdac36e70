"""ECDS for gateways: the filter that maps users to groups. A change of users changes this resource alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from envoy_data_plane.envoy.config.core.v3 import DataSource, TypedExtensionConfig
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua

from model.entities import Entity, Route, User
from model.world import World
from xds.translate import names
from xds.translate.client_intent import normalise_name
from xds.translate.encoding import pack
from xds.translate.fleet_index import groups_by_user, matched_groups
from xds.translate.lua import quote, read_script

GROUPS_SCRIPT: Final = read_script("groups")
NO_GROUPS_SCRIPT: Final = "function envoy_on_request(handle) end\n"
"""For a fleet whose routes match on no group."""


def affects_user_groups(entity: Entity, old: World, new: World) -> bool:
    """Return whether a changed entity may change the filter of its fleet between two Worlds."""
    match entity:
        case User():
            return normalise_name(entity.group) in matched_groups(new, entity.fleet_id)
        case Route():
            return matched_groups(old, entity.fleet_id) != matched_groups(new, entity.fleet_id)
    return False


def translate_user_groups(world: World, fleet_id: UUID) -> TypedExtensionConfig:
    """Build the filter for the gateways of a fleet."""
    groups = groups_by_user(world, fleet_id)
    text = f"local TABLE = {quote(_table(groups))}\n{GROUPS_SCRIPT}" if groups else NO_GROUPS_SCRIPT
    config = Lua(default_source_code=DataSource(inline_string=text))
    return TypedExtensionConfig(name=names.GROUPS_FILTER, typed_config=pack(config))


def _table(groups: Sequence[tuple[str, str]]) -> str:
    """Write the table as one string, which Lua splits when it loads: Lua bounds a function's number of constants, not their length."""
    lines: dict[str, list[str]] = {}
    for user, group in sorted(groups):
        lines.setdefault(group, []).append(user)
    return "".join(f"{group} {' '.join(users)}\n" for group, users in sorted(lines.items()))
