"""The resolvers that an exit's Envoy asks: those that it was given, else those of resolv.conf."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.config.settings import ExitSettings
from agent.egress.http_sources import literal
from model.endpoint import Endpoint

RESOLV_CONF: Final = Path("/etc/resolv.conf")
PORT: Final = 53
_RESOLVERS_MAX: Final = 3
"""As many as resolv.conf(5) lets count."""
_LOOPBACK: Final = "127.0.0.1"
"""Who is asked where resolv.conf names nobody."""


def resolvers_of(exit_: ExitSettings, path: Path = RESOLV_CONF) -> tuple[Endpoint, ...]:
    """Who is asked for names in the exit's network namespace, read anew each time."""
    hosts = exit_.resolvers or _read(path)
    return tuple(Endpoint(host, PORT) for host in hosts)


def _read(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    words = [line.split() for line in lines]
    named = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver" and literal(word[1])]
    return tuple(named[:_RESOLVERS_MAX]) or (_LOOPBACK,)
