"""A seeded run of changes to a declared fleet: pools, exits, routes and listeners are added, changed, renamed and removed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final
from uuid import UUID, uuid4

from model.database import Database
from model.entities import Role
from model.exit_states import ExitState
from model.repositories import declared
from model.stored_routes import pools_of
from model.tables import ExitRow, ListenerRow, PoolRow, ProxyRow, RouteRow
from model.unit_of_work import UnitOfWork, write
from xds.translate import names

STABLE: Final = ("us", "gb")
"""Countries whose pools keep a real exit."""
CHANGING: Final = ("ca", "de", "es", "fi", "fr", "ie", "it", "jp", "nl", "se")
_REFUSING_PORT: Final = 1
"""Exits that do not exist are at this port of addresses of loopback, which refuse connections."""
_PATIENT: Final = {"check_timeout_s": 10, "failures_to_eject": 100}
"""The resilience of stable pools: a late answer of a busy machine takes no exit out."""
_BRIEF: Final = {"check_timeout_s": 2}
"""The resilience of changing pools: their clusters warm for so long if an exit is frozen."""


class FleetChanger:
    """A source of changes, each of one to three acts in one transaction."""

    def __init__(self, database: Database, fleet_id: UUID, seed: int, freeze: Callable[[], int]) -> None:
        """`freeze` opens a port that never answers, so that a cluster with an exit there warms for its check timeout."""
        self.done: Counter[str] = Counter()
        self.pools: dict[UUID, str] = {}
        """Countries by pool."""
        self._database = database
        self._fleet_id = fleet_id
        self._freeze = freeze
        self._random = random.Random(seed)
        self._numbers = count(1)
        self._stable: dict[UUID, UUID] = {}
        """Pools by their real exit, which stays there."""
        self._roaming: tuple[UUID, UUID] | None = None
        """A real exit that moves between pools, and its pool."""
        self._exits: dict[UUID, UUID] = {}
        """Pools by exit, of those that do not exist."""
        self._routes: dict[UUID, Mapping[str, Any]] = {}
        """Actions by route."""
        self._listeners: set[UUID] = set()

    @property
    def changing(self) -> list[str]:
        """The countries that pools serve now, without the stable ones."""
        return [country for country in self.pools.values() if country not in STABLE] or [*CHANGING]

    @property
    def listeners(self) -> set[str]:
        """The resource names of the gateways' listeners."""
        return {names.GATEWAY_LISTENER, *(f"{names.GATEWAY_LISTENER}/{each}" for each in self._listeners)}

    async def declare(self, exits: Mapping[str, ExitRow]) -> None:
        """Declare a pool for each real exit, by country."""
        async with write(self._database) as unit:
            for country, exit_ in exits.items():
                pool_id = await self._save_pool(unit, country)
                exit_.pool_id = pool_id
                await declared.save(unit, exit_, self._fleet_id)
                if country in STABLE:
                    self._stable[exit_.id] = pool_id
                else:
                    self._roaming = exit_.id, pool_id

    async def change(self) -> str:
        """Make a change, and return the names of its acts."""
        acts = []
        async with write(self._database) as unit:
            for _ in range(self._random.choice([1, 1, 2, 3])):
                act = self._random.choice(self._possible())
                acts.append(act.__name__.strip("_"))
                await act(unit)
        self.done.update(acts)
        return " + ".join(acts)

    def _possible(self) -> list[Callable[[UnitOfWork], Any]]:
        acts: list[Callable[[UnitOfWork], Any]] = [self._change_pool] * 2 + [self._add_exit, self._move_real_exit]
        if self._free():
            acts += [self._add_pool] * 2 + [self._change_country]
        if self._removable():
            acts += [self._remove_pool] * 2 + [self._rename_pool]
            if self._free():
                acts += [self._replace_pool] * 2
        if self._exits:
            acts += [self._rename_exit, self._remove_exit]
        acts.append(self._add_route)
        if self._routes:
            acts += [self._change_route, self._rename_route, self._remove_route]
        if len(self._listeners) < 3:
            acts.append(self._add_listener)
        if self._listeners:
            acts += [self._change_listener, self._rename_listener, self._remove_listener]
        return acts

    # -- pools

    def _free(self) -> list[str]:
        return [country for country in CHANGING if country not in self.pools.values()]

    def _removable(self) -> list[UUID]:
        """The changing pools that nothing but exits that do not exist refers to."""
        assert self._roaming is not None
        used = {pool for action in self._routes.values() for pool in pools_of(action)}
        kept = {*self._stable.values(), self._roaming[1], *used}
        return [pool for pool in self.pools if pool not in kept]

    async def _save_pool(self, unit: UnitOfWork, country: str) -> UUID:
        row = PoolRow(
            fleet_id=self._fleet_id,
            name=self._name("pool"),
            country=country,
            resilience=_resilience(country),
            created_at=datetime.now(UTC),
        )
        await declared.save(unit, row)
        self.pools[row.id] = country
        return row.id

    async def _add_pool(self, unit: UnitOfWork) -> None:
        pool_id = await self._save_pool(unit, self._random.choice(self._free()))
        if self._random.random() < 0.5:
            await self._save_exit(unit, pool_id, self._freeze())

    async def _remove_pool(self, unit: UnitOfWork) -> None:
        await self._drop_pool(unit, self._random.choice(self._removable()))

    async def _drop_pool(self, unit: UnitOfWork, pool_id: UUID) -> None:
        for exit_id in [exit_id for exit_id, pool in self._exits.items() if pool == pool_id]:
            await self._drop_exit(unit, exit_id)
        await self._remove(unit, PoolRow, pool_id)
        del self.pools[pool_id]

    async def _replace_pool(self, unit: UnitOfWork) -> None:
        old = self._random.choice(self._removable())
        await self._add_pool(unit)
        await self._drop_pool(unit, old)

    async def _rename_pool(self, unit: UnitOfWork) -> None:
        await self._set(unit, PoolRow, self._random.choice(self._removable()), name=self._name("pool"))

    async def _change_country(self, unit: UnitOfWork) -> None:
        changing = [pool for pool, country in self.pools.items() if country not in STABLE]
        if changing:
            pool_id, country = self._random.choice(changing), self._random.choice(self._free())
            await self._set(unit, PoolRow, pool_id, country=country)
            self.pools[pool_id] = country

    async def _change_pool(self, unit: UnitOfWork) -> None:
        """Change the cluster of a pool, also of a stable one."""
        pool_id = self._random.choice([*self.pools])
        changed = {"ejection_time_s": next(self._numbers) % 250 + 1, "max_ejection_time_s": 300}
        await self._set(unit, PoolRow, pool_id, resilience=_resilience(self.pools[pool_id]) | changed)

    # -- exits

    async def _add_exit(self, unit: UnitOfWork) -> None:
        await self._save_exit(unit, self._random.choice([*self.pools]), _REFUSING_PORT)

    async def _save_exit(self, unit: UnitOfWork, pool_id: UUID, port: int) -> None:
        proxy = ProxyRow(fleet_id=self._fleet_id, name=self._name("exit"), role=Role.EXIT, created_at=datetime.now(UTC))
        await declared.save(unit, proxy)
        row = exit_row(proxy.id, proxy.name, port, pool_id)
        if port == _REFUSING_PORT:
            number = next(self._numbers)
            row.address = row.endpoint = (
                f"127.2.{number >> 8}.{number & 255}"  # Envoy takes each address of a pool once
            )
        await declared.save(unit, row, self._fleet_id)
        self._exits[proxy.id] = pool_id

    async def _rename_exit(self, unit: UnitOfWork) -> None:
        await self._set(unit, ExitRow, self._random.choice([*self._exits]), name=self._name("exit"))

    async def _remove_exit(self, unit: UnitOfWork) -> None:
        await self._drop_exit(unit, self._random.choice([*self._exits]))

    async def _drop_exit(self, unit: UnitOfWork, exit_id: UUID) -> None:
        await self._remove(unit, ExitRow, exit_id)
        await self._remove(unit, ProxyRow, exit_id)
        del self._exits[exit_id]

    async def _move_real_exit(self, unit: UnitOfWork) -> None:
        assert self._roaming is not None
        self._roaming = self._roaming[0], self._random.choice([*self.pools])
        await self._set(unit, ExitRow, self._roaming[0], pool_id=self._roaming[1])

    # -- routes and listeners

    def _action(self) -> dict[str, Any]:
        pools = self._random.sample([*self.pools], k=min(len(self.pools), self._random.choice([1, 2, 3])))
        chosen, fallback = pools[: len(pools) // 2 or 1], pools[len(pools) // 2 or 1 :]
        return {"pools": [{"id": str(pool), "weight": 1} for pool in chosen], "fallback": [*map(str, fallback)]}

    async def _add_route(self, unit: UnitOfWork) -> None:
        """Add a route for a port that no client asks for, so that it changes no answer."""
        action, number = self._action(), next(self._numbers)
        row = RouteRow(
            fleet_id=self._fleet_id,
            name=self._name("route"),
            position=number,
            match={"ports": ["1"]},
            action=action,
            created_at=datetime.now(UTC),
        )
        await declared.save(unit, row)
        await self._note_route(unit, row.id, action)

    async def _note_route(self, unit: UnitOfWork, route_id: UUID, action: Mapping[str, Any]) -> None:
        await declared.set_pools_of_route(unit.session, route_id, pools_of(action))
        self._routes[route_id] = action

    async def _change_route(self, unit: UnitOfWork) -> None:
        route_id, action = self._random.choice([*self._routes]), self._action()
        await self._set(unit, RouteRow, route_id, action=action)
        await self._note_route(unit, route_id, action)

    async def _rename_route(self, unit: UnitOfWork) -> None:
        await self._set(unit, RouteRow, self._random.choice([*self._routes]), name=self._name("route"))

    async def _remove_route(self, unit: UnitOfWork) -> None:
        route_id = self._random.choice([*self._routes])
        await declared.set_pools_of_route(unit.session, route_id, ())
        await self._remove(unit, RouteRow, route_id)
        del self._routes[route_id]

    async def _add_listener(self, unit: UnitOfWork) -> None:
        """Add a listener on a free port of an address of its own: every gateway of this machine opens it."""
        number = next(self._numbers)
        row = ListenerRow(
            fleet_id=self._fleet_id, name=self._name("listener"), address=f"127.1.{number >> 8}.{number & 255}", port=0
        )
        await declared.save(unit, row)
        self._listeners.add(row.id)

    async def _change_listener(self, unit: UnitOfWork) -> None:
        await self._set(
            unit, ListenerRow, self._random.choice(sorted(self._listeners)), country=self._random.choice(CHANGING)
        )

    async def _rename_listener(self, unit: UnitOfWork) -> None:
        await self._set(unit, ListenerRow, self._random.choice(sorted(self._listeners)), name=self._name("listener"))

    async def _remove_listener(self, unit: UnitOfWork) -> None:
        listener_id = self._random.choice(sorted(self._listeners))
        await self._remove(unit, ListenerRow, listener_id)
        self._listeners.discard(listener_id)

    # -- rows

    def _name(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers)}"

    async def _set(self, unit: UnitOfWork, table: Any, row_id: UUID, **fields: Any) -> None:
        row = await declared.lock(unit.session, table, row_id)
        assert row is not None
        await declared.save_changes(unit, row, fields, self._fleet_id)

    async def _remove(self, unit: UnitOfWork, table: Any, row_id: UUID) -> None:
        row = await declared.lock(unit.session, table, row_id)
        assert row is not None
        await declared.remove(unit, row, self._fleet_id)


def _resilience(country: str) -> dict[str, Any]:
    return dict(_PATIENT if country in STABLE else _BRIEF)


def exit_row(exit_id: UUID, name: str, port: int, pool_id: UUID | None = None) -> ExitRow:
    """Make a healthy exit on loopback, which may connect to loopback."""
    now = datetime.now(UTC)
    return ExitRow(
        id=exit_id,
        pool_id=pool_id or uuid4(),
        name=name,
        address="127.0.0.1",
        endpoint="127.0.0.1",
        port=port,
        bind_address="127.0.0.1",
        egress_address="127.0.0.1",
        state=ExitState.HEALTHY,
        state_reason="",
        state_since=now,
        created_at=now,
    )
