"""The containers of a pool as they are stored: a JSON object of what is not as by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

MAXIMUM: Final = 100
"""How many containers a pool may have."""
DRAIN_S: Final = 60


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """How many exits of a pool run as containers, and what they are made of.

    Between `minimum` and `maximum` the number follows the load: `requests_per_exit` is how many open requests an exit should
    have at most, on average (None: `minimum` it is). An exit that goes has `drain_s` to end what it has.

    `address` is where gateways reach the ports of all containers, which are published there: the first has `port`, the next
    the one after it. None: each is reached by its own name in `network`, and all have `port`. `secrets` names files of the
    engine's host, which are mounted below /run/secrets.
    """

    minimum: int
    maximum: int
    image: str
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ("NET_ADMIN",)
    devices: tuple[str, ...] = ("/dev/net/tun",)
    network: str | None = None
    address: str | None = None
    port: int = 8443
    requests_per_exit: int | None = None
    drain_s: int = DRAIN_S


_KNOBS: Final = frozenset(each.name for each in fields(ContainerSettings))


def read_containers(stored: Mapping[str, Any]) -> ContainerSettings:
    """For example `{"minimum": 1, "maximum": 3, "image": "exit:1"}`."""
    # a newer version beside this one may know of more
    known = {name: value for name, value in stored.items() if name in _KNOBS}
    lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return ContainerSettings(**(known | lists))
