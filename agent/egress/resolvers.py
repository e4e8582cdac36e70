"""The resolvers that an exit's Envoy queries: the configured ones, else those in resolv.conf."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.config.settings import ExitSettings
from agent.egress.http_sources import parse_ip
from model.endpoint import Endpoint

RESOLV_CONF: Final = Path("/etc/resolv.conf")
PORT: Final = 53
_RESOLVERS_MAX: Final = 3
"""MAXNS of resolv.conf(5)."""
_LOOPBACK: Final = "127.0.0.1"
"""The default of resolv.conf(5) for a file without nameserver."""


def read_resolvers(exit_: ExitSettings, path: Path = RESOLV_CONF) -> tuple[Endpoint, ...]:
    """Return the resolvers in the exit's network namespace. Reads the file on every call."""
    hosts = exit_.resolvers or _read(path)
    return tuple(Endpoint(host, PORT) for host in hosts)


def _read(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    fields = [line.split() for line in lines]
    servers = [each[1] for each in fields if len(each) > 1 and each[0] == "nameserver" and parse_ip(each[1])]
    return tuple(servers[:_RESOLVERS_MAX]) or (_LOOPBACK,)
