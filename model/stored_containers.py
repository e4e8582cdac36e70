"""The stored container settings of a pool: a JSON object of the fields that differ from the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

MAXIMUM: Final = 100
"""The highest `maximum` of a pool."""
DRAIN_S: Final = 60


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """The number and the specification of a pool's containers.

    Between `minimum` and `maximum` the number follows the load: `requests_per_exit` is the highest average of open requests
    for each exit (None: always `minimum` containers). A container that is removed has `drain_s` for its open requests.

    `address` is the host at which gateways reach the published ports of all containers: slot 1 has `port`, slot 2 the next one.
    None: gateways reach each container by its name in `network`, and all have `port`. `secrets` names files of the engine's
    host, which are mounted below /run/secrets.
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


_FIELDS: Final = frozenset(each.name for each in fields(ContainerSettings))


def read_containers(stored: Mapping[str, Any]) -> ContainerSettings:
    """Read for example `{"minimum": 1, "maximum": 3, "image": "exit:1"}`."""
    # a newer version alongside this one may have stored more fields
    known = {name: value for name, value in stored.items() if name in _FIELDS}
    lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return ContainerSettings(**(known | lists))
