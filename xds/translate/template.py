"""Templates: the bytes that all pools, or all exits, have in common are encoded once.

Envoy's own types take milliseconds to encode. So each resource has two functions. `define_…` builds it in those types.
`translate_…` gives bytes of the same meaning: it parses a template into the classes compiled from proto/template.proto, which keep
fields that they do not know, and sets the values that differ.

A template is the definition of a sample, and the sample is the cache's key: all values that the definition may depend on, with
those replaced that `translate_…` sets itself. So a new field of a pool or an exit is part of the key until it is replaced here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from uuid import UUID

from model.world import Exit, ExitState, Parent, Pool
from xds.translate import names
from xds.translate.forbidden_targets import sample_egress_address
from xds.wire import template_pb2 as wire

_ANY_ID: Final = UUID(int=0)
ANY_POOL: Final = Pool(_ANY_ID, _ANY_ID, name="<pool>", country="<country>")
ANY_EXIT: Final = Exit(_ANY_ID, _ANY_ID, "<exit>", endpoint=None, port=1, state=ExitState.HEALTHY)
ANY_PARENT: Final = Parent("<parent>", 1)


def sample_pool(pool: Pool) -> Pool:
    """Replace the fields by which pools are told apart; the others shape the cluster."""
    return replace(
        pool,
        id=ANY_POOL.id,
        fleet_id=ANY_POOL.fleet_id,
        name=ANY_POOL.name,
        country=ANY_POOL.country,
        city=ANY_POOL.city,
        only_by_name=ANY_POOL.only_by_name,
    )


def sample_exit(exit_: Exit) -> Exit:
    """Replace the fields that its listener sets itself, or that only its endpoint has; keep whether it has a parent."""
    return replace(
        exit_,
        id=ANY_EXIT.id,
        pool_id=ANY_EXIT.pool_id,
        name=ANY_EXIT.name,
        endpoint=ANY_EXIT.endpoint,
        port=ANY_EXIT.port,
        state=ANY_EXIT.state,
        bind_address=ANY_EXIT.bind_address,
        locality=ANY_EXIT.locality,
        weight=ANY_EXIT.weight,
        standby=ANY_EXIT.standby,
        egress_address=None if exit_.parent else sample_egress_address(exit_.egress_address),
        parent=ANY_PARENT if exit_.parent else None,
    )


def set_pool_name(route: wire.Route, pool_name: str) -> None:
    """Set the pool's name in a route's metadata, which error texts quote."""
    fields = route.metadata.filter_metadata[names.METADATA].fields
    fields[names.POOL_METADATA].string_value = pool_name
