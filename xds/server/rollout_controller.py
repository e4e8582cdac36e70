"""The rollout controller of one replica: it tries change-sets on canaries and releases them to all.

Replicas agree through PostgreSQL on canaries and releases.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog

from model.database import Database, DatabaseUnreachable
from model.entities import ResourceKey
from model.repositories import rollout as stored
from model.repositories import worlds
from model.unit_of_work import write
from model.world import World
from xds.server.counters import XdsCounters
from xds.server.envoy_validator import EnvoyValidator
from xds.server.publisher import Publisher
from xds.snapshot.rollout import Audience, ChangeSet, Rollout, is_current
from xds.translate.affected import AffectedResources, affected

_RETRY_S: Final = 0.5
_INTERVAL_S: Final = 2.0
_BATCH_SIZE: Final = 500
"""Change-sets released in one transaction."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CanaryPolicy:
    """The policy for trying change-sets. Endpoints and secrets are not tried: they go to all proxies at once."""

    share: float = 0
    """Share of a group's proxies that are canaries at one replica: 0 is one proxy of the whole group, 1 is no canaries."""
    soak_s: float = 0
    """Time for which the canaries must have had a change-set before the other proxies get it."""
    patience_s: float = 60
    """Time within which a canary must accept a change-set before another proxy is asked."""

    @property
    def enabled(self) -> bool:
        return self.share < 1


class _Outdated(Exception):
    """A group wants something else than what was about to be released."""


class RolloutController:
    """Tries and releases the change-sets of one replica. `run` is its task; `Publisher.rollout_due` wakes it."""

    def __init__(
        self,
        publisher: Publisher,
        database: Database,
        replica: UUID,
        policy: CanaryPolicy,
        clock: Callable[[], datetime],
        validator: EnvoyValidator | None = None,
        counters: XdsCounters | None = None,
    ) -> None:
        self._counters = counters or XdsCounters()
        self._publisher = publisher
        self._validator = validator
        self._database = database
        self._replica = replica
        self._policy = policy
        self._clock = clock
        self._due = publisher.rollout_due
        self._tried_since: dict[tuple[str, str], float] = {}
        """Time since when canaries here try a change-set of a group (monotonic seconds)."""
        self._accepted_since: dict[tuple[str, str], float] = {}
        """Time since when all canaries here have accepted it."""
        self._next_soak_end = math.inf
        """Earliest end of a soak that has begun."""
        self._slow_until: dict[tuple[str, UUID], float] = {}
        """Time until which a proxy of a group that was too slow, or rejected a change-set, is not asked again."""
        self._handed_over: set[tuple[str, str, UUID]] = set()
        """Canaries that were replaced because they rejected a change-set of a group."""
        self._claimed: dict[str, set[UUID]] = {}
        """Proxies that may be stored as canaries of this replica, by group."""
        self._claim_after: dict[str, float] = {}
        """Time of the next claim in a group whose canaries were too few, or another replica's."""
        self._stored: dict[str, object] = {}
        """Rollouts as the database has them, by group."""
        self._unverified: set[str] = set()
        """Groups of which the database may have a rollout that an earlier replica stored."""

    async def run(self) -> None:
        """Try and release change-sets until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._wait_s()):
                    await self._due.wait()
            self._due.clear()
            try:
                await self._reconcile()
            except DatabaseUnreachable:
                await asyncio.sleep(_RETRY_S)
                self._due.set()
            except Exception:
                log.exception("xds.rollout_failed")  # the next attempt may succeed; proxies keep what they have
                await asyncio.sleep(_RETRY_S)

    def _wait_s(self) -> float:
        return max(0.0, min(_INTERVAL_S, self._next_soak_end - time.monotonic()))

    async def _reconcile(self) -> None:
        rollouts, world = self._publisher.rollouts_in_progress(), self._publisher.world
        if world is None:
            return
        self._forget_finished({(key, each.key) for key, rollout in rollouts.items() for each in rollout.change_sets})
        self._next_soak_end = math.inf
        await self._release_disconnected_canaries()
        due: list[stored.AcceptedChangeSet] = []
        for key, rollout in rollouts.items():
            for change_set in rollout.change_sets:
                if change_set.audience is Audience.NOBODY:
                    continue
                if change_set.overrides:
                    due.append(self._accepted_change_set(key, change_set, frozenset(), world.revision))
                    continue
                # asked before the canaries, so that both work at the same time
                valid = self._validator is None or self._validator.is_valid(key, change_set)
                canaries: frozenset[UUID] = frozenset()
                if change_set.audience is Audience.CANARIES:
                    canaries = await self._soaked_canaries(key, change_set)
                if not (valid and (canaries or self._is_accepted_by_any(key, change_set))):
                    continue
                accepted = self._accepted_change_set(key, change_set, canaries, world.revision)
                if change_set.audience is Audience.EVERYBODY and self._uses_canaries(rollout):
                    await self._release_first(rollout, accepted, world)
                else:
                    due.append(accepted)
        await self._release(due)
        await self._store_progress(rollouts)

    def _forget_finished(self, current: set[tuple[str, str]]) -> None:
        for table in (self._tried_since, self._accepted_since):
            for gone in table.keys() - current:
                del table[gone]
        self._handed_over = {each for each in self._handed_over if each[:2] in current}
        groups, now = {group for group, _ in current}, time.monotonic()
        self._slow_until = {
            each: until for each, until in self._slow_until.items() if each[0] in groups and until > now
        }
        self._claim_after = {group: at for group, at in self._claim_after.items() if at > now}

    async def _release_disconnected_canaries(self) -> None:
        """Release canaries whose streams ended, so that others may be claimed, here or at another replica."""
        for group, claimed in [*self._claimed.items()]:
            disconnected = claimed - self._publisher.proxies_of(group)
            # before that, all replicas must know what these canaries rejected
            if disconnected and not self._publisher.has_local_rejection(group):
                await self._release_canaries(group, disconnected)

    async def _release_canaries(self, group: str, proxies: set[UUID]) -> None:
        async with self._database.session() as session:
            await stored.remove_canaries(session, group, self._replica, proxies)
        self._claimed[group] -= proxies
        if not self._claimed[group]:
            del self._claimed[group]
        self._publisher.set_canaries(group, self._publisher.canaries_of(group) - proxies)
        self._claim_after.pop(group, None)

    def _is_accepted_by_any(self, group: str, change_set: ChangeSet) -> bool:
        """Return whether a change-set is for everybody, and a proxy here has accepted it."""
        proxies = self._publisher.proxies_of(group) if change_set.audience is Audience.EVERYBODY else ()
        return any(self._publisher.has_accepted(group, proxy, change_set) for proxy in proxies)

    async def _soaked_canaries(self, group: str, change_set: ChangeSet) -> frozenset[UUID]:
        """Have canaries try a change-set. Return the canaries here once all accepted it and it soaked; none before."""
        now, attempt = time.monotonic(), (group, change_set.key)
        if self._publisher.has_local_rejection(group):
            return frozenset()
        if attempt not in self._tried_since:  # a proxy that was slow with another change-set may be fast with this one
            self._slow_until = {each: until for each, until in self._slow_until.items() if each[0] != group}
        since = self._tried_since.setdefault(attempt, now)
        await self._hand_over(group, change_set)
        canaries = await self._claim_canaries(group, now)
        waiting = [proxy for proxy in canaries if not self._publisher.has_accepted(group, proxy, change_set)]
        if waiting or not canaries:
            self._accepted_since.pop(attempt, None)
            if waiting and now - since > self._policy.patience_s:
                await self._replace_slow_canaries(group, change_set, set(waiting))
            return frozenset()
        soak_end = self._accepted_since.setdefault(attempt, now) + self._policy.soak_s
        if soak_end > now:
            self._next_soak_end = min(self._next_soak_end, soak_end)
            return frozenset()
        return canaries

    async def _hand_over(self, group: str, change_set: ChangeSet) -> None:
        """Let other proxies, here or at another replica, try what canaries rejected. Each of these is replaced once.

        A canary that no other proxy replaced stays one, for the sake of other change-sets.
        """
        rejecting = self._publisher.canaries_of(group) & change_set.rejected_by
        replaced = {proxy for proxy in rejecting if (group, change_set.key, proxy) not in self._handed_over}
        if not replaced:
            return
        self._handed_over |= {(group, change_set.key, proxy) for proxy in replaced}
        log.warning("xds.canary_rejected", group=group, proxies=sorted(map(str, replaced)), reason=change_set.reason)
        until = time.monotonic() + self._policy.patience_s
        self._slow_until |= {(group, proxy): until for proxy in replaced}
        await self._release_canaries(group, replaced)

    async def _claim_canaries(self, group: str, now: float) -> frozenset[UUID]:
        """Return the canaries of a group at this replica, after claiming more if there are too few."""
        here = self._publisher.proxies_of(group)
        canaries = self._publisher.canaries_of(group)
        able = [proxy for proxy in here - canaries if self._slow_until.get((group, proxy), 0) <= now]
        needed = max(1, math.ceil(self._policy.share * len(here)))
        if not able or len(canaries) >= needed or self._claim_after.get(group, 0) > now:
            return canaries
        rejecting = self._publisher.rejecting_proxies(group)
        in_order = sorted(able, key=lambda proxy: (proxy in rejecting, _claim_order(proxy)))
        more = in_order[: needed - len(canaries)]
        self._claimed.setdefault(group, set()).update(more)  # before the reply, which may get lost
        async with self._database.session() as session:
            claimed = await stored.claim_canaries(
                session, group, self._replica, more, shared_out=self._policy.share > 0
            )
        self._claimed[group] |= claimed
        self._publisher.set_canaries(group, claimed)
        if len(claimed) < needed:
            self._claim_after[group] = now + _INTERVAL_S
        return self._publisher.canaries_of(group)

    async def _replace_slow_canaries(self, group: str, change_set: ChangeSet, waiting: set[UUID]) -> None:
        """Let other proxies try a change-set. If those are too slow as well, the first ones are asked again."""
        log.warning("xds.canary_timed_out", group=group, proxies=sorted(map(str, waiting)))
        until = time.monotonic() + self._policy.patience_s
        self._slow_until |= {(group, proxy): until for proxy in waiting}
        await self._release_canaries(group, waiting)
        self._tried_since[group, change_set.key] = time.monotonic()
        self._due.set()

    def _accepted_change_set(
        self, group: str, change_set: ChangeSet, canaries: frozenset[UUID], revision: int
    ) -> stored.AcceptedChangeSet:
        wanted = {
            ResourceKey(group, each.type_url, each.name): (resource.version, resource.body) if resource else None
            for each, resource in change_set.wanted.items()
        }
        approved_fleet = self._publisher.fleet_of(group) if change_set.shrinks else None
        return stored.AcceptedChangeSet(
            group, change_set.key, wanted, canaries, revision, approved_fleet, change_set.overrides
        )

    def _uses_canaries(self, rollout: Rollout) -> bool:
        return self._policy.enabled and rollout.wanted.scope.shared

    async def _release_first(self, rollout: Rollout, due: stored.AcceptedChangeSet, world: World) -> None:
        """Release the first state of a group whose changes go to canaries, unless it wants another one since `world`.

        Until then everybody is given what is wanted. Once an older state were released, all but the canaries would be sent
        back to it.
        """
        with suppress(_Outdated):
            async with write(self._database) as unit:
                released = await stored.release(unit, [due], self._clock())
                await unit.seal()  # from here to the commit nobody else makes a revision
                if unit.revision is not None:
                    caught_up = await worlds.advance(unit.session, world, unit.revision)
                    if caught_up is None:
                        raise _Outdated
                    newer, changes = caught_up
                    resources = affected(changes, world, newer).get(due.group, AffectedResources())
                    if not is_current(rollout, newer, resources):
                        raise _Outdated  # the newer World is published soon, and wakes the controller
            self._log_released(released)

    async def _release(self, due: Sequence[stored.AcceptedChangeSet]) -> None:
        for start in range(0, len(due), _BATCH_SIZE):
            async with write(self._database) as unit:
                released = await stored.release(unit, due[start : start + _BATCH_SIZE], self._clock())
            self._log_released(released)

    def _log_released(self, released: Iterable[stored.AcceptedChangeSet]) -> None:
        for each in released:
            self._counters.released += 1
            log.info(
                "xds.change_set_released", group=each.group, resources=len(each.wanted), canaries=len(each.canaries)
            )

    async def _store_progress(self, rollouts: dict[str, Rollout]) -> None:
        """Store which change-sets are in progress and why, for the API; only if that changed."""
        current = {
            key: stored.GroupRollout(
                group=key,
                fleet_id=fleet_id,
                change_sets=tuple(self._describe(key, each) for each in rollout.change_sets),
            )
            for key, rollout in rollouts.items()
            if any(each.audience is not Audience.EVERYBODY or each.reason for each in rollout.change_sets)
            and (fleet_id := self._publisher.fleet_of(key)) is not None
        }
        changed = [rollout for key, rollout in current.items() if self._stored.get(key) != rollout]
        self._unverified |= self._publisher.take_new_scopes()
        known = self._unverified | self._stored.keys()
        gone = [key for key in known if key not in current and self._publisher.has_streams(key)]
        if changed or gone:
            async with self._database.session() as session:
                await stored.store_rollouts(session, changed, gone, self._clock())
        self._stored = dict(current)
        self._unverified.clear()

    def _describe(self, group: str, change_set: ChangeSet) -> stored.TriedChangeSet:
        canaries = self._publisher.canaries_of(group) if change_set.audience is Audience.CANARIES else ()
        return stored.TriedChangeSet(
            change_set=change_set.key,
            given_to=change_set.audience,
            reason=change_set.reason,
            rejected=bool(change_set.rejected_by),
            canaries=tuple(sorted(canaries)),
            resources=tuple(
                (each.type_url, each.name, resource.version if resource else None)
                for each, resource in change_set.wanted.items()
            ),
        )


def _claim_order(proxy: UUID) -> int:
    """Order proxies in the same way at all replicas, and not by the time at which they were made."""
    return proxy.int * 0x9E37_79B9_7F4A_7C15 & (2**64 - 1)
