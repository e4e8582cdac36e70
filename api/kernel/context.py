"""The state and settings that the API works with. A replica has one context; nothing is global."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from api.http.request_metrics import RequestCounters
from api.runtime.auth_state import AuthState
from api.runtime.certificate_cache import CertificateCache
from api.runtime.heartbeat_sink import HeartbeatSink
from api.runtime.pending_orders import PendingOrders
from api.runtime.world_cache import WorldCache
from model.connection_table import ConnectionTable
from model.container_policy import ContainerPolicy
from model.current_authority import CurrentAuthority
from model.database import Database


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class ReadContext:
    """A session for reads. A proxy counts as connected if its last heartbeat is not older than `alive_since`."""

    session: AsyncSession
    now: datetime
    alive_since: datetime


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The state and settings of one replica of the API.

    `clock` returns aware datetimes. `xds_address` is the host that proxies dial (None: the host at which they reached the
    API) and `xds_port` its port. A proxy that is silent for longer than `silence_timeout` does not count as connected.
    Certificates of agents that renew them are valid for `leaf_lifetime`. With `allows_local_parents` operators may declare parents
    on their exits' own hosts. `container_policy` says what fleets may use in containers. `readiness_checks` has a check for each
    other component of this process, by the component's name, and `connection_tables` has the connections of each listener.
    """

    database: Database
    authority: CurrentAuthority
    clock: Callable[[], datetime]
    heartbeat_sink: HeartbeatSink
    certificate_cache: CertificateCache
    pending_orders: PendingOrders
    xds_address: str | None
    xds_port: int
    heartbeat_interval_s: float = 10
    silence_timeout: timedelta = timedelta(seconds=30)
    leaf_lifetime: timedelta = timedelta(hours=48)
    allows_local_parents: bool = False
    allows_local_channels: bool = False
    """Channels of messages may name this host."""
    container_policy: ContainerPolicy = field(default_factory=ContainerPolicy)
    certificate_folder: Path | None = None
    """The folder in which ACME clients keep certificates of listeners."""
    auth_state: AuthState = field(default_factory=AuthState)
    world_cache: WorldCache = field(default_factory=WorldCache)
    readiness_checks: Mapping[str, Callable[[], bool]] = field(default_factory=dict)
    connection_tables: Mapping[str, ConnectionTable[Any]] = field(default_factory=dict)
    request_counters: RequestCounters = field(default_factory=RequestCounters)
    has_started: Callable[[], bool] = _always

    def begin_read(self, session: AsyncSession) -> ReadContext:
        """Make the context of reads in `session`, as of now."""
        now = self.clock()
        return ReadContext(session, now, now - self.silence_timeout)


async def context_of(request: Request) -> ApiContext:
    """Get the context of the application that serves `request`.

    It is async because the framework runs other dependencies in a thread, which costs 1 ms.
    """
    context: ApiContext = request.app.state.context
    return context


Context = Annotated[ApiContext, Depends(context_of)]
