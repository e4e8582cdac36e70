"""Tries change-sets on canaries and releases them to all: the part of a rollout that replicas agree on through PostgreSQL."""

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

from model.changes import write
from model.database import Database, DatabaseUnreachable
from model.repositories import rollout as stored
from model.world import ResourceKey
from xds.server.publisher import Publisher
from xds.snapshot.rollout import ChangeSet, Rollout, Verdict

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


class Releaser:
    """Looks after the rollouts of one replica; `run` is its task, `poke` says that there may be something to do."""

    def __init__(
        self,
        publisher: Publisher,
        database: Database,
        replica: UUID,
        policy: CanaryPolicy,
        clock: Callable[[], datetime],
    ) -> None:
        self._publisher = publisher
        self._database = database
        self._replica = replica
        self._policy = policy
        self._clock = clock
        self._event = asyncio.Event()
        self._tried_since: dict[tuple[str, str], float] = {}
        """Since when a change-set of a group is before its canaries here (monotonic seconds)."""
        self._accepted_at: dict[tuple[str, str], float] = {}
        """Since when all the canaries here hold it."""
        self._tired: set[tuple[str, UUID]] = set()
        """Proxies that took too long, by change-set: not asked for that again."""
        self._shown: dict[str, object] = {}

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
        soaking = [at + self._policy.soak_s - time.monotonic() for at in self._accepted_at.values()]
        return max(0.0, min([_LOOK_EVERY_S, *soaking]))

    async def _look(self) -> None:
        rollouts = self._publisher.rolling_out()
        self._forget({(key, each.key) for key, rollout in rollouts.items() for each in rollout.change_sets})
        due: list[stored.Release] = []
        for key, rollout in rollouts.items():
            for change_set in rollout.change_sets:
                if change_set.verdict is Verdict.EVERYBODY and self._somebody_has(key, change_set):
                    due.append(self._release_of(key, change_set, frozenset()))
                elif change_set.verdict is Verdict.CANARIES and (canaries := await self._try(key, change_set)):
                    due.append(self._release_of(key, change_set, canaries))
        await self._release(due)
        await self._show(rollouts)

    def _forget(self, current: set[tuple[str, str]]) -> None:
        for table in (self._tried_since, self._accepted_at):
            for gone in table.keys() - current:
                del table[gone]
        self._tired = {each for each in self._tired if each[0] in {key for _, key in current}}

    def _somebody_has(self, group: str, change_set: ChangeSet) -> bool:
        return any(self._publisher.stands(group, proxy, change_set) for proxy in self._publisher.proxies_of(group))

    async def _try(self, group: str, change_set: ChangeSet) -> frozenset[UUID]:
        """Have a change-set tried; gives the canaries here once they accepted it and it soaked, and none before."""
        now, attempt = time.monotonic(), (group, change_set.key)
        canaries = await self._canaries(group, change_set)
        since = self._tried_since.setdefault(attempt, now)
        waiting = [proxy for proxy in canaries if not self._publisher.stands(group, proxy, change_set)]
        if waiting or not canaries:
            self._accepted_at.pop(attempt, None)
            if waiting and now - since > self._policy.patience_s:
                await self._pass_on(group, change_set, waiting)
            return frozenset()
        soaked = now - self._accepted_at.setdefault(attempt, now) >= self._policy.soak_s
        return canaries if soaked else frozenset()

    async def _canaries(self, group: str, change_set: ChangeSet) -> frozenset[UUID]:
        """The proxies of this replica that try the changes of a group; some are claimed when there are none yet."""
        here = self._publisher.proxies_of(group)
        able = sorted((proxy for proxy in here if (change_set.key, proxy) not in self._tired), key=_spread)
        canaries = self._publisher.canaries_of(group)
        wanted = max(1, math.ceil(self._policy.share * len(here)))
        if len(canaries) < min(wanted, len(able)):
            async with self._database.session() as session:
                canaries = await stored.claim_canaries(
                    session, group, self._replica, able[:wanted], shared_out=self._policy.share > 0
                )
            self._publisher.set_canaries(group, canaries)
        return frozenset(canaries)

    async def _pass_on(self, group: str, change_set: ChangeSet, waiting: Iterable[UUID]) -> None:
        """These have taken too long: let others try."""
        waiting = set(waiting)
        log.warning("xds.canary_silent", group=group, proxies=sorted(map(str, waiting)))
        self._tired |= {(change_set.key, proxy) for proxy in waiting}
        async with self._database.session() as session:
            await stored.give_up_canaries(session, group, waiting)
        self._publisher.set_canaries(group, self._publisher.canaries_of(group) - waiting)
        self._tried_since.pop((group, change_set.key), None)
        self._event.set()

    def _release_of(self, group: str, change_set: ChangeSet, canaries: frozenset[UUID]) -> stored.Release:
        wanted = {
            ResourceKey(group, each.type_url, each.name): (resource.version, resource.body) if resource else None
            for each, resource in change_set.wanted.items()
        }
        approved_fleet = self._publisher.fleet_of(group) if change_set.shrinks else None
        return stored.Release(group, change_set.key, wanted, canaries, approved_fleet)

    async def _release(self, due: Sequence[stored.Release]) -> None:
        for start in range(0, len(due), _AT_ONCE):
            async with write(self._database) as unit:
                released = await stored.release(unit, due[start : start + _AT_ONCE], self._clock())
            for each in released:
                log.info("xds.released", group=each.group, resources=len(each.wanted), canaries=len(each.canaries))

    async def _show(self, rollouts: dict[str, Rollout]) -> None:
        """Write down what is under way and why, where the API finds it; only when that changed."""
        shown = {
            key: stored.Standing(
                group=key,
                fleet_id=fleet_id,
                change_sets=tuple(self._describe(key, each) for each in rollout.change_sets),
            )
            for key, rollout in rollouts.items()
            if any(each.verdict is not Verdict.EVERYBODY for each in rollout.change_sets)
            and (fleet_id := self._publisher.fleet_of(key)) is not None
        }
        changed = [standing for key, standing in shown.items() if self._shown.get(key) != standing]
        gone = [key for key in self._shown if key not in shown]
        if changed or gone:
            async with self._database.session() as session:
                await stored.show(session, changed, gone, self._clock())
            self._shown = dict(shown)

    def _describe(self, group: str, change_set: ChangeSet) -> stored.Tried:
        canaries = self._publisher.canaries_of(group) if change_set.verdict is Verdict.CANARIES else ()
        return stored.Tried(
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
