"""What of a group's wanted resources goes to whom: guard rails, canary, and the fall back to what was accepted last.

A group is *settled* at what its proxies accepted (`World.accepted`, kept in PostgreSQL with its bytes, so that all replicas
agree and a restart forgets nothing). What is wanted and differs from that forms change-sets: resources that name each
other change together or not at all. A change-set goes to canaries first, and to all once it was released, which makes it
accepted. One with a rejected version, a dangling reference or an unapproved shrink goes to nobody
(docs/architecture.md#guard-rails).

Endpoints and secrets are not rolled out (`order.ROLLED_OUT`): they go to everybody at once, because an exit that is lost or
leaks must leave at once.
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

from model.entities import ResourceKey
from model.world import Change, World
from xds.snapshot import snapshot as snapshots
from xds.snapshot.order import ROLLED_OUT
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import Snapshot
from xds.translate.names import CLUSTER, EXTENSION, LISTENER, ROUTE
from xds.translate.references import references
from xds.translate.scopes import ResourceId, Scope

_NAMED: Final = frozenset({CLUSTER, EXTENSION, ROUTE})
"""Types of what others name."""
_NAMING: Final = ROLLED_OUT
"""Types of what names others: clusters too, for some go on to others."""
_BY_LISTENERS: Final = frozenset({EXTENSION, ROUTE})
"""Types that a client asks for by the names that its listeners have."""


class Audience(StrEnum):
    """Who is given a change-set."""

    EVERYBODY = "everybody"
    """Nothing was ever accepted here, or only one proxy is concerned, or canaries are not wanted."""
    CANARIES = "canaries"
    NOBODY = "nobody"


@dataclass(frozen=True)
class ChangeSet:
    """Resources that change together: what is wanted of each, None for those that are to go."""

    wanted: Mapping[ResourceId, Resource | None]
    verdict: Audience
    reason: str = ""
    """Why nobody is given it."""
    shrinks: bool = False
    """Whether it needs, or needed, an approval to shrink."""

    @cached_property
    def key(self) -> str:
        """A hash of what it wants, equal on all replicas."""
        lines = sorted(
            f"{each.type_url}\0{each.name}\0{resource.version if resource else ''}\n"
            for each, resource in self.wanted.items()
        )
        return blake2b("".join(lines).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class Rollout:
    """One scope at one revision: what is wanted, and what everybody and the canaries are given of that."""

    wanted: Snapshot
    change_sets: Sequence[ChangeSet]
    settled: Snapshot
    trial: Snapshot
    """For canaries; the same object as `settled` while there is nothing to try."""

    @property
    def tried(self) -> frozenset[ResourceId]:
        """In what canaries may differ from the others."""
        sets = (each.wanted.keys() for each in self.change_sets if each.verdict is Audience.CANARIES)
        return frozenset().union(*sets)

    def is_used(self, each: ResourceId) -> bool:
        """Whether a client may ask for a resource. One that no listener names nobody asks for, so that nobody can try it."""
        if each.type_url not in _BY_LISTENERS or LISTENER not in self.wanted.scope.types:
            return True
        return any(
            each in references(LISTENER, name, listener.body)
            for snapshot in (self.wanted, self.trial, self.settled)
            for name, listener in snapshot.resources.get(LISTENER, {}).items()
        )


@dataclass(frozen=True, slots=True)
class RolloutDiff:
    """Which resources differ between two states of a rollout, for everybody and for canaries."""

    settled: frozenset[ResourceId]
    trial: frozenset[ResourceId]
    wanted: frozenset[ResourceId]


def build(scope: Scope, world: World, *, canaries: bool = True) -> Rollout:
    """The rollout of a scope, from scratch. Without `canaries` a change-set goes to everybody who is not barred from it."""
    wanted = snapshots.build(scope, world)
    pending = {
        each
        for type_url in ROLLED_OUT
        for each in (
            *(ResourceId(type_url, name) for name in wanted.resources.get(type_url, ())),
            *(_id(key) for key in world.accepted_of.get(scope.key, ()) if key.type_url == type_url),
        )
        if _differs(wanted, world, each)
    }
    return _plan(wanted, world, pending, canaries=canaries)


def advance(
    rollout: Rollout, old: World, new: World, changes: Iterable[Change], *, canaries: bool = True
) -> tuple[Rollout, RolloutDiff]:
    """The rollout at `new`, and what differs; the cost is that of `changes` and of what is pending."""
    changes = tuple(changes)
    scope = rollout.wanted.scope
    declared = [change for change in changes if isinstance(change.key, UUID)]  # the others change no translation
    wanted, differing = snapshots.advance(rollout.wanted, old, new, declared)
    touched = {each for change in changes for each in scope.touched(change, old, new)}
    looked_at = touched.union(*(each.wanted.keys() for each in rollout.change_sets))
    pending = {each for each in looked_at if each.type_url in ROLLED_OUT and _differs(wanted, new, each)}
    newer = _plan(wanted, new, pending, canaries=canaries)
    return newer, RolloutDiff(
        _differing(rollout.settled, newer.settled, looked_at),
        _differing(rollout.trial, newer.trial, looked_at),
        differing,
    )


def compare(old: Rollout, new: Rollout) -> RolloutDiff:
    """What differs between two rollouts of a scope, by comparing all of it."""
    return RolloutDiff(
        snapshots.differences(old.settled, new.settled),
        snapshots.differences(old.trial, new.trial),
        snapshots.differences(old.wanted, new.wanted),
    )


def _plan(wanted: Snapshot, world: World, pending: set[ResourceId], *, canaries: bool) -> Rollout:
    if not pending:
        return Rollout(wanted, (), wanted, wanted)
    fresh = not world.accepted_of.get(wanted.scope.key)
    still_named = _still_named(wanted, pending)
    judged = [
        _judge(wanted, world, each, still_named, fresh=fresh, canaries=canaries)
        for each in _closed(wanted, world, pending)
    ]
    change_sets = tuple(_at_once(judged) if fresh else _no_silent_shrink(wanted, world, judged))
    held = [each for each in change_sets if each.verdict is Audience.NOBODY]
    tried = [each for each in change_sets if each.verdict is Audience.CANARIES]
    trial = _fall_back(wanted, world, held)
    return Rollout(wanted, change_sets, _fall_back(trial, world, tried) if tried else trial, trial)


def _closed(wanted: Snapshot, world: World, pending: set[ResourceId]) -> Iterable[dict[ResourceId, Resource | None]]:
    """The pending resources in sets, of which none names what comes or goes with another one.

    What is there before and after may be named by anything: a listener that is refused holds up no change of its routes.
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
    left = sorted(pending, key=lambda each: (each.type_url, each.name))
    seen: set[ResourceId] = set()
    for first in left:
        if first in seen:
            continue
        together, front = {first}, [first]
        while front:
            found = linked[front.pop()] - together
            together |= found
            front += found
        seen |= together
        yield {each: wanted.get(each) for each in left if each in together}


def _still_named(wanted: Snapshot, pending: Iterable[ResourceId]) -> Mapping[ResourceId, str]:
    """Which of the resources that are to go are named by one that stays as it is, and by which."""
    gone = {each for each in pending if each.type_url in _NAMED and wanted.get(each) is None}
    if not gone or not wanted.scope.shared:
        return {}
    found: dict[ResourceId, str] = {}
    for type_url in sorted(_NAMING & wanted.resources.keys()):
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
        rejection = world.rejections.get((_key(wanted.scope, each), resource.version))
        if rejection is not None:
            return ChangeSet(together, Audience.NOBODY, f"{each.name} was rejected: {rejection.detail}")
        named = references(resource.type_url, resource.name, resource.body) if wanted.scope.shared else ()
        missing = [other.name for other in named if wanted.get(other) is None]
        if missing:  # all replicas name the same one
            return ChangeSet(together, Audience.NOBODY, _dangling(each.name, min(missing)))
    if fresh or not canaries or not wanted.scope.shared:
        return ChangeSet(together, Audience.EVERYBODY)
    return ChangeSet(together, Audience.CANARIES)


def _dangling(name: str, missing: str) -> str:
    return f"{name} names {missing}, which does not exist"


def _no_silent_shrink(wanted: Snapshot, world: World, change_sets: Sequence[ChangeSet]) -> Iterable[ChangeSet]:
    """Hold what would take more than half of a group's resources of a type, or the last, unless that was approved."""
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
        elif approved or each.verdict is Audience.NOBODY:
            yield replace(each, shrinks=True)
        else:
            counts = ", ".join(
                f"{left[each]} of {accepted[each]} {each.rpartition('.')[2]}s" for each in sorted(removed)
            )
            reason = f"it would leave {counts}: approve it, or put them back"
            yield ChangeSet(each.wanted, Audience.NOBODY, reason, shrinks=True)


def _at_once(change_sets: Sequence[ChangeSet]) -> Iterable[ChangeSet]:
    """Where nothing was accepted yet, all that goes to everybody is one set.

    A part of it, once accepted, would make the rest of it something to be tried, and taken back.
    """
    free = [each for each in change_sets if each.verdict is Audience.EVERYBODY]
    yield from (each for each in change_sets if each.verdict is not Audience.EVERYBODY)
    if free:
        yield ChangeSet({id_: it for each in free for id_, it in each.wanted.items()}, Audience.EVERYBODY)


def _fall_back(wanted: Snapshot, world: World, change_sets: Iterable[ChangeSet]) -> Snapshot:
    """The snapshot with what was accepted last in place of what these sets want."""
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
    return Resource(each.type_url, each.name, accepted.version, accepted.body) if accepted else None


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
