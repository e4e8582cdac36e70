"""Incremental equals full: after any changes of a World, an advanced snapshot equals one built from scratch."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.entities import (
    BALANCING,
    FIRST_LISTENER,
    RESILIENCE,
    USER_SHARDS,
    VALIDATOR,
    Accepted,
    Allow,
    Approval,
    Balancing,
    Deny,
    Exit,
    Fleet,
    Listener,
    Match,
    Parent,
    Policy,
    Pool,
    Proxy,
    Rejection,
    Resilience,
    ResourceKey,
    Role,
    RolloutOverride,
    Route,
    ServerCertificate,
    ToPools,
    Tracing,
    TrustedAuthority,
    User,
)
from model.exit_states import ExitState
from model.identity import Identity
from model.locality import Locality
from model.world import Change, Kind, World, key_of, put
from tests.scale import scaled
from xds.server.publisher import PendingUpdate, Publisher
from xds.snapshot import rollout
from xds.snapshot import snapshot as snapshot_module
from xds.snapshot.order import ROLLED_OUT
from xds.snapshot.rollout import Audience, ChangeSet, Rollout
from xds.snapshot.snapshot import ProxyView, Snapshot, advance, build, differences
from xds.translate import scopes
from xds.translate.affected import AffectedResources, affected
from xds.translate.references import references
from xds.translate.resource_ids import ResourceId
from xds.translate.scopes import (
    ExitAdmission,
    ExitGroup,
    ExitOverlay,
    GatewayEndpoints,
    GatewayGroup,
    Scope,
    scopes_of,
)

FLEETS = [UUID(int=number) for number in (1, 2)]
POOLS = [UUID(int=number) for number in (11, 12, 13)]
EXITS = [UUID(int=number) for number in (21, 22, 23, 24)]
LISTENERS = {FLEETS[0]: UUID(int=31), FLEETS[1]: UUID(int=32)}
SECOND_LISTENERS = {FLEETS[0]: UUID(int=33), FLEETS[1]: UUID(int=34)}
ROUTES = [UUID(int=number) for number in (51, 52, 53)]
USERS = [UUID(int=number) for number in (61, 62)]
CERTIFICATES = [UUID(int=number) for number in (71, 72)]
AUTHORITIES = [UUID(int=number) for number in (81, 82)]
GATEWAYS = {UUID(int=41): FLEETS[0], UUID(int=42): FLEETS[0], UUID(int=43): FLEETS[1]}
LOCALITIES = (None, Locality("eu", "a"), Locality("eu", "b"), Locality("us"))
COUNTRIES = ("us", "de", "jp")
STRANGER = UUID(int=99)

fleet_ids, pool_ids, exit_ids = (st.sampled_from(ids) for ids in (FLEETS, POOLS, EXITS))
ports = st.sampled_from((8080, 8081))
localities = st.sampled_from(LOCALITIES)
addresses = st.sampled_from((None, "198.51.100.1", "198.51.100.2"))

balancings = st.sampled_from((BALANCING, Balancing(Policy.SESSION)))
resiliences = st.sampled_from((RESILIENCE, Resilience(unhealthy_after=3)))
tracings = st.none() | st.builds(Tracing, st.sampled_from((0.0, 1.0)), st.booleans())
groups = st.sampled_from((None, "staff", "guests"))
some_pools = st.lists(pool_ids, min_size=1, max_size=3, unique=True)
actions = st.one_of(
    st.builds(
        ToPools,
        some_pools.map(lambda each: tuple((pool_id, 1) for pool_id in each)),
        st.lists(pool_ids, max_size=2, unique=True).map(tuple),
    ),
    st.just(Allow()),
    st.just(Deny(403, "no")),
)
matches = st.builds(
    Match,
    countries=st.frozensets(st.sampled_from(COUNTRIES), max_size=2),
    groups=groups.map(lambda it: frozenset({it} - {None})),
)
routes = st.builds(
    Route, st.sampled_from(ROUTES), fleet_ids, st.sampled_from("ab"), st.integers(0, 2), st.booleans(), matches, actions
)


PARENTS = (Parent("127.0.0.1", 8888), *(Parent("gluetun", 8888, "exit", password) for password in "ab"))


@st.composite
def listeners(draw) -> Listener:
    fleet_id = draw(fleet_ids)
    if draw(st.booleans()):
        return Listener(LISTENERS[fleet_id], fleet_id, "127.0.0.1", draw(ports), FIRST_LISTENER)
    pool_id, certificate_id = draw(st.none() | pool_ids), draw(st.none() | st.sampled_from(CERTIFICATES))
    return Listener(
        SECOND_LISTENERS[fleet_id],
        fleet_id,
        "127.0.0.1",
        draw(ports),
        "second",
        draw(st.none() | st.just("de")),
        pool_id,
        certificate_id,
        (("de.example.com", "de"),) if certificate_id else (),
    )


@st.composite
def entities(draw) -> list:
    """Draw an entity that is added, changed or moved."""
    known = ("listener", "pool", "pool", "exit", "exit", "exit", "gateway", "gateway", "route", "route", "user")
    match draw(st.sampled_from((*known, "certificate", "authority", "fleet"))):
        case "listener":
            return [draw(listeners())]
        case "pool":
            names = st.sampled_from(("a", "b"))
            where = (draw(st.sampled_from(COUNTRIES)), draw(st.sampled_from(("", "", "x", "y"))))
            how = (draw(balancings), draw(resiliences))
            return [Pool(draw(pool_ids), draw(fleet_ids), draw(names), *where, draw(st.integers(0, 3)) == 0, *how)]
        case "route":
            return [draw(routes)]
        case "user":
            return [User(draw(st.sampled_from(USERS)), draw(fleet_ids), draw(st.sampled_from("ab")), draw(groups))]
        case "certificate":
            key = draw(st.sampled_from(("one", "other")))
            return [ServerCertificate(draw(st.sampled_from(CERTIFICATES)), draw(fleet_ids), "c", "chain", key)]
        case "fleet":
            return [Fleet(draw(fleet_ids), draw(st.sampled_from("ab")), draw(tracings))]
        case "authority":
            return [TrustedAuthority(draw(st.sampled_from(AUTHORITIES)), "root")]
        case "gateway":
            return [gateway(draw(st.sampled_from([*GATEWAYS])), draw(localities))]
    exit_ = Exit(
        id=draw(exit_ids),
        pool_id=draw(pool_ids),
        name="exit",
        endpoint=draw(addresses),
        port=draw(ports),
        state=draw(st.sampled_from((ExitState.HEALTHY, ExitState.HEALTHY, ExitState.LOST))),
        egress_address=draw(addresses),
        locality=draw(localities),
        weight=draw(st.sampled_from((1, 1, 5))),
        standby=draw(st.integers(0, 3)) == 0,
        parent=draw(st.sampled_from((None, None, None, *PARENTS))),
    )
    envoy = Proxy(exit_.id, FLEETS[0], "exit", Role.EXIT, exit_.locality)
    return [exit_, envoy] if draw(st.booleans()) else [exit_]


def gateway(gateway_id: UUID, locality: Locality | None = None) -> Proxy:
    return Proxy(gateway_id, GATEWAYS[gateway_id], "gw", Role.GATEWAY, locality)


def removal(kind: Kind, key: UUID) -> Change:
    return Change(kind, key, None)


removals = st.one_of(
    pool_ids.map(lambda key: [removal(Kind.POOL, key)]),
    exit_ids.map(lambda key: [removal(Kind.EXIT, key), removal(Kind.PROXY, key)]),
    fleet_ids.map(lambda key: [removal(Kind.LISTENER, LISTENERS[key])]),
    fleet_ids.map(lambda key: [removal(Kind.LISTENER, SECOND_LISTENERS[key])]),
    st.sampled_from(ROUTES).map(lambda key: [removal(Kind.ROUTE, key)]),
    st.sampled_from(USERS).map(lambda key: [removal(Kind.USER, key)]),
    st.sampled_from(CERTIFICATES).map(lambda key: [removal(Kind.SERVER_CERTIFICATE, key)]),
    st.sampled_from([*GATEWAYS]).map(lambda key: [removal(Kind.PROXY, key)]),
    st.sampled_from(AUTHORITIES).map(lambda key: [removal(Kind.AUTHORITY, key)]),
)


@st.composite
def verdicts(draw, world: World, *, strange: bool) -> list[Change]:
    """Draw acceptances, rejections and approvals; with `strange` also accepted rows that no rollout would write."""
    kinds = ("release", "release", "reject", "reject", "override", "approval", *(["strange"] if strange else []))
    kind = draw(st.sampled_from(kinds))
    if kind == "approval":
        fleet_id = draw(fleet_ids)
        return [put(Approval(fleet_id)) if draw(st.booleans()) else removal(Kind.APPROVAL, fleet_id)]
    scope = draw(st.sampled_from([scope for scope in all_scopes(world) if not scope.types.isdisjoint(ROLLED_OUT)]))
    found = rollout.build(scope, world)
    if kind == "strange":
        keys = [ResourceKey(scope.key, each.type_url, each.name) for each in sorted(ids(found), key=str)]
        if not keys:
            return []
        key = draw(st.sampled_from(keys))
        body = draw(st.sampled_from((b"one", b"another", None)))
        return [put(Accepted(key, str(body), body)) if body else Change(Kind.ACCEPTED, key, None)]
    if kind == "override":
        id_ = UUID(int=draw(st.integers(1, 3)))
        if not found.change_sets or draw(st.booleans()):
            return [removal(Kind.OVERRIDE, id_)]
        change_set = draw(st.sampled_from(found.change_sets))
        return [put(RolloutOverride(id_, draw(fleet_ids), scope.key, change_set.key))]
    able = [each for each in found.change_sets if each.audience is not Audience.NOBODY]
    if not able:
        return []
    change_set = draw(st.sampled_from(able))
    return released(scope, change_set) if kind == "release" else rejected(scope, change_set, draw)


def ids(found: Rollout) -> set[ResourceId]:
    return {*as_content(found.wanted), *as_content(found.stable), *as_content(found.canary)}


def released(scope: Scope, change_set: ChangeSet) -> list[Change]:
    changes = []
    for each, resource in change_set.wanted.items():
        key = ResourceKey(scope.key, each.type_url, each.name)
        accepted = put(Accepted(key, resource.version, resource.body)) if resource else None
        changes.append(accepted or Change(Kind.ACCEPTED, key, None))
    return changes


def rejected(scope: Scope, change_set: ChangeSet, draw) -> list[Change]:
    given = [resource for resource in change_set.wanted.values() if resource is not None]
    if not given:
        return []
    resource = draw(st.sampled_from(given))
    key = ResourceKey(scope.key, resource.type_url, resource.name)
    proxy_id = draw(st.sampled_from((STRANGER, VALIDATOR, UUID(int=7))))
    return [put(Rejection(key, resource.version, proxy_id, "no"))]


@st.composite
def change_sets(draw, world: World, *, strange: bool = True) -> list[Change]:
    """Draw the changes of one reading of the change log: one for each entity that the writes touched."""
    found: dict[tuple, Change] = {}
    for _ in range(draw(st.integers(1, 4))):
        so_far = world.changed(0, found.values())
        audience = verdicts(so_far, strange=strange)
        step = draw(st.one_of(entities().map(lambda each: list(map(put, each))), removals, audience, audience))
        for change in consistent(so_far, step):
            found[change.kind, change.key] = change
    return list(found.values())


def consistent(world: World, changes: Iterable[Change]) -> list[Change]:
    """Return changes that the database would accept: exits have pools, and pools with exits stay."""
    changes = list(changes)
    for change in changes:
        if isinstance(change.value, Exit) and change.value.pool_id not in world.pools:
            return []
        if change.kind is Kind.POOL and change.value is None and change.key in world.exits_of:
            return []
    return changes


def start() -> World:
    """Make a World with some of everything, so that few steps reach many states."""
    fleets = [Fleet(fleet_id, str(fleet_id)) for fleet_id in FLEETS]
    gateways = [gateway(gateway_id, place) for gateway_id, place in zip(GATEWAYS, LOCALITIES, strict=False)]
    pools = [Pool(pool_id, FLEETS[0], country, country) for pool_id, country in zip(POOLS, COUNTRIES, strict=True)]
    exits = [
        Exit(exit_id, POOLS[0], "exit", "198.51.100.1", 8080, ExitState.HEALTHY, locality=place)
        for exit_id, place in zip(EXITS, LOCALITIES[:2], strict=False)
    ]
    proxies = [Proxy(exit_.id, FLEETS[0], "exit", Role.EXIT) for exit_ in exits]
    certificate = ServerCertificate(CERTIFICATES[0], FLEETS[0], "c", "chain", "one")
    listeners = [
        Listener(LISTENERS[FLEETS[0]], FLEETS[0], "127.0.0.1", 8080),
        Listener(SECOND_LISTENERS[FLEETS[0]], FLEETS[0], "127.0.0.1", 8081, "second", None, POOLS[0], certificate.id),
    ]
    of_staff, user = Match(groups=frozenset({"staff"})), User(USERS[0], FLEETS[0], "a", "staff")
    there = ToPools(((POOLS[0], 1), (POOLS[1], 1)), (POOLS[2],))
    route = Route(ROUTES[0], FLEETS[0], "a", 0, enabled=True, match=of_staff, action=there)
    things = [*fleets, *gateways, *pools, *exits, *proxies, *listeners, certificate, user, route]
    return World().changed(1, map(put, things))


def all_scopes(world: World) -> list[Scope]:
    """List every possible scope, also those that the World does not have."""
    endpoints = [GatewayEndpoints(fleet_id, locality) for fleet_id in FLEETS for locality in LOCALITIES]
    of_exits = [*map(ExitGroup, POOLS), *map(ExitAdmission, FLEETS), *map(ExitOverlay, EXITS)]
    return [*map(GatewayGroup, FLEETS), *endpoints, *of_exits]


def subscribed(*worlds: World) -> set[str]:
    """Return the keys of the scopes that some proxy is given."""
    return {scope.key for world in worlds for proxy in world.proxies.values() for scope in scopes_of(proxy, world)}


def as_content(snapshot: Snapshot | ProxyView) -> dict:
    tables = snapshot.snapshots if isinstance(snapshot, ProxyView) else [snapshot]
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
    """Cache translators and the encoder by their arguments: they are pure functions, and slow."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in vars(scopes) if name.startswith("translate_")]:
            patch.setattr(scopes, name, remember(getattr(scopes, name)))
        patch.setattr(snapshot_module, "encode", remember(snapshot_module.encode, by=id))
        yield


def remember(function, by=lambda given: given if isinstance(given, Hashable) else tuple(given)):
    answers: dict[tuple, tuple] = {}

    def answer(*given):
        key = tuple(map(by, given))
        if key not in answers:
            given = given if by is id else key
            answers[key] = given, function(*given)  # keeps the arguments alive, so that their ids stay unique
        return answers[key][1]

    return answer


PROPERTY = settings(
    max_examples=scaled(40),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@PROPERTY
@given(st.data())
def test_advanced_snapshot_equals_built_one_and_reports_differences(data):
    world = start()
    snapshots = {scope.key: build(scope, world) for scope in all_scopes(world)}
    for revision in range(2, 2 + data.draw(st.integers(1, 6))):
        changes = data.draw(change_sets(world))
        newer = world.changed(revision, changes)
        by_scope = affected(changes, world, newer)
        for key, snapshot in snapshots.items():
            built = build(snapshot.scope, newer)
            if isinstance(snapshot.scope, GatewayEndpoints) and key not in subscribed(world, newer):
                assert key not in by_scope
                snapshots[key] = built
                continue
            advanced, differs = advance(snapshot, newer, by_scope.get(key, AffectedResources()).declared)
            assert as_content(advanced) == as_content(built)
            assert differs == differing(as_content(snapshot), as_content(built))
            assert differs == differences(snapshot, advanced)
            assert advanced.revision == revision
            snapshots[key] = advanced
        assert newer == World().changed(revision, [put(entity) for table in tables(newer) for entity in table.values()])
        world = newer


def tables(world: World) -> list[Mapping]:
    return [
        *(world.fleets, world.listeners, world.pools, world.exits, world.proxies),
        *(world.routes, world.users, world.certificates, world.authorities),
        *(world.accepted, world.rejections, world.approvals, world.overrides),
    ]


@pytest.mark.slow
@PROPERTY
@given(st.data())
def test_advanced_rollout_equals_built_one_and_reports_differences(data):
    world, canaries = start(), data.draw(st.booleans())
    rollouts = {scope.key: rollout.build(scope, world, canaries=canaries) for scope in all_scopes(world)}
    for revision in range(2, 2 + data.draw(st.integers(1, 6))):
        changes = data.draw(change_sets(world))
        newer = world.changed(revision, changes)
        by_scope = affected(changes, world, newer)
        for key, before in rollouts.items():
            built = rollout.build(before.wanted.scope, newer, canaries=canaries)
            if isinstance(before.wanted.scope, GatewayEndpoints) and key not in subscribed(world, newer):
                assert key not in by_scope
                rollouts[key] = built
                continue
            resources = by_scope.get(key, AffectedResources())
            advanced, differences_ = rollout.advance(before, newer, resources, canaries=canaries)
            assert as_plain(advanced.change_sets) == as_plain(built.change_sets)
            assert advanced.tried == built.tried
            for part in ("wanted", "stable", "canary"):
                old, made, full = (as_content(getattr(each, part)) for each in (before, advanced, built))
                assert made == full
                assert getattr(differences_, part) == differing(old, full)
            assert differences_ == rollout.compare(before, advanced)
            assert (advanced.stable is advanced.canary) == (not advanced.tried)
            assert key in by_scope or as_plain(before.change_sets) == as_plain(built.change_sets)
            rollouts[key] = advanced
        world = newer


def as_plain(sets: Iterable[ChangeSet]) -> list[tuple]:
    return [
        (
            {each: resource and resource.version for each, resource in one.wanted.items()},
            one.audience,
            one.reason,
            one.shrinks,
            one.key,
        )
        for one in sets
    ]


@pytest.mark.slow
@PROPERTY
@given(st.data())
def test_given_resources_have_their_references_and_at_least_half(data):
    """It holds after any releases and rejections, unless a shrink was approved."""
    world = start()
    for revision in range(2, 2 + data.draw(st.integers(1, 8))):
        world = world.changed(revision, data.draw(change_sets(world, strange=False)))
        for scope in all_scopes(world):
            if not scope.shared or scope.types.isdisjoint(ROLLED_OUT):
                continue
            built = rollout.build(scope, world)
            for given_ in (built.stable, built.canary):
                for each in as_content(given_):
                    resource = given_.get(each)
                    assert references(resource.type_url, resource.name, resource.body) <= as_content(given_).keys()
                if scope.fleet(world) in world.approvals:
                    continue
                for type_url in ROLLED_OUT:
                    accepted = sum(key.type_url == type_url for key in world.accepted_of.get(scope.key, ()))
                    assert len(given_.resources.get(type_url, ())) * 2 >= accepted


@PROPERTY
@given(st.data())
def test_streams_are_told_as_by_a_newly_started_replica(data):
    publisher, world = Publisher(), start()
    publisher.start(world)
    boxes: dict[UUID, PendingUpdate] = {}
    held: dict[UUID, dict] = {}
    canaries = {proxy_id for proxy_id in [*GATEWAYS, *EXITS] if data.draw(st.booleans())}

    def choose() -> None:
        for key in [*publisher._rollouts]:
            publisher.set_canaries(key, publisher.proxies_of(key) & canaries)

    def connect(world: World) -> None:
        for proxy in world.proxies.values():
            if proxy.id in boxes:
                continue
            box = publisher.open(Identity(proxy.fleet_id, proxy.role, proxy.id))
            if box is not None:
                boxes[proxy.id], held[proxy.id] = box, as_content(box.view)
        choose()

    connect(world)
    for revision in range(2, 2 + data.draw(st.integers(1, 6))):
        changes = data.draw(change_sets(world))
        world = world.changed(revision, changes)
        publisher.publish(world, changes)
        choose()
        for proxy_id, box in [*boxes.items()]:
            proxy = world.proxies.get(proxy_id)
            if proxy is None or not scopes_of(proxy, world):
                assert box.revoked
                publisher.close(boxes.pop(proxy_id))
                continue
            assert not box.revoked
            should_hold = given_to(proxy, world, canary=proxy_id in canaries)
            concerned = box.event.is_set()
            view, changed = box.take()
            assert as_content(view) == should_hold
            told = {ResourceId(type_url, name) for type_url, names in (changed or {}).items() for name in names}
            if changed is not None:
                assert told >= differing(held[proxy_id], should_hold)
                assert concerned or not told
            held[proxy_id] = should_hold
        connect(world)
    for box in boxes.values():
        publisher.close(box)
    assert publisher.streams == 0
    assert publisher._rollouts == publisher._canaries == {}
    assert publisher._in_progress == set()


def given_to(proxy: Proxy, world: World, *, canary: bool) -> dict:
    """Return the resources that a newly started replica gives a proxy."""
    rollouts = [rollout.build(scope, world) for scope in scopes_of(proxy, world)]
    return as_content(ProxyView([each.canary if canary else each.stable for each in rollouts]))


@PROPERTY
@given(st.data())
def test_full_load_after_gap_tells_streams_all_differences(data):
    """Only the two Worlds are known then, not the changes between them."""
    publisher, world = Publisher(), start()
    for change in data.draw(change_sets(world)):
        world = world.changed(1, [change])
    publisher.start(world)
    canaries = {proxy_id for proxy_id in [*GATEWAYS, *EXITS] if data.draw(st.booleans())}
    boxes = [publisher.open(Identity(proxy.fleet_id, proxy.role, proxy.id)) for proxy in world.proxies.values()]
    for key in [*publisher._rollouts]:
        publisher.set_canaries(key, publisher.proxies_of(key) & canaries)
    before = {box: as_content(box.view) for box in boxes if box is not None}
    for revision in range(2, 5):
        world = world.changed(revision, data.draw(change_sets(world)))
    publisher.start(world)
    for box, held in before.items():
        proxy = world.proxies.get(box.identity.proxy_id)
        if proxy is None or not scopes_of(proxy, world):
            assert box.revoked
            continue
        should_hold = given_to(proxy, world, canary=proxy.id in canaries)
        view, changed = box.take()
        assert as_content(view) == should_hold
        if changed is not None:
            told = {ResourceId(type_url, name) for type_url, names in changed.items() for name in names}
            assert told >= differing(held, should_hold)


def test_order_of_reading_a_world_does_not_matter(make_world, content):
    world = make_world(20, 20)
    entities = [entity for table in tables(world) for entity in table.values()]
    reversed_world = World().changed(1, map(put, entities[::-1]))
    (fleet_id,) = world.fleets
    for scope, size in (
        (GatewayGroup(fleet_id), 3 + 20 + USER_SHARDS),
        (GatewayEndpoints(fleet_id, LOCALITIES[1]), 20),
    ):
        built = content(build(scope, world))
        assert built == content(build(scope, reversed_world))
        assert len(built) == size


def test_lower_revision_is_never_published(make_world):
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


def test_keys_of_world_and_changes_are_equal():
    exit_ = Exit(EXITS[0], POOLS[0], "exit", None, 8443, ExitState.LOST)
    assert put(exit_).key == key_of(exit_) == exit_.id
