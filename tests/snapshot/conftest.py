"""Worlds and helpers for tests of snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from uuid import NAMESPACE_DNS, UUID, uuid5

import pytest

from model.entities import Entity, Exit, Fleet, Listener, Pool, Proxy, Role
from model.exit_states import ExitState
from model.world import World, put
from xds.snapshot.snapshot import Snapshot

Content = dict[tuple[str, str], tuple[str, bytes]]
"""Version and bytes by type URL and name."""


@pytest.fixture
def content() -> Callable[[Snapshot], Content]:
    """`content(snapshot)` returns its resources as values that compare."""

    def read(snapshot: Snapshot) -> Content:
        return {
            (type_url, name): (resource.version, resource.body)
            for type_url, resources in snapshot.resources.items()
            for name, resource in resources.items()
        }

    return read


@pytest.fixture
def make_world() -> Callable[..., World]:
    """`make_world(pools, exits_per_pool)` makes a fleet with a gateway, and managed exits in each of its pools."""

    def make(pools: int, exits_per_pool: int = 1) -> World:
        fleet = Fleet(identifier("fleet"), "demo")
        gateway = Proxy(identifier("gateway"), fleet.id, "gw-1", Role.GATEWAY)
        entities: list[Entity] = [fleet, gateway, Listener(identifier("listener"), fleet.id, "127.0.0.1", 8080)]
        for number in range(pools):
            pool = Pool(identifier(f"pool-{number}"), fleet.id, f"pool-{number}", country(number))
            entities.append(pool)
            for index in range(exits_per_pool):
                name = f"exit-{number}-{index}"
                address = f"198.51.{number % 250}.{index + 1}"
                exit_ = Exit(identifier(name), pool.id, name, address, 8443, ExitState.HEALTHY)
                entities += [exit_, Proxy(exit_.id, fleet.id, name, Role.EXIT)]
        return World().changed(1, map(put, entities))

    return make


def identifier(name: str) -> UUID:
    """Make an id that is the same in every run."""
    return uuid5(NAMESPACE_DNS, name)


def country(number: int) -> str:
    """Make two letters, unique for each of 676 numbers."""
    return f"{chr(97 + number // 26)}{chr(97 + number % 26)}"


@pytest.fixture
def translations(monkeypatch) -> Callable[..., Mapping[str, list]]:
    """`translations(Scope, …)` records the resources that scopes of these classes translate, by the scope's key."""

    def watch(*classes) -> Mapping[str, list]:
        seen: dict[str, list] = {}
        for cls in classes:
            monkeypatch.setattr(cls, "translate", _counted(cls.translate, seen))
        return seen

    return watch


def _counted(translate, seen):
    def counted(scope, world, resource):
        seen.setdefault(scope.key, []).append(resource)
        return translate(scope, world, resource)

    return counted
