"""Tries change-sets on canaries and releases them to all: the part of a rollout that replicas agree on through PostgreSQL."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog

from model.database import Database, DatabaseUnreachable
from model.entities import ResourceKey
from model.repositories import rollout as stored
from model.unit_of_work import write
from xds.server.envoy_validator import EnvoyValidator
from xds.server.publisher import Publisher
from xds.snapshot.rollout import Audience, ChangeSet, Rollout

_RETRY_S: Final = 0.5
_LOOK_EVERY_S: Final = 2.0
_AT_ONCE: Final = 500
"""Change-sets released in one transaction."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CanaryPolicy:
    """How change-sets are tried. Endpoints and secrets are not: they go to everybody at once."""

    share: float = 0
    """Of a group's proxies at one replica, between 0 (one proxy of the whole group) and 1 (no canaries: all at once)."""
    soak_s: float = 0
    """How long the canaries must have had a change-set before the others are given it."""
    patience_s: float = 60
    """How long a canary may take to accept a change-set before another proxy is asked."""

    @property
    def wanted(self) -> bool:
        return self.share < 1


class RolloutController:
    """Looks after the rollouts of one replica; `run` is its task, `poke` says that there may be something to do."""

    def __init__(
        self,
        publisher: Publisher,
        database: Database,
        replica: UUID,
        policy: CanaryPolicy,
        clock: Callable[[], datetime],
        checker: EnvoyValidator | None = None,
    ) -> None:
        self._publisher = publisher
        self._checker = checker
        self._database = database
        self._replica = replica
        self._policy = policy
        self._clock = clock
        self._event = asyncio.Event()
        self._tried_since: dict[tuple[str, str], float] = {}
        """Since when a change-set of a group is before its canaries here (monotonic seconds)."""
        self._accepted_at: dict[tuple[str, str], float] = {}
        """Since when all the canaries here hold it."""
        self._soaked_at = math.inf
        """When the next of those that soak has."""
        self._tired: dict[tuple[str, UUID], float] = {}
        """Until when proxies that took too long are not asked again, by group."""
        self._claimed: dict[str, set[UUID]] = {}
        """The proxies that may be written down as canaries of this replica, by group."""
        self._claim_at: dict[str, float] = {}
        """When canaries of a group may be claimed again, that others had or that there were too few of."""
        self._shown: dict[str, object] = {}
        self._unchecked: set[str] = set()
        """Groups of which something may be shown that an earlier replica wrote."""

    def poke(self) -> None:
        self._event.set()

    async def run(self) -> None:
        """Release what may be released, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._next_look_s()):
                    await self._event.wait()
            self._event.clear()
            try:
                await self._look()
            except DatabaseUnreachable:
                await asyncio.sleep(_RETRY_S)
                self._event.set()
            except Exception:
                log.exception("xds.rollout_failed")  # the next look may do better; what proxies have stays as it is
                await asyncio.sleep(_RETRY_S)

    def _next_look_s(self) -> float:
        return max(0.0, min(_LOOK_EVERY_S, self._soaked_at - time.monotonic()))

    async def _look(self) -> None:
        rollouts, world = self._publisher.rolling_out(), self._publisher.world
        revision = world.revision if world else 0
        self._forget({(key, each.key) for key, rollout in rollouts.items() for each in rollout.change_sets})
        self._soaked_at = math.inf
        await self._give_up_who_left()
        due: list[stored.AcceptedChangeSet] = []
        for key, rollout in rollouts.items():
            for change_set in rollout.change_sets:
                if change_set.verdict is Audience.NOBODY:
                    continue
                # asked for at once, so that it looks while canaries try
                passed = self._checker is None or self._checker.passed(key, change_set)
                canaries: frozenset[UUID] = frozenset()
                if change_set.verdict is Audience.CANARIES:
                    canaries = await self._try(key, change_set)
                if passed and (canaries or self._everybody_may(key, change_set)):
                    due.append(self._release_of(key, change_set, canaries, revision))
        await self._release(due)
        await self._show(rollouts)

    def _forget(self, current: set[tuple[str, str]]) -> None:
        for table in (self._tried_since, self._accepted_at):
            for gone in table.keys() - current:
                del table[gone]
        groups, now = {group for group, _ in current}, time.monotonic()
        self._tired = {each: until for each, until in self._tired.items() if each[0] in groups and until > now}
        self._claim_at = {group: at for group, at in self._claim_at.items() if at > now}

    async def _give_up_who_left(self) -> None:
        """Canaries whose streams ended try nothing: others may, here or at another replica."""
        for group, claimed in [*self._claimed.items()]:
            left = claimed - self._publisher.proxies_of(group)
            if left and not self._publisher.is_refusing(group):  # first all replicas must know what they rejected
                await self._give_up(group, left)

    async def _give_up(self, group: str, proxies: set[UUID]) -> None:
        async with self._database.session() as session:
            await stored.remove_canaries(session, group, self._replica, proxies)
        self._claimed[group] -= proxies
        if not self._claimed[group]:
            del self._claimed[group]
        self._publisher.set_canaries(group, self._publisher.canaries_of(group) - proxies)
        self._claim_at.pop(group, None)

    def _everybody_may(self, group: str, change_set: ChangeSet) -> bool:
        """Whether a change-set is for everybody, and somebody has it already."""
        proxies = self._publisher.proxies_of(group) if change_set.verdict is Audience.EVERYBODY else ()
        return any(self._publisher.stands(group, proxy, change_set) for proxy in proxies)

    async def _try(self, group: str, change_set: ChangeSet) -> frozenset[UUID]:
        """Have a change-set tried; gives the canaries here once they accepted it and it soaked, and none before."""
        now, attempt = time.monotonic(), (group, change_set.key)
        if self._publisher.is_refusing(group):
            return frozenset()
        if attempt not in self._tried_since:  # whoever was slow with another one may be quick with this
            self._tired = {each: until for each, until in self._tired.items() if each[0] != group}
        since = self._tried_since.setdefault(attempt, now)
        canaries = await self._canaries(group, now)
        waiting = [proxy for proxy in canaries if not self._publisher.stands(group, proxy, change_set)]
        if waiting or not canaries:
            self._accepted_at.pop(attempt, None)
            if waiting and now - since > self._policy.patience_s:
                await self._pass_on(group, change_set, set(waiting))
            return frozenset()
        soaked_at = self._accepted_at.setdefault(attempt, now) + self._policy.soak_s
        if soaked_at > now:
            self._soaked_at = min(self._soaked_at, soaked_at)
            return frozenset()
        return canaries

    async def _canaries(self, group: str, now: float) -> frozenset[UUID]:
        """The proxies of this replica that try the changes of a group; some are claimed when there are none yet."""
        here = self._publisher.proxies_of(group)
        canaries = self._publisher.canaries_of(group)
        able = [proxy for proxy in here - canaries if self._tired.get((group, proxy), 0) <= now]
        wanted = max(1, math.ceil(self._policy.share * len(here)))
        more = sorted(able, key=_spread)[: max(0, wanted - len(canaries))]
        if not more or self._claim_at.get(group, 0) > now:
            return canaries
        self._claimed.setdefault(group, set()).update(more)  # before it is known: the answer may get lost
        async with self._database.session() as session:
            claimed = await stored.claim_canaries(
                session, group, self._replica, more, shared_out=self._policy.share > 0
            )
        self._claimed[group] |= claimed
        self._publisher.set_canaries(group, claimed)
        if len(claimed) < wanted:
            self._claim_at[group] = now + _LOOK_EVERY_S
        return self._publisher.canaries_of(group)

    async def _pass_on(self, group: str, change_set: ChangeSet, waiting: set[UUID]) -> None:
        """These have taken too long: let others try. If those take too long as well, these are asked again."""
        log.warning("xds.canary_silent", group=group, proxies=sorted(map(str, waiting)))
        until = time.monotonic() + self._policy.patience_s
        self._tired |= {(group, proxy): until for proxy in waiting}
        await self._give_up(group, waiting)
        self._tried_since[group, change_set.key] = time.monotonic()
        self._event.set()

    def _release_of(
        self, group: str, change_set: ChangeSet, canaries: frozenset[UUID], revision: int
    ) -> stored.AcceptedChangeSet:
        wanted = {
            ResourceKey(group, each.type_url, each.name): (resource.version, resource.body) if resource else None
            for each, resource in change_set.wanted.items()
        }
        approved_fleet = self._publisher.fleet_of(group) if change_set.shrinks else None
        return stored.AcceptedChangeSet(group, change_set.key, wanted, canaries, revision, approved_fleet)

    async def _release(self, due: Sequence[stored.AcceptedChangeSet]) -> None:
        for start in range(0, len(due), _AT_ONCE):
            async with write(self._database) as unit:
                released = await stored.release(unit, due[start : start + _AT_ONCE], self._clock())
            for each in released:
                log.info("xds.released", group=each.group, resources=len(each.wanted), canaries=len(each.canaries))

    async def _show(self, rollouts: dict[str, Rollout]) -> None:
        """Write down what is under way and why, where the API finds it; only when that changed."""
        shown = {
            key: stored.GroupRollout(
                group=key,
                fleet_id=fleet_id,
                change_sets=tuple(self._describe(key, each) for each in rollout.change_sets),
            )
            for key, rollout in rollouts.items()
            if any(each.verdict is not Audience.EVERYBODY for each in rollout.change_sets)
            and (fleet_id := self._publisher.fleet_of(key)) is not None
        }
        changed = [standing for key, standing in shown.items() if self._shown.get(key) != standing]
        self._unchecked |= self._publisher.take_new()
        gone = [key for key in self._unchecked | self._shown.keys() if key not in shown and self._publisher.holds(key)]
        if changed or gone:
            async with self._database.session() as session:
                await stored.store_rollouts(session, changed, gone, self._clock())
        self._shown = dict(shown)
        self._unchecked.clear()

    def _describe(self, group: str, change_set: ChangeSet) -> stored.TriedChangeSet:
        canaries = self._publisher.canaries_of(group) if change_set.verdict is Audience.CANARIES else ()
        return stored.TriedChangeSet(
            change_set=change_set.key,
            given_to=change_set.verdict,
            reason=change_set.reason,
            canaries=tuple(sorted(canaries)),
            resources=tuple(
                (each.type_url, each.name, resource.version if resource else None)
                for each, resource in change_set.wanted.items()
            ),
        )


def _spread(proxy: UUID) -> int:
    """An order that is the same on all replicas, and not that in which proxies were made."""
    return proxy.int * 0x9E37_79B9_7F4A_7C15 & (2**64 - 1)
