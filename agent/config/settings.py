"""What an agent is told when it is started."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final

from yarl import URL

from agent.config.option_parsing import BadSetting
from agent.egress.parent_proxy import ParentProxy
from agent.gluetun.client import GluetunAccess
from agent.vpn.servers import Server
from model.endpoint import Endpoint
from model.entities import Role
from model.locality import Locality

OBSERVE_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ExitSettings:
    """What an exit tells about itself, and how its tunnel is watched.

    Gateways dial `address` and `port`; Envoy listens on `bind_address` (None: all), and leaves from `egress_address`
    (None: the kernel's choice). `probe` is dialled through the tunnel, and is an IP address. `sources` tell where traffic comes
    out, which must never be one of `host_addresses`; they are asked again every `observe_every_s`. `geoip` and `locate` know where
    addresses are. `resolvers` (IP addresses) are those that Envoy asks, none: resolv.conf's; `dns_zone` reveals who asks for them,
    and those in `dns_allow` may. Speed is measured against `speed_url`, every `speed_every_s` if that is given.

    With a `parent` all that goes through it, `probe` and `sources` too; `gluetun` says how the tunnel behind it stands.

    With `servers` the agent brings up the tunnel itself, as `tunnel_interface`, to the first of them that it can. `resolvers`
    are then the only ones that names are asked of, instead of those that belong to the tunnel. `kill_switch` is whether nothing may
    leave but through the tunnel, which is somebody else's and goes to `tunnel_endpoints` (each with `udp` or `tcp`) or to
    `servers`.
    """

    pool: str
    address: str
    port: int
    bind_address: str | None = None
    egress_address: str | None = None
    tunnel_interface: str | None = None
    probe: Endpoint | None = None
    sources: tuple[URL, ...] = ()
    host_addresses: frozenset[str] = frozenset()
    observe_every_s: float = OBSERVE_EVERY_S
    geoip: Path | None = None
    locate: URL | None = None
    resolvers: tuple[str, ...] = ()
    dns_zone: str | None = None
    dns_allow: tuple[IPv4Network | IPv6Network, ...] = ()
    speed_url: URL | None = None
    speed_upload_url: URL | None = None
    speed_every_s: float | None = None
    parent: ParentProxy | None = None
    gluetun: GluetunAccess | None = None
    servers: tuple[Server, ...] = ()
    kill_switch: bool = False
    tunnel_endpoints: tuple[tuple[Endpoint, str], ...] = ()


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """An agent is a gateway's unless it has an `exit`.

    `drain_time_s` is Envoy's own drain time and how long open tunnels may hold up the end; None leaves Envoy its own and
    holds up the end for a moment only. None elsewhere leaves the choice to Envoy or to the agent.
    """

    api: URL
    state: Path
    name: str
    token_file: Path | None
    exit: ExitSettings | None = None
    locality: Locality | None = None
    drain_time_s: float | None = None
    concurrency: int | None = None
    max_downstream_connections: int | None = None
    otlp: Endpoint | None = None
    envoy: Path | None = None
    envoy_log_level: str = "warning"

    @property
    def role(self) -> Role:
        return Role.EXIT if self.exit else Role.GATEWAY

    @property
    def kill_switch(self) -> bool:
        """Whether nothing may leave but through the tunnel, and what is marked."""
        return self.exit is not None and self.exit.kill_switch


def read_token(path: Path | None) -> str:
    """The join token in a file. Raises BadSetting."""
    hint = "write what `exitplane token` prints into a file and name it with --token-file"
    if path is None:
        raise BadSetting("there is no join token", hint=hint)
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise BadSetting(f"--token-file {path} cannot be read ({reason})", hint=hint) from error
    if not token:
        raise BadSetting(f"--token-file {path} is empty", hint=hint)
    return token
