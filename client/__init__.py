"""A typed client of the REST API, for programs and for the command line (docs/client.md).

    async with Client("http://127.0.0.1:8000", f"Bearer {key}") as api:
        pool = await api.pools.create(PoolIn(name="us", fleet="demo", country="us"))

`from client import Client` imports nothing of the server: no FastAPI, no SQLAlchemy, no gRPC. The names below are imported on
first use, so that a command that only prints its help imports none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from client.client import COLLECTIONS, Client, collect
    from client.errors import ApiRefused, ApiUnreachable
    from client.transport import ConvergenceTally, Reply

__all__ = ["COLLECTIONS", "ApiRefused", "ApiUnreachable", "Client", "ConvergenceTally", "Reply", "collect"]

_MODULES: Final = {
    "COLLECTIONS": "client.client",
    "Client": "client.client",
    "collect": "client.client",
    "ApiRefused": "client.errors",
    "ApiUnreachable": "client.errors",
    "Reply": "client.transport",
    "ConvergenceTally": "client.transport",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
