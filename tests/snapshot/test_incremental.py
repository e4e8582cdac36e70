"""Incremental equals full: whatever happens to a World, what was advanced equals what is built from scratch."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.identity import Identity
from model.world import (
    Accepted,
    Change,
    Exit,
    ExitState,
    Fleet,
    Kind,
    Listener,
    Pool,
    Proxy,
    Rejection,
    ResourceKey,
    Role,
    World,
    key_of,
    put,
)
from xds.server.publisher import Mailbox, Publisher
from xds.snapshot import snapshot as snapshot_module
from xds.snapshot.snapshot import Snapshot, View, advance, build, differences
from xds.translate import group
from xds.translate.group import ExitGroup, ExitOverlay, GatewayGroup, ResourceId, Scope, scope_keys, scopes_of

FLEETS = [UUID(int=number) for number in (1, 2)]
POOLS = [UUID(int=number) for number in (11, 12, 13)]
EXITS = [UUID(int=number) for number in (21, 22, 23, 24)]
LISTENERS = {FLEETS[0]: UUID(int=31), FLEETS[1]: UUID(int=32)}
GATEWAYS = {FLEETS[0]: UUID(int=41), FLEETS[1]: UUID(int=42)}
COUNTRIES = ("us", "de", "jp")
STRANGER = UUID(int=99)

fleet_ids, pool_ids, exit_ids = (st.sampled_from(ids) for ids in (FLEETS, POOLS, EXITS))
ports = st.sampled_from((8080, 8081))
addresses = st.sampled_from((None, "198.51.100.1", "198.51.100.2"))


@st.composite
def entities(draw) -> list:
    """One thing that is declared, changed or moved."""
    match draw(st.sampled_from(("listener", "pool", "pool", "exit", "exit", "exit", "gateway"))):
        case "listener":
            fleet_id = draw(fleet_ids)
            return [Listener(LISTENERS[fleet_id], fleet_id, "127.0.0.1", draw(ports))]
        case "pool":
            names = st.sampled_from(("a", "b"))
            return [Pool(draw(pool_ids), draw(fleet_ids), draw(names), draw(st.sampled_from(COUNTRIES)))]
        case "gateway":
            fleet_id = draw(fleet_ids)
            return [Proxy(GATEWAYS[fleet_id], fleet_id, "gw", Role.GATEWAY)]
    exit_ = Exit(
        id=draw(exit_ids),
        pool_id=draw(pool_ids),
        name="exit",
        endpoint=draw(addresses),
        port=draw(ports),
        state=draw(st.sampled_from((ExitState.HEALTHY, ExitState.HEALTHY, ExitState.LOST))),
        egress_address=draw(addresses),
    )
    return [exit_, Proxy(exit_.id, FLEETS[0], "exit", Role.EXIT)] if draw(st.booleans()) else [exit_]


def removal(kind: Kind, key: UUID) -> Change:
    return Change(kind, key, None)


removals = st.one_of(
    pool_ids.map(lambda key: [removal(Kind.POOL, key)]),
    exit_ids.map(lambda key: [removal(Kind.EXIT, key), removal(Kind.PROXY, key)]),
    fleet_ids.map(lambda key: [removal(Kind.LISTENER, LISTENERS[key])]),
    fleet_ids.map(lambda key: [removal(Kind.PROXY, GATEWAYS[key])]),
)


@st.composite
def verdicts(draw, world: World) -> list[Change]:
    """Proxies reject what they are given, and accept something else in its place."""
    if world.rejections and draw(st.booleans()):
        refused = draw(st.sampled_from(sorted({key for key, _ in world.rejections}, key=str)))
        return [put(Accepted(refused, "v", draw(st.sampled_from((b"one", b"another")))))]
    scope = draw(st.sampled_from(scopes(world)))
    held = [
        Rejection(ResourceKey(scope.key, type_url, name), resource.version, STRANGER, "no")
        for type_url, resources in sorted(build(scope, world).resources.items())
        for name, resource in sorted(resources.items())
    ]
    return [put(draw(st.sampled_from(held)))] if held else []


@st.composite
def change_sets(draw, world: World) -> list[Change]:
    """What one reading of the change log gives: one change for each thing that some writes touched."""
    found: dict[tuple, Change] = {}
    for _ in range(draw(st.integers(1, 4))):
        step = draw(st.one_of(entities().map(lambda each: list(map(put, each))), removals, verdicts(world)))
        for change in consistent(world.changed(0, found.values()), step):
            found[change.kind, change.key] = change
    return list(found.values())


def consistent(world: World, changes: Iterable[Change]) -> list[Change]:
    """Changes that the database would have let through: exits are in pools, and pools with exits stay."""
    changes = list(changes)
    for change in changes:
        if isinstance(change.value, Exit) and change.value.pool_id not in world.pools:
            return []
        if change.kind is Kind.POOL and change.value is None and change.key in world.exits_of:
            return []
    return changes


def start() -> World:
    """Something of everything, so that few steps lead far."""
    fleets = [Fleet(fleet_id, str(fleet_id)) for fleet_id in FLEETS]
    gateways = [Proxy(GATEWAYS[fleet_id], fleet_id, "gw", Role.GATEWAY) for fleet_id in FLEETS]
    pools = [Pool(pool_id, FLEETS[0], country, country) for pool_id, country in zip(POOLS, COUNTRIES, strict=True)]
    exits = [Exit(exit_id, POOLS[0], "exit", "198.51.100.1", 8080, ExitState.HEALTHY) for exit_id in EXITS[:2]]
    proxies = [Proxy(exit_.id, FLEETS[0], "exit", Role.EXIT) for exit_ in exits]
    listener = Listener(LISTENERS[FLEETS[0]], FLEETS[0], "127.0.0.1", 8080)
    return World().changed(1, map(put, [*fleets, *gateways, *pools, *exits, *proxies, listener]))


def scopes(world: World) -> list[Scope]:
    """Every scope that there may be, whether the World has what it is of or not."""
    return [*map(GatewayGroup, FLEETS), *map(ExitGroup, POOLS), *map(ExitOverlay, EXITS)]


def as_content(snapshot: Snapshot | View) -> dict:
    tables = snapshot.snapshots if isinstance(snapshot, View) else [snapshot]
    return {
        ResourceId(type_url, name): (resource.version, resource.body)
        for table in tables
        for type_url, resources in table.resources.items()
        for name, resource in resources.items()
    }


def differing(old: dict, new: dict) -> set[ResourceId]:
    return {each for each in old.keys() | new.keys() if old.get(each, ("",))[0] != new.get(each, ("",))[0]}


@pytest.fixture(scope="module", autouse=True)
def remembered():
    """Translators are functions of what they are given, so that each need run once for the same; so is the encoder."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in vars(group) if name.startswith("translate_")]:
            patch.setattr(group, name, remember(getattr(group, name)))
        patch.setattr(snapshot_module, "encode", remember(snapshot_module.encode, by=id))
        yield


def remember(function, by=lambda given: given if isinstance(given, Hashable) else tuple(given)):
    answers: dict[tuple, tuple] = {}

    def answer(*given):
        key = tuple(map(by, given))
        if key not in answers:
            given = given if by is id else key
            answers[key] = given, function(*given)  # what was given is kept, so that its id is nobody else's
        return answers[key][1]

    return answer


PROPERTY = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",  # the same examples on every machine, and new ones at every desk
)


@PROPERTY
@given(st.data())
def test_an_advanced_snapshot_equals_one_that_is_built_and_says_exactly_what_differs(data):
    world = start()
    snapshots = {scope.key: build(scope, world) for scope in scopes(world)}
    for revision in range(2, 2 + data.draw(st.integers(1, 6))):
        changes = data.draw(change_sets(world))
        newer = world.changed(revision, changes)
        named = {key for change in changes for key in scope_keys(change, world, newer)}
        for key, snapshot in snapshots.items():
            built = build(snapshot.scope, newer)
            advanced, differs = advance(snapshot, world, newer, changes)
            assert as_content(advanced) == as_content(built)
            assert differs == differing(as_content(snapshot), as_content(built))
            assert differs == differences(snapshot, advanced)
            assert advanced.revision == revision
            assert key in named or not differs
            snapshots[key] = advanced
        world = newer


@PROPERTY
@given(st.data())
def test_what_streams_are_told_equals_what_a_replica_that_starts_now_would_tell_them(data):
    publisher, world = Publisher(), start()
    publisher.start(world)
    boxes: dict[UUID, Mailbox] = {}
    held: dict[UUID, dict] = {}

    def connect(world: World) -> None:
        for proxy in world.proxies.values():
            if proxy.id in boxes:
                continue
            box = publisher.open(Identity(proxy.fleet_id, proxy.role, proxy.id))
            if box is not None:
                boxes[proxy.id], held[proxy.id] = box, as_content(box.view)

    connect(world)
    for revision in range(2, 2 + data.draw(st.integers(1, 6))):
        changes = data.draw(change_sets(world))
        world = world.changed(revision, changes)
        publisher.publish(world, changes)
        for proxy_id, box in [*boxes.items()]:
            proxy = world.proxies.get(proxy_id)
            if proxy is None or not scopes_of(proxy, world):
                assert box.revoked
                publisher.close(boxes.pop(proxy_id))
                continue
            assert not box.revoked
            should_hold = as_content(View([build(scope, world) for scope in scopes_of(proxy, world)]))
            concerned = box.event.is_set()
            view, changed = box.take()
            assert as_content(view) == should_hold
            told = {ResourceId(type_url, name) for type_url, names in (changed or {}).items() for name in names}
            if changed is not None:
                assert told >= differing(held[proxy_id], should_hold)
                assert concerned == bool(told)
            held[proxy_id] = should_hold
        connect(world)
    for box in boxes.values():
        publisher.close(box)
    assert publisher.streams == 0
    assert publisher._snapshots == {}


@PROPERTY
@given(st.data())
def test_a_full_load_after_a_gap_tells_streams_what_they_missed(data):
    """The changes in between are not known then: only the two Worlds are."""
    publisher, world = Publisher(), start()
    for change in data.draw(change_sets(world)):
        world = world.changed(1, [change])
    publisher.start(world)
    boxes = [publisher.open(Identity(proxy.fleet_id, proxy.role, proxy.id)) for proxy in world.proxies.values()]
    before = {box: as_content(box.view) for box in boxes if box is not None}
    for revision in range(2, 5):
        world = world.changed(revision, data.draw(change_sets(world)))
    publisher.start(world)
    for box, held in before.items():
        proxy = world.proxies.get(box.identity.proxy_id)
        if proxy is None or not scopes_of(proxy, world):
            assert box.revoked
            continue
        should_hold = as_content(View([build(scope, world) for scope in scopes_of(proxy, world)]))
        view, changed = box.take()
        assert as_content(view) == should_hold
        if changed is not None:
            told = {ResourceId(type_url, name) for type_url, names in changed.items() for name in names}
            assert told >= differing(held, should_hold)


def test_the_order_in_which_a_world_was_read_makes_no_difference(make_world, content):
    world = make_world(20, 20)
    tables = (world.fleets, world.listeners, world.pools, world.exits, world.proxies)
    entities = [entity for table in tables for entity in table.values()]
    (gateways,) = (GatewayGroup(fleet_id) for fleet_id in world.fleets)
    built = content(build(gateways, world))
    assert built == content(build(gateways, World().changed(1, map(put, entities[::-1]))))
    assert len(built) == 2 + 2 * 20


def test_a_lower_revision_is_never_published(make_world):
    publisher, world = Publisher(), make_world(2)
    publisher.start(replace(world, revision=7))
    gateway = next(proxy for proxy in world.proxies.values() if proxy.role is Role.GATEWAY)
    box = publisher.open(Identity(gateway.fleet_id, gateway.role, gateway.id))
    older = make_world(1)
    publisher.start(replace(older, revision=6))
    assert not box.event.is_set()
    assert publisher.world.revision == 7
    publisher.start(replace(older, revision=8))
    assert box.event.is_set()


def test_keys_of_a_world_and_of_its_changes_are_the_same():
    exit_ = Exit(EXITS[0], POOLS[0], "exit", None, 8443, ExitState.LOST)
    assert put(exit_).key == key_of(exit_) == exit_.id
