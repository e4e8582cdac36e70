"""The rollout of a group's resources: guard rails, canaries, and the fallback to the versions accepted last.

The *stable* resources of a group are those that its proxies accepted (`World.accepted`, kept in PostgreSQL with its bytes, so
that all replicas agree and a restart forgets nothing). Wanted resources that differ from them form change-sets: resources that
refer to each other change together or not at all. A change-set goes to canaries first. Its release makes it accepted, and it goes
to everybody. One with a version that two proxies rejected, a dangling reference or an unapproved shrink goes to nobody
(docs/architecture.md#guard-rails). One proxy's rejection lets another proxy try it
(docs/decisions/0039-one-proxy-holds-nothing-back.md).

Endpoints, secrets, users and admitted gateways are not rolled out (`order.is_rolled_out`). They go to everybody at once, so that a
lost or leaking exit, a gateway or a user that was removed is out at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from hashlib import blake2b
from typing import Final
from uuid import UUID

from model.entities import VALIDATOR, Accepted, ResourceKey
from model.world import World
from xds.snapshot import snapshot as snapshots
from xds.snapshot.order import ROLLED_OUT, is_rolled_out
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import Snapshot
from xds.translate.affected import AffectedResources
from xds.translate.names import CLUSTER, EXTENSION, LISTENER, ROUTE
from xds.translate.references import references
from xds.translate.resource_ids import ResourceId
from xds.translate.scopes import Scope

_REFERENCED: Final = frozenset({CLUSTER, EXTENSION, ROUTE})
"""Types that others refer to."""
_REFERRING: Final = ROLLED_OUT
"""Types that refer to others. Clusters are among them: aggregate clusters refer to clusters."""
_BY_LISTENERS: Final = frozenset({EXTENSION, ROUTE})
"""Types that a client requests by the names in its listeners."""


class Audience(StrEnum):
    """The proxies that are given a change-set."""

    EVERYBODY = "everybody"
    """The scope has no accepted resource yet, or is one proxy's, or canaries are switched off."""
    CANARIES = "canaries"
    NOBODY = "nobody"


@dataclass(frozen=True)
class ChangeSet:
    """Resources that change together: the wanted version of each, None for a removal."""

    wanted: Mapping[ResourceId, Resource | None]
    audience: Audience
    reason: str = ""
    """The reason why nobody is given it, or the one rejection in spite of which it is tried."""
    shrinks: bool = False
    """True if it needs, or has, an approval to shrink."""
    rejected_by: frozenset[UUID] = frozenset()
    """Proxies that rejected a version of it."""
    overrides: frozenset[UUID] = frozenset()
    """Operators' orders to release it, whoever rejected it. With any, it is released at once."""

    @cached_property
    def key(self) -> str:
        """A hash of the wanted versions, equal on all replicas."""
        lines = sorted(
            f"{each.type_url}\0{each.name}\0{resource.version if resource else ''}\n"
            for each, resource in self.wanted.items()
        )
        return blake2b("".join(lines).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class Rollout:
    """One scope at one revision: the wanted resources, and those that canaries and all others are given."""

    wanted: Snapshot
    change_sets: Sequence[ChangeSet]
    stable: Snapshot
    canary: Snapshot
    """The resources for canaries; the same object as `stable` while no change-set is for canaries."""

    @property
    def tried(self) -> frozenset[ResourceId]:
        """The resources in which canaries may differ from the others."""
        sets = (each.wanted.keys() for each in self.change_sets if each.audience is Audience.CANARIES)
        return frozenset().union(*sets)

    def is_used(self, each: ResourceId) -> bool:
        """Return whether a client may request a resource. No canary can try one that no listener refers to."""
        if each.type_url not in _BY_LISTENERS or LISTENER not in self.wanted.scope.types:
            return True
        return any(
            each in references(LISTENER, name, listener.body)
            for snapshot in (self.wanted, self.canary, self.stable)
            for name, listener in snapshot.resources.get(LISTENER, {}).items()
        )


@dataclass(frozen=True, slots=True)
class RolloutDiff:
    """The resources that differ between two states of a rollout: stable, for canaries, and wanted."""

    stable: frozenset[ResourceId]
    canary: frozenset[ResourceId]
    wanted: frozenset[ResourceId]


def build(scope: Scope, world: World, *, canaries: bool = True) -> Rollout:
    """Build the rollout of a scope from scratch. Without `canaries` no change-set is for canaries: it goes to everybody or nobody."""
    wanted = snapshots.build(scope, world)
    pending = {
        each
        for type_url in ROLLED_OUT
        for each in (
            *(ResourceId(type_url, name) for name in wanted.resources.get(type_url, ())),
            *(_id(key) for key in world.accepted_of.get(scope.key, ()) if key.type_url == type_url),
        )
        if is_rolled_out(each) and _differs(wanted, world, each)
    }
    return _plan(wanted, world, pending, canaries=canaries)


def advance(
    rollout: Rollout, world: World, affected: AffectedResources, *, canaries: bool = True
) -> tuple[Rollout, RolloutDiff]:
    """Return the rollout of a newer World, and what differs. It costs as much as what is affected or pending."""
    wanted, differing = snapshots.advance(rollout.wanted, world, affected.declared)
    examined = affected.declared.union(affected.judged, *(each.wanted.keys() for each in rollout.change_sets))
    pending = {each for each in examined if is_rolled_out(each) and _differs(wanted, world, each)}
    newer = _plan(wanted, world, pending, canaries=canaries)
    return newer, RolloutDiff(
        _differing(rollout.stable, newer.stable, examined),
        _differing(rollout.canary, newer.canary, examined),
        differing,
    )


def is_current(rollout: Rollout, world: World, affected: AffectedResources) -> bool:
    """Return whether a newer World, in which these resources may differ, wants the same ones to be rolled out."""
    _, differing = snapshots.advance(rollout.wanted, world, affected.declared)
    return not any(map(is_rolled_out, differing))


def compare(old: Rollout, new: Rollout) -> RolloutDiff:
    """Compare all resources of two rollouts of a scope."""
    return RolloutDiff(
        snapshots.differences(old.stable, new.stable),
        snapshots.differences(old.canary, new.canary),
        snapshots.differences(old.wanted, new.wanted),
    )


def resource_of(accepted: Accepted) -> Resource:
    """Return an accepted resource as it is served."""
    return Resource(accepted.key.type_url, accepted.key.name, accepted.version, accepted.body)


def _plan(wanted: Snapshot, world: World, pending: set[ResourceId], *, canaries: bool) -> Rollout:
    if not pending:
        return Rollout(wanted, (), wanted, wanted)
    fresh = not world.accepted_of.get(wanted.scope.key)
    still_named = _still_named(wanted, pending)
    judged = [
        _judge(wanted, world, each, still_named, fresh=fresh, canaries=canaries)
        for each in _split(wanted, world, pending)
    ]
    change_sets = tuple(_join(judged) if fresh else _require_approval(wanted, world, judged))
    withheld = [each for each in change_sets if each.audience is Audience.NOBODY]
    tried = [each for each in change_sets if each.audience is Audience.CANARIES]
    canary = _fall_back(wanted, world, withheld)
    return Rollout(wanted, change_sets, _fall_back(canary, world, tried) if tried else canary, canary)


def _split(wanted: Snapshot, world: World, pending: set[ResourceId]) -> Iterable[dict[ResourceId, Resource | None]]:
    """Split the pending resources into sets, none of which refers to a resource that another set adds or removes.

    References to a resource that only changes do not count: a rejected listener holds up no change of its routes.
    """
    moving = {each for each in pending if (wanted.get(each) is None) != (_accepted(world, wanted.scope, each) is None)}
    linked: dict[ResourceId, set[ResourceId]] = {each: set() for each in pending}
    for each in pending:
        for resource in (wanted.get(each), _accepted(world, wanted.scope, each)):
            if resource is None:
                continue
            for other in references(resource.type_url, resource.name, resource.body) & moving:
                linked[each].add(other)
                linked[other].add(each)
    ordered = sorted(pending, key=lambda each: (each.type_url, each.name))
    seen: set[ResourceId] = set()
    for first in ordered:
        if first in seen:
            continue
        together, front = {first}, [first]
        while front:
            found = linked[front.pop()] - together
            together |= found
            front += found
        seen |= together
        yield {each: wanted.get(each) for each in ordered if each in together}


def _still_named(wanted: Snapshot, pending: Iterable[ResourceId]) -> Mapping[ResourceId, str]:
    """Map each resource that would be removed, but that a wanted one refers to, to the name of that one."""
    gone = {each for each in pending if each.type_url in _REFERENCED and wanted.get(each) is None}
    if not gone or not wanted.scope.shared:
        return {}
    found: dict[ResourceId, str] = {}
    for type_url in sorted(_REFERRING & wanted.resources.keys()):
        for name, resource in wanted.resources[type_url].items():
            for other in references(type_url, name, resource.body) & gone:
                found[other] = min(name, found.get(other, name))
    return found


def _judge(
    wanted: Snapshot,
    world: World,
    together: Mapping[ResourceId, Resource | None],
    still_named: Mapping[ResourceId, str],
    *,
    fresh: bool,
    canaries: bool,
) -> ChangeSet:
    for each, resource in together.items():
        if resource is None:
            if each in still_named:
                return ChangeSet(together, Audience.NOBODY, _dangling(still_named[each], each.name))
            continue
        named = references(resource.type_url, resource.name, resource.body) if wanted.scope.shared else ()
        missing = [other.name for other in named if wanted.get(other) is None]
        if missing:  # the smallest, so that all replicas report the same one
            return ChangeSet(together, Audience.NOBODY, _dangling(each.name, min(missing)))
    audience = Audience.EVERYBODY if fresh or not canaries or not wanted.scope.shared else Audience.CANARIES
    return _judge_rejections(ChangeSet(together, audience), wanted.scope, world)


def _judge_rejections(change_set: ChangeSet, scope: Scope, world: World) -> ChangeSet:
    """Withhold a change-set that two proxies, the only one, or the control plane's validation rejected.

    An operator's override releases it, whoever rejected it.
    """
    orders = (world.overrides[each] for each in world.overrides_of.get(scope.key, ()))
    overrides = frozenset(each.id for each in orders if each.change_set == change_set.key)
    if overrides:
        return replace(change_set, audience=Audience.EVERYBODY, overrides=overrides)
    rejections = [
        world.rejections[key]
        for each, resource in change_set.wanted.items()
        if resource is not None
        for key in world.rejections_of.get((_key(scope, each), resource.version), ())
    ]
    if not rejections:
        return change_set
    # the smallest, so that all replicas report the same one
    first = min(rejections, key=lambda each: (each.key.type_url, each.key.name, each.proxy_id))
    rejected_by = frozenset(each.proxy_id for each in rejections)
    if VALIDATOR in rejected_by or len(rejected_by) >= min(2, scope.size(world)):
        reason = f"{first.key.name} was rejected: {first.detail}"
        return replace(change_set, audience=Audience.NOBODY, reason=reason, rejected_by=rejected_by)
    proxy = world.proxies.get(first.proxy_id)
    reason = f"{proxy.name if proxy else first.proxy_id} alone rejected {first.key.name}: {first.detail}"
    return replace(change_set, reason=reason, rejected_by=rejected_by)


def _dangling(name: str, missing: str) -> str:
    return f"{name} names {missing}, which does not exist"


def _require_approval(wanted: Snapshot, world: World, change_sets: Sequence[ChangeSet]) -> Iterable[ChangeSet]:
    """Withhold removals of more than half of a group's resources of a type, or of the last, unless approved."""
    if not any(resource is None for each in change_sets for resource in each.wanted.values()):
        yield from change_sets
        return
    accepted = Counter(key.type_url for key in world.accepted_of.get(wanted.scope.key, ()))
    left = {type_url: len(wanted.resources.get(type_url, ())) for type_url in accepted}
    shrunk = {type_url for type_url, count in accepted.items() if left[type_url] * 2 < count and wanted.scope.shared}
    approved = wanted.scope.fleet(world) in world.approvals
    for each in change_sets:
        removed = {id_.type_url for id_, resource in each.wanted.items() if resource is None} & shrunk
        if not removed:
            yield each
        elif approved or each.audience is Audience.NOBODY:
            yield replace(each, shrinks=True)
        else:
            counts = ", ".join(
                f"{left[each]} of {accepted[each]} {each.rpartition('.')[2]}s" for each in sorted(removed)
            )
            reason = f"it would leave {counts}: approve it, or put them back"
            yield replace(each, audience=Audience.NOBODY, reason=reason, shrinks=True)


def _join(change_sets: Sequence[ChangeSet]) -> Iterable[ChangeSet]:
    """Join all sets for everybody, in a scope that has no accepted resource yet.

    If only a part of them were accepted, the rest would become change-sets for canaries, and be withdrawn from the others.
    """
    joined = [each for each in change_sets if each.audience is Audience.EVERYBODY]
    yield from (each for each in change_sets if each.audience is not Audience.EVERYBODY)
    if joined:
        yield ChangeSet(
            {id_: it for each in joined for id_, it in each.wanted.items()},
            Audience.EVERYBODY,
            min((each.reason for each in joined if each.reason), default=""),
            rejected_by=frozenset().union(*(each.rejected_by for each in joined)),
            overrides=frozenset().union(*(each.overrides for each in joined)),
        )


def _fall_back(wanted: Snapshot, world: World, change_sets: Iterable[ChangeSet]) -> Snapshot:
    """Replace the wanted resources of these change-sets by the ones accepted last."""
    table: dict[str, dict[str, Resource]] = {}
    for each in (each for change_set in change_sets for each in change_set.wanted):
        if each.type_url not in table:
            table[each.type_url] = dict(wanted.resources.get(each.type_url, {}))
        accepted = _accepted(world, wanted.scope, each)
        if accepted is None:
            table[each.type_url].pop(each.name, None)
        else:
            table[each.type_url][each.name] = accepted
    return Snapshot(wanted.scope, wanted.revision, {**wanted.resources, **table}) if table else wanted


def _accepted(world: World, scope: Scope, each: ResourceId) -> Resource | None:
    accepted = world.accepted.get(_key(scope, each))
    return resource_of(accepted) if accepted else None


def _differs(wanted: Snapshot, world: World, each: ResourceId) -> bool:
    resource, accepted = wanted.get(each), world.accepted.get(_key(wanted.scope, each))
    return (resource and resource.version) != (accepted and accepted.version)


def _differing(old: Snapshot, new: Snapshot, among: Iterable[ResourceId]) -> frozenset[ResourceId]:
    return frozenset(each for each in among if _version(old, each) != _version(new, each))


def _version(snapshot: Snapshot, each: ResourceId) -> str | None:
    resource = snapshot.get(each)
    return resource.version if resource else None


def _key(scope: Scope, each: ResourceId) -> ResourceKey:
    return ResourceKey(scope.key, each.type_url, each.name)


def _id(key: ResourceKey) -> ResourceId:
    return ResourceId(key.type_url, key.name)
