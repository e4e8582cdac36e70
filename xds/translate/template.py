"""Templates: the bytes that all pools, or all exits, have in common are encoded once.

Envoy's own types take milliseconds to encode. So each resource has two functions. `define_…` builds it in those types.
`translate_…` gives bytes of the same meaning: it parses a template into the classes compiled from proto/template.proto, which keep
fields that they do not know, and sets the values that differ.

A template is the definition of a sample: ANY_POOL or ANY_EXIT with the values of its cache key. The key has all fields of the pool
or exit, except those that are listed here because `translate_…` sets them itself. So a new field is part of the key by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from model.entities import Exit, Parent, Pool
from model.exit_states import ExitState
from xds.translate import names
from xds.wire import template_pb2 as wire

_ANY_ID: Final = UUID(int=0)
ANY_POOL: Final = Pool(_ANY_ID, _ANY_ID, name="<pool>", country="<country>")
ANY_EXIT: Final = Exit(_ANY_ID, _ANY_ID, "<exit>", endpoint=None, port=1, state=ExitState.HEALTHY)
ANY_PARENT: Final = Parent("192.0.2.1", 1)
"""A parent with an address; one with a name has a listener of its own."""


EntityT = TypeVar("EntityT", Pool, Exit)


class TemplateFields(Generic[EntityT]):
    """The fields of a pool or an exit that a template may depend on: all fields that are not excluded."""

    def __init__(self, sample: EntityT, *excluded: str) -> None:
        self._sample: EntityT = sample
        self.names = tuple(field.name for field in fields(sample) if field.name not in excluded)
        self._get: Callable[[EntityT], Any] = attrgetter(*self.names) if self.names else lambda _: ()

    def read(self, entity: EntityT) -> tuple[Any, ...]:
        """Read the values of an entity: the key of its template."""
        values = self._get(entity)
        return (values,) if len(self.names) == 1 else values

    def make_sample(self, values: tuple[Any, ...]) -> EntityT:
        """Make the sample with these values, for which the template is defined."""
        sample: EntityT = replace(self._sample, **dict(zip(self.names, values, strict=True)))
        return sample


POOL_FIELDS: Final = TemplateFields(ANY_POOL, "id", "fleet_id", "name", "country", "city", "only_by_name")
"""Excludes the fields by which pools are told apart."""

EXIT_FIELDS: Final = TemplateFields(
    ANY_EXIT,
    *("id", "pool_id", "name", "endpoint", "port", "bind_address", "state", "locality", "weight", "standby"),
    *("egress_address", "parent"),
)
"""Excludes the fields that a listener sets itself, that only endpoints have, and those of which it needs less than the value."""


def set_pool_name(route: wire.Route, pool_name: str) -> None:
    """Set the pool's name in a route's metadata, which error texts quote."""
    fields = route.metadata.filter_metadata[names.METADATA].fields
    fields[names.POOL_METADATA].string_value = pool_name
