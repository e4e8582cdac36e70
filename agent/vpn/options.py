"""What options say of an exit's tunnel, taken together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from agent.config.option_parsing import BadSetting, read_address, read_endpoint
from agent.vpn.servers import Server, WireGuardServer, read_servers
from model.endpoint import Endpoint

INTERFACE: Final = "ep0"
"""What a tunnel's interface is called, unless --tunnel-interface says otherwise."""


@dataclass(frozen=True, slots=True)
class TunnelOptions:
    """The fields of agent.settings.Exit that they become; `interface` is None for a tunnel that is not the agent's."""

    interface: str | None = None
    servers: tuple[Server, ...] = ()
    resolvers: tuple[str, ...] = ()
    kill_switch: bool = False
    endpoints: tuple[tuple[Endpoint, str], ...] = ()


def read_tunnel(given: Mapping[str, Any]) -> TunnelOptions:
    """Read options by their names, None for those that were not given. Raises BadSetting and BadTunnelFile."""
    resolvers = tuple(_resolver(text) for text in given.get("--dns") or ())
    endpoints = tuple(_endpoint(text) for text in given.get("--tunnel-endpoint") or ())
    files = given.get("--tunnel")
    if not files:
        if given.get("--tunnel-credentials") is not None:
            raise BadSetting("--tunnel-credentials without --tunnel", hint="add --tunnel FILE")
        closed = bool(given.get("--kill-switch"))
        if closed and not (given.get("--tunnel-interface") and endpoints):
            what = "--kill-switch for a tunnel that somebody else brings up needs its interface and where it goes"
            raise BadSetting(what, hint="add --tunnel-interface NAME and --tunnel-endpoint udp:HOST:PORT")
        return TunnelOptions(resolvers=resolvers, kill_switch=closed, endpoints=endpoints)
    if endpoints:
        raise BadSetting("--tunnel-endpoint with --tunnel", hint="leave it out: the file says where the tunnel goes")
    if given.get("--egress-address") is not None:
        raise BadSetting(
            "--egress-address with --tunnel", hint="leave it out: traffic leaves from the tunnel's address"
        )
    servers = read_servers(files, given.get("--tunnel-credentials"))
    for server in servers:
        if isinstance(server, WireGuardServer) and not (resolvers or server.file.resolvers):
            hint = "add --dns ADDRESS of one behind the tunnel"
            raise BadSetting(f"--tunnel {server.file.name} names no resolver (DNS = …)", hint=hint)
    return TunnelOptions(INTERFACE, servers, resolvers, given.get("--kill-switch") is not False)


def _resolver(text: str) -> str:
    address = read_address("--dns", text)
    if ip_address(address).is_loopback or ip_address(address).is_unspecified:
        raise BadSetting(
            f"--dns {text!r} is not behind the tunnel", hint="name the provider's resolver, or a public one"
        )
    return address


def _endpoint(text: str) -> tuple[Endpoint, str]:
    protocol, _, place = text.partition(":")
    if protocol not in {"udp", "tcp"}:
        raise BadSetting(f"--tunnel-endpoint {text!r} names neither udp nor tcp", hint="write udp:HOST:PORT")
    return read_endpoint("--tunnel-endpoint", place), protocol
