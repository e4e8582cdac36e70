"""What the API works with. One replica has one context; nothing is global."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from api.runtime.auth_state import AuthState
from api.runtime.certificate_cache import CertificateCache
from api.runtime.heartbeat_sink import HeartbeatSink
from api.runtime.pending_orders import PendingOrders
from model.authority import CertificateAuthority
from model.database import Database
from model.repositories import worlds
from model.world import World


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class ReadContext:
    """A look at what is stored: the session, and since when a proxy must have been heard of to count as connected."""

    session: AsyncSession
    heard_since: datetime


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The ports and settings of a replica of the API.

    `clock` gives aware datetimes. `xds_address` is the host that proxies dial (None: the one they reached the API at) and
    `xds_port` its port. `silence_timeout` is how long a proxy may be silent and still count as connected. `auth` is what
    operators log in with. `readiness` names the other components of this process with whether each can do its work.
    """

    database: Database
    authority: CertificateAuthority
    clock: Callable[[], datetime]
    sink: HeartbeatSink
    credentials: CertificateCache
    orders: PendingOrders
    xds_address: str | None
    xds_port: int
    heartbeat_interval_s: float = 10
    silence_timeout: timedelta = timedelta(seconds=30)
    auth: AuthState = field(default_factory=AuthState)
    readiness: Mapping[str, Callable[[], bool]] = field(default_factory=dict)
    started: Callable[[], bool] = _always
    _worlds: list[World] = field(default_factory=lambda: [World()])
    """The newest World that was read, so that the next one costs only what changed since."""

    def look(self, session: AsyncSession) -> ReadContext:
        """A look at what is stored, now."""
        return ReadContext(session, self.clock() - self.silence_timeout)

    async def world(self) -> World:
        """The World as it is committed now."""
        known = self._worlds[0]
        caught_up = await worlds.catch_up(self.database, known) if known.revision else None
        world = caught_up[0] if caught_up else await worlds.load(self.database)
        if world.revision >= self._worlds[0].revision:
            self._worlds[0] = world
        return world


async def context_of(request: Request) -> ApiContext:
    """The context of the application that serves `request`. Async, for the framework runs others in a thread: 1 ms."""
    context: ApiContext = request.app.state.context
    return context


Context = Annotated[ApiContext, Depends(context_of)]
