"""The options of `exitplane agent`, checked together and turned into settings.

A field is named as its option is: `tunnel_interface` holds what `--tunnel-interface` was given, None or nothing if it was not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final, TypeVar

from agent.config.credentials import read_credentials, read_key
from agent.config.option_parsing import (
    BadSetting,
    check_address,
    parse_api,
    read_address,
    read_authority,
    read_endpoint,
    read_listen_address,
    read_locality,
    read_url,
)
from agent.config.settings import (
    OBSERVE_EVERY_S,
    AgentSettings,
    ExitSettings,
    GluetunAccess,
    ParentProxy,
    TunnelServer,
)
from agent.egress.whoami_dns import parse_zone
from agent.net.interfaces import INTERFACE_NAME_MAX
from agent.vpn.registry import driver_of
from agent.vpn.servers import read_servers
from model.endpoint import Endpoint
from model.entities import Role

T = TypeVar("T")
V = TypeVar("V")

TUNNEL_INTERFACE: Final = "ep0"
"""The interface of a tunnel that the agent brings up, unless --tunnel-interface names another."""
_REQUIRED: Final = ("pool", "address", "port")
_DEPENDS_ON: Final = {
    "observe": (
        ("observe_every_s", "geoip", "locate", "dns_zone", "speed_url"),
        "without a source, the exit is not observed",
    ),
    "dns_zone": (("dns_allow",), "without a zone, resolvers are not observed"),
    "speed_url": (("speed_upload_url", "speed_every_s"), "there is nothing to measure against"),
}
"""For each option, those that need it, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitOptions:
    """Options that only an exit has."""

    pool: str | None = None
    address: str | None = None
    port: int | None = None
    bind_address: str | None = None
    egress_address: str | None = None
    tunnel_interface: str | None = None
    probe: str | None = None
    observe: Sequence[str] | None = None
    host_address: Sequence[str] | None = None
    observe_every_s: float | None = None
    geoip: Path | None = None
    locate: str | None = None
    dns_zone: str | None = None
    dns_allow: Sequence[str] | None = None
    speed_url: str | None = None
    speed_upload_url: str | None = None
    speed_every_s: float | None = None
    parent: str | None = None
    parent_credentials: Path | None = None
    gluetun: str | None = None
    gluetun_key_file: Path | None = None
    gluetun_credentials: Path | None = None
    tunnel: Sequence[Path] | None = None
    tunnel_credentials: Path | None = None
    dns: Sequence[str] | None = None
    kill_switch: bool | None = None
    tunnel_endpoint: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """All options of an agent."""

    role: Role
    api: str
    state: Path
    name: str
    exit: ExitOptions
    token_file: Path | None = None
    api_ca: Path | None = None
    locality: str | None = None
    drain_time_s: float | None = None
    concurrency: int | None = None
    max_downstream_connections: int | None = None
    otlp: str | None = None
    metrics_listen: str | None = None
    envoy: Path | None = None
    envoy_log_level: str = "warning"


def read_settings(options: AgentOptions) -> AgentSettings:
    """Check the options and turn them into settings. Raises BadSetting and BadTunnelFile."""
    return AgentSettings(
        api=parse_api(options.api),
        state=options.state,
        name=options.name,
        token_file=options.token_file,
        api_ca=_optional(read_authority, "--api-ca", options.api_ca),
        exit=read_exit(options.role, options.exit),
        locality=_optional(read_locality, "--locality", options.locality),
        drain_time_s=options.drain_time_s,
        concurrency=options.concurrency,
        max_downstream_connections=options.max_downstream_connections,
        otlp=_optional(read_endpoint, "--otlp", options.otlp),
        metrics=_optional(read_listen_address, "--metrics-listen", options.metrics_listen),
        envoy=options.envoy,
        envoy_log_level=options.envoy_log_level,
    )


def read_exit(role: Role, options: ExitOptions) -> ExitSettings | None:
    """Check an exit's options; None for a gateway. Raises BadSetting and BadTunnelFile."""
    if role is Role.GATEWAY:
        _refuse_all(options)
        return None
    for name in _REQUIRED:
        if not _is_given(options, name):
            raise BadSetting(f"an exit needs {_option(name)}", hint=f"add {_option(name)}")
    assert options.pool is not None
    assert options.address is not None
    assert options.port is not None
    interface = _read_interface(options.tunnel_interface or (TUNNEL_INTERFACE if options.tunnel else None))
    servers, kill_switch = _read_tunnel(options)
    resolvers = tuple(_read_resolver(text) for text in options.dns or ())
    _check_resolvers(servers, resolvers)
    _check_dependencies(options)
    return ExitSettings(
        pool=options.pool,
        address=options.address,
        port=options.port,
        bind_address=check_address("--bind-address", options.bind_address),
        egress_address=check_address("--egress-address", options.egress_address),
        tunnel_interface=interface,
        probe=_read_probe(options.probe),
        sources=tuple(read_url("--observe", text) for text in options.observe or ()),
        host_addresses=frozenset(read_address("--host-address", text) for text in options.host_address or ()),
        observe_every_s=OBSERVE_EVERY_S if options.observe_every_s is None else options.observe_every_s,
        geoip=options.geoip,
        locate=_optional(read_url, "--locate", options.locate),
        resolvers=resolvers,
        dns_zone=_optional(parse_zone, "--dns-zone", options.dns_zone),
        dns_allow=tuple(_read_network("--dns-allow", text) for text in options.dns_allow or ()),
        speed_url=_optional(read_url, "--speed-url", options.speed_url),
        speed_upload_url=_optional(read_url, "--speed-upload-url", options.speed_upload_url),
        speed_every_s=options.speed_every_s,
        parent=_read_parent(options),
        gluetun=_read_gluetun(options),
        servers=servers,
        kill_switch=kill_switch,
        tunnel_endpoints=tuple(_read_tunnel_endpoint(text) for text in options.tunnel_endpoint or ()),
    )


def _refuse_all(options: ExitOptions) -> None:
    for name in (each.name for each in fields(options)):
        if _is_given(options, name):
            what = f"{_option(name)} {str(getattr(options, name))!r}: a gateway has none"
            raise BadSetting(what, hint=f"leave it out, or use --role {Role.EXIT}")


def _check_dependencies(options: ExitOptions) -> None:
    for needed, (dependents, reason) in _DEPENDS_ON.items():
        for name in dependents:
            if _is_given(options, name) and not _is_given(options, needed):
                option, other = _option(name), _option(needed)
                raise BadSetting(f"{option} needs {other}: {reason}", hint=f"add {other}, or leave {option} out")
    if options.dns_zone is not None and options.parent is not None:
        what = "--dns-zone with --parent: the parent resolves names, and cannot be asked who does it"
        raise BadSetting(what, hint="leave --dns-zone out")


def _read_tunnel(options: ExitOptions) -> tuple[tuple[TunnelServer, ...], bool]:
    """Read the servers of the agent's own tunnel, and whether the kill switch is closed."""
    if not options.tunnel:
        if options.tunnel_credentials is not None:
            raise BadSetting("--tunnel-credentials without --tunnel", hint="add --tunnel FILE")
        # with a parent, Envoy dials that alone, and it may be outside the tunnel
        by_default = options.tunnel_interface is not None and options.parent is None
        kill_switch = by_default if options.kill_switch is None else options.kill_switch
        if kill_switch and not (options.tunnel_interface and options.tunnel_endpoint):
            what = "the kill switch for a tunnel that somebody else brings up needs its interface and where it goes"
            hint = (
                "add --tunnel-interface NAME and --tunnel-endpoint udp:HOST:PORT,"
                " or --no-kill-switch to let traffic leave outside the tunnel"
            )
            raise BadSetting(what, hint=hint)
        return (), kill_switch
    if options.tunnel_endpoint:
        raise BadSetting("--tunnel-endpoint with --tunnel", hint="leave it out: the file says where the tunnel goes")
    if options.egress_address is not None:
        hint = "leave it out: traffic leaves from the tunnel's address"
        raise BadSetting("--egress-address with --tunnel", hint=hint)
    return read_servers(options.tunnel, options.tunnel_credentials), options.kill_switch is not False


def _check_resolvers(servers: Sequence[TunnelServer], resolvers: Sequence[str]) -> None:
    for server in servers:
        setting = driver_of(server).resolver_setting
        if setting is not None and not (resolvers or server.resolvers):
            hint = "add --dns ADDRESS of one behind the tunnel"
            raise BadSetting(f"--tunnel {server.file} names no resolver ({setting})", hint=hint)


def _read_parent(options: ExitOptions) -> ParentProxy | None:
    path = options.parent_credentials
    if options.parent is None:
        if path is not None:
            raise BadSetting("--parent-credentials without a parent", hint="add --parent HOST:PORT")
        return None
    credentials = None if path is None else read_credentials("--parent-credentials", path)
    return ParentProxy(read_endpoint("--parent", options.parent), credentials, path)


def _read_gluetun(options: ExitOptions) -> GluetunAccess | None:
    key, credentials = options.gluetun_key_file, options.gluetun_credentials
    if options.gluetun is None:
        if key is not None or credentials is not None:
            raise BadSetting("a key or credentials of gluetun without gluetun", hint="add --gluetun URL")
        return None
    if key is not None and credentials is not None:
        raise BadSetting("--gluetun-key-file and --gluetun-credentials", hint="give the one that gluetun asks for")
    return GluetunAccess(
        read_url("--gluetun", options.gluetun),
        _optional(read_key, "--gluetun-key-file", key),
        _optional(read_credentials, "--gluetun-credentials", credentials),
    )


def _read_interface(name: str | None) -> str | None:
    if name is not None and not 0 < len(name.encode()) <= INTERFACE_NAME_MAX:
        raise BadSetting(f"--tunnel-interface {name!r} is no interface's name", hint="see `ip link`")
    return name


def _read_probe(text: str | None) -> Endpoint | None:
    target = _optional(read_endpoint, "--probe", text)
    if target is not None:
        # a name would be looked up outside the tunnel, and prove nothing about it
        check_address("--probe", target.host)
    return target


def _read_resolver(text: str) -> str:
    address = read_address("--dns", text)
    if ip_address(address).is_loopback or ip_address(address).is_unspecified:
        hint = "name the provider's resolver, or a public one"
        raise BadSetting(f"--dns {text!r} is not behind the tunnel", hint=hint)
    return address


def _read_tunnel_endpoint(text: str) -> tuple[Endpoint, str]:
    protocol, _, place = text.partition(":")
    if protocol not in {"udp", "tcp"}:
        raise BadSetting(f"--tunnel-endpoint {text!r} names neither udp nor tcp", hint="write udp:HOST:PORT")
    return read_endpoint("--tunnel-endpoint", place), protocol


def _read_network(option: str, text: str) -> IPv4Network | IPv6Network:
    """Read a CIDR, or a single address."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise BadSetting(f"{option} {text!r} is no network", hint="write 198.51.100.0/24 or 2001:db8::/32") from error


def _optional(read: Callable[[str, T], V], option: str, value: T | None) -> V | None:
    return None if value is None else read(option, value)


def _is_given(options: ExitOptions, name: str) -> bool:
    value = getattr(options, name)
    return value is not None and value != []


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")
