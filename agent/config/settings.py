"""The settings of an agent."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Final

import structlog
from yarl import URL

from agent.config.credentials import Credentials, read_credentials
from agent.config.option_parsing import BadSetting
from model.endpoint import Endpoint
from model.entities import Role
from model.locality import Locality

log = structlog.get_logger()

OBSERVE_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ParentProxy:
    """The HTTP proxy that an exit sends all traffic to. `file` holds the credentials."""

    endpoint: Endpoint
    credentials: Credentials | None = None
    file: Path | None = None

    def current_credentials(self) -> Credentials | None:
        """Read the credentials from the file again, so that a change needs no restart."""
        if self.file is None:
            return self.credentials
        try:
            return read_credentials("--parent-credentials", self.file)
        except BadSetting:
            return self.credentials


@dataclass(frozen=True, slots=True)
class GluetunAccess:
    """The URL of gluetun's control API, and a key or credentials for it, if it asks for them."""

    url: URL
    key: str | None = field(default=None, repr=False)
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True)
class TunnelServer:
    """A VPN server that a file of `--tunnel` names, and what its driver needs to bring up a tunnel to it.

    `driver` is a name in agent/vpn/registry.py, `file` the file's name. The server is spoken to at `contacts`, each by `udp` or
    `tcp`. `resolvers` (IP addresses) are those that the file names. Only the driver reads `config`.
    """

    driver: str
    file: str
    contacts: tuple[tuple[Endpoint, str], ...]
    config: object = field(repr=False)
    resolvers: tuple[str, ...] = ()
    uses_credentials: bool = False


@dataclass(frozen=True, slots=True)
class ExitSettings:
    """The settings of an exit: its place in the fleet, its tunnel, and its observation.

    Gateways dial `address` and `port`. Envoy listens on `bind_address` (None: all) and sends from `egress_address` (None: the
    kernel's choice). The TCP endpoint `probe`, an IP address, must answer through the tunnel.

    Each of `sources` tells the address and country of its caller; they are asked every `observe_every_s`. The address must not be one
    of `host_addresses`. `geoip` (a MaxMind DB) and `locate` (a URL) give the country of an address. `resolvers` (IP addresses) are
    Envoy's, those of resolv.conf if there are none. Names in `dns_zone` reveal who resolves, and resolvers in `dns_allow` may be
    anywhere. Speed is measured against `speed_url`, every `speed_every_s` if that is given.

    With a `parent`, all traffic goes through that proxy, that of `probe` and `sources` too. `gluetun` tells the state of the tunnel
    behind it.

    With `servers`, the agent brings up the tunnel itself, as `tunnel_interface`, to the first server that answers; `resolvers` then
    replace the tunnel's own. With `kill_switch`, packets leave through the tunnel or to its server alone: one of `servers`, or
    `tunnel_endpoints` (each by `udp` or `tcp`) for a tunnel that somebody else brings up.
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
    servers: tuple[TunnelServer, ...] = ()
    kill_switch: bool = False
    tunnel_endpoints: tuple[tuple[Endpoint, str], ...] = ()

    @property
    def bound_interface(self) -> str | None:
        """The interface that Envoy's connections to targets are bound to; None: routes or the parent lead them into the tunnel."""
        return None if self.servers or self.parent else self.tunnel_interface

    @property
    def marks_clients(self) -> bool:
        """True if connections to targets carry CLIENT_MARK. A parent may be on the exit's own host, which that forbids."""
        return self.kill_switch and self.parent is None


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """The settings of an agent, which is a gateway's unless it has an `exit`.

    `api_ca` holds the authorities that sign the API's certificate, in PEM; None: the system's and that of the enrolment.
    `drain_time_s` is Envoy's drain time, and how long open tunnels may delay the agent's end; None leaves Envoy its default and delays
    the end by a few seconds at most. With `metrics` Envoy offers its metrics there. None elsewhere leaves the choice to Envoy or to
    the agent.
    """

    api: URL
    state: Path
    name: str
    token_file: Path | None
    api_ca: str | None = None
    exit: ExitSettings | None = None
    locality: Locality | None = None
    drain_time_s: float | None = None
    concurrency: int | None = None
    max_downstream_connections: int | None = None
    otlp: Endpoint | None = None
    metrics: Endpoint | None = None
    envoy: Path | None = None
    envoy_log_level: str = "warning"

    @property
    def role(self) -> Role:
        return Role.EXIT if self.exit else Role.GATEWAY

    @property
    def advertised_metrics(self) -> Endpoint | None:
        """The address of Envoy's metrics for Prometheus; None if there are none, or the agent knows no address of its host."""
        if self.metrics is None or not ip_address(self.metrics.host).is_unspecified:
            return self.metrics
        return Endpoint(self.exit.address, self.metrics.port) if self.exit else None

    @property
    def kill_switch(self) -> bool:
        """True if packets leave through the tunnel alone, apart from those with BYPASS_MARK."""
        return self.exit is not None and self.exit.kill_switch


def read_token(path: Path | None) -> str:
    """Read the join token from a file, and warn if others may read it too. Raises BadSetting."""
    hint = "`exitplane token create --output FILE` writes one; name it with --token-file"
    if path is None:
        raise BadSetting("there is no join token", hint=hint)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise BadSetting(f"--token-file {path} cannot be read ({reason})", hint=hint) from error
    if not token:
        raise BadSetting(f"--token-file {path} is empty", hint=hint)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):  # a warning only, because container engines mount secrets for all users
        log.warning("agent.token_file_open", file=str(path), mode=f"{mode:03o}", hint=f"chmod 600 {path}")
    return token
