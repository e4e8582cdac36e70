"""What the API works with. One replica has one context; nothing is global."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, Request

from api.heartbeats.credentials import Credentials
from api.heartbeats.sink import HeartbeatSink
from model.authority import Authority
from model.database import Database


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The ports and settings of a replica of the API.

    `clock` gives aware datetimes. `xds_address` is the host that proxies dial (None: the one they reached the API at) and
    `xds_port` its port. `silence_timeout` is how long a proxy may be silent and still count as connected. `host_names`
    are what operators may call this host besides `localhost` and IP literals. `readiness` names the other components of
    this process with whether each can do its work.
    """

    database: Database
    authority: Authority
    clock: Callable[[], datetime]
    sink: HeartbeatSink
    credentials: Credentials
    xds_address: str | None
    xds_port: int
    heartbeat_interval_s: float = 10
    silence_timeout: timedelta = timedelta(seconds=30)
    host_names: frozenset[str] = frozenset()
    readiness: Mapping[str, Callable[[], bool]] = field(default_factory=dict)
    started: Callable[[], bool] = _always


async def context_of(request: Request) -> ApiContext:
    """The context of the application that serves `request`. Async, for the framework runs others in a thread: 1 ms."""
    context: ApiContext = request.app.state.context
    return context


Context = Annotated[ApiContext, Depends(context_of)]
