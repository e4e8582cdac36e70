"""`host:port` as settings, options and replies write it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host name or IP literal (IPv6 without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str, *, lowest_port: int = 1) -> Endpoint:
    """Read `host:port` or `[ipv6]:port`; `lowest_port=0` allows port 0, which means any free port. Raises ValueError."""
    host, _, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    plain = name and (":" not in name or bracketed) and not set(name) & set(" /@[]")
    if not plain or not (port.isascii() and port.isdecimal()) or not lowest_port <= int(port) <= 65535:
        raise ValueError(f"{text!r} is not host:port")
    return Endpoint(name, int(port))
