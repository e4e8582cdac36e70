"""A changed World shares unchanged tables with the previous one, and keeps its indexes."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from model.entities import Accepted, Exit, Fleet, Listener, Pool, Proxy, Rejection, ResourceKey, Role
from model.exit_states import ExitState
from model.locality import Locality
from model.world import Change, Kind, World, key_of, put

FLEET, OTHER_FLEET = Fleet(UUID(int=1), "a"), Fleet(UUID(int=2), "b")
LISTENER = Listener(UUID(int=3), FLEET.id, "127.0.0.1", 8080)
POOL, OTHER_POOL = Pool(UUID(int=4), FLEET.id, "us", "us"), Pool(UUID(int=5), FLEET.id, "de", "de")
EXIT = Exit(UUID(int=6), POOL.id, "one", "198.51.100.1", 8443, ExitState.HEALTHY)
PROXY = Proxy(EXIT.id, FLEET.id, "one", Role.EXIT)
EU, US = Locality("eu", "a"), Locality("us")
GATEWAY = Proxy(UUID(int=7), FLEET.id, "gw", Role.GATEWAY, EU)
KEY = ResourceKey("gateway/1", "type.googleapis.com/x", "clients")
EVERYTHING = [
    FLEET,
    OTHER_FLEET,
    LISTENER,
    POOL,
    OTHER_POOL,
    EXIT,
    PROXY,
    GATEWAY,
    Accepted(KEY, "v1", b"one"),
    Rejection(KEY, "v2", EXIT.id, "no"),
]
TABLES = ("fleets", "listeners", "pools", "exits", "proxies", "accepted", "rejections")
INDEXES = ("listeners_of", "pools_of", "exits_of", "gateways_at", "rejections_of")
TABLE_OF = {
    Fleet: {"fleets"},
    Listener: {"listeners", "listeners_of"},
    Pool: {"pools", "pools_of"},
    Exit: {"exits", "exits_of"},
    Proxy: {"proxies"},
    Accepted: {"accepted"},
    Rejection: {"rejections", "rejections_of"},
}


@pytest.fixture
def world() -> World:
    return World().changed(1, [put(entity) for entity in EVERYTHING])


def test_put_entity_is_found_under_its_key(world):
    tables = [getattr(world, name) for name in TABLES]
    for entity in EVERYTHING:
        assert [table[key_of(entity)] for table in tables if key_of(entity) in table].count(entity) == 1
    assert sum(map(len, tables)) == len(EVERYTHING)


def test_indexes_hold_the_members_of_each_owner(world):
    assert world.listeners_of == {FLEET.id: {LISTENER.id}}
    assert world.pools_of == {FLEET.id: {POOL.id, OTHER_POOL.id}}
    assert world.exits_of == {POOL.id: {EXIT.id}}
    assert world.gateways_at == {FLEET.id: {EU: 1}}


def test_gateways_but_not_exits_are_counted_by_locality(world):
    second, third = replace(GATEWAY, id=UUID(int=8)), replace(GATEWAY, id=UUID(int=9), locality=None)
    more = world.changed(2, [put(second), put(third), put(replace(PROXY, locality=US))])
    assert more.gateways_at == {FLEET.id: {EU: 2, None: 1}}
    assert more.gateways_of == {FLEET.id: {GATEWAY.id, second.id, third.id}}
    moved = more.changed(3, [put(replace(second, locality=US)), put(replace(third, fleet_id=OTHER_FLEET.id))])
    assert moved.gateways_at == {FLEET.id: {EU: 1, US: 1}, OTHER_FLEET.id: {None: 1}}
    assert moved.gateways_of == {FLEET.id: {GATEWAY.id, second.id}, OTHER_FLEET.id: {third.id}}
    fewer = moved.changed(4, [Change(Kind.PROXY, second.id, None), Change(Kind.PROXY, third.id, None)])
    assert (fewer.gateways_at, fewer.gateways_of) == (world.gateways_at, world.gateways_of)


def test_gateway_that_keeps_its_locality_leaves_the_count(world):
    renamed = world.changed(2, [put(replace(GATEWAY, name="other"))])
    assert renamed.gateways_at is world.gateways_at
    assert renamed.gateways_of is world.gateways_of


def test_moved_entity_leaves_its_old_index(world):
    moved = world.changed(2, [put(replace(EXIT, pool_id=OTHER_POOL.id)), put(replace(POOL, fleet_id=OTHER_FLEET.id))])
    assert moved.exits_of == {OTHER_POOL.id: {EXIT.id}}
    assert moved.pools_of == {FLEET.id: {OTHER_POOL.id}, OTHER_FLEET.id: {POOL.id}}


def test_removed_entity_leaves_no_trace(world):
    gone = world.changed(2, [Change(put(entity).kind, key_of(entity), None) for entity in EVERYTHING])
    assert gone == World(revision=2)


def test_removal_of_a_missing_entity_changes_nothing(world):
    assert world.changed(1, [Change(Kind.EXIT, UUID(int=99), None)]) == world


def test_last_of_several_changes_to_an_entity_counts(world):
    there, gone = put(replace(EXIT, port=1)), Change(Kind.EXIT, EXIT.id, None)
    assert world.changed(2, [there, gone]).exits == {}
    assert world.changed(2, [gone, there]).exits[EXIT.id].port == 1
    assert world.changed(2, [gone, there]).exits_of == world.exits_of


@pytest.mark.parametrize("entity", EVERYTHING, ids=lambda entity: type(entity).__name__)
def test_unchanged_tables_are_shared(world, entity):
    changed = world.changed(2, [put(entity)])
    copied = {name for name in (*TABLES, *INDEXES) if getattr(changed, name) is not getattr(world, name)}
    assert copied == TABLE_OF[type(entity)]


def test_previous_world_stays_unchanged(world):
    before = {name: dict(getattr(world, name)) for name in (*TABLES, *INDEXES)}
    there = {**world.gateways_at[FLEET.id]}
    world.changed(2, [put(replace(EXIT, pool_id=OTHER_POOL.id)), Change(Kind.POOL, POOL.id, None)])
    world.changed(2, [put(replace(GATEWAY, locality=US))])
    assert world.gateways_at[FLEET.id] == there
    assert {name: dict(getattr(world, name)) for name in (*TABLES, *INDEXES)} == before
    assert world.revision == 1


def test_empty_world_is_read_only():
    with pytest.raises(TypeError):
        World().fleets[FLEET.id] = FLEET
