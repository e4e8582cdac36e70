"""Templates: what all pools, or all exits, have in common is encoded once.

Envoy's own types cost milliseconds to encode. So of each resource there are two functions: `define_…` says what it is, in
those types, and `translate_…` gives the same bytes, or bytes that mean the same. It parses what was defined for ANY_POOL or
ANY_EXIT into the classes compiled from proto/template.proto, which keep what they do not know, and sets what differs.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from model.entities import Exit, Parent, Pool
from model.exit_states import ExitState
from xds.translate import names
from xds.wire import template_pb2 as wire

_ANY_ID: Final = UUID(int=0)
ANY_POOL: Final = Pool(_ANY_ID, _ANY_ID, name="<pool>", country="<country>")
ANY_EXIT: Final = Exit(_ANY_ID, _ANY_ID, "<exit>", endpoint=None, port=1, state=ExitState.HEALTHY)
ANY_PARENT: Final = Parent("<parent>", 1)


def name_pool(route: wire.Route, pool_name: str) -> None:
    """Let a route say for which pool it is, where it says that of ANY_POOL."""
    fields = route.metadata.filter_metadata[names.METADATA].fields
    fields[names.POOL_METADATA].string_value = pool_name
