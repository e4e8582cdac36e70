"""`exitplane agent`: what runs beside an Envoy."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.config.option_parsing import BadSetting, check_address, read_endpoint, read_locality
from agent.config.settings import AgentSettings, ExitSettings
from agent.control import log_buffer
from agent.control.api_client import parse_api
from agent.vpn.managed_tunnel import open_kill_switch
from agent.vpn.options import read_tunnel
from agent.vpn.tunnel_health import INTERFACE_NAME_MAX
from cli.alone import serve
from cli.logging import configure_logging
from cli.observation_options import read_observing
from cli.parent_options import read_gluetun, read_parent
from model.entities import Role


class LogLevel(StrEnum):
    """Envoy's own."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _option(name: str, text: str, **more: Any) -> Any:
    """An option that EXITPLANE_AGENT_<NAME> gives too."""
    variable = "EXITPLANE_AGENT_" + name.removeprefix("--").replace("-", "_").upper()
    return typer.Option(name, help=text, envvar=variable, **more)


_EXIT = "An exit's only"


def _open_kill_switch(wanted: bool) -> None:  # noqa: FBT001  # typer calls it so
    if wanted:
        asyncio.run(open_kill_switch())
        raise typer.Exit


def agent(
    *,
    role: Annotated[Role, _option("--role", "What its Envoy does.")],
    api: Annotated[str, _option("--api", "The control plane's REST API, as http://host:port.")],
    state: Annotated[Path, _option("--state", "The folder for key, certificate and Envoy's files; made if need be.")],
    name: Annotated[str, _option("--name", "What this proxy is called, in its fleet or pool.")],
    token_file: Annotated[
        Path | None, _option("--token-file", "The file with the join token; needed until enrolled.")
    ] = None,
    locality: Annotated[
        str | None, _option("--locality", "Where it stands, as REGION or REGION/ZONE: near exits are preferred.")
    ] = None,
    pool: Annotated[str | None, _option("--pool", "The pool it belongs to.", rich_help_panel=_EXIT)] = None,
    address: Annotated[str | None, _option("--address", "What gateways dial.", rich_help_panel=_EXIT)] = None,
    port: Annotated[
        int | None, _option("--port", "The port that gateways dial.", min=1, max=65535, rich_help_panel=_EXIT)
    ] = None,
    bind_address: Annotated[
        str | None, _option("--bind-address", "The IP address to listen on; all by default.", rich_help_panel=_EXIT)
    ] = None,
    egress_address: Annotated[
        str | None,
        _option("--egress-address", "The IP address that traffic must leave from.", rich_help_panel=_EXIT),
    ] = None,
    tunnel_interface: Annotated[
        str | None,
        _option("--tunnel-interface", "The tunnel's network interface, which must be up.", rich_help_panel=_EXIT),
    ] = None,
    probe: Annotated[
        str | None,
        _option("--probe", "ADDRESS:PORT that must answer through the tunnel, by TCP.", rich_help_panel=_EXIT),
    ] = None,
    observe: Annotated[
        list[str] | None,
        _option(
            "--observe",
            "URL of a service that tells its caller's address and country, as ipinfo's or ip-api's JSON or Cloudflare's trace,"
            " asked through the tunnel. The exit serves only while it says the pool's country. May be repeated; the first one's"
            " word counts.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    host_address: Annotated[
        list[str] | None,
        _option(
            "--host-address",
            "An address of the host itself: traffic that is seen to leave from it leaks. May be repeated.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    observe_every_s: Annotated[
        float | None,
        _option("--observe-every-s", "How often it is looked; 60 by default.", min=0.1, rich_help_panel=_EXIT),
    ] = None,
    geoip: Annotated[
        Path | None,
        _option(
            "--geoip", "A MaxMind DB file that knows where addresses are; it may be replaced.", rich_help_panel=_EXIT
        ),
    ] = None,
    locate: Annotated[
        str | None,
        _option(
            "--locate", "URL that, with /ADDRESS, answers where that is, as --observe's do.", rich_help_panel=_EXIT
        ),
    ] = None,
    dns_zone: Annotated[
        str | None,
        _option(
            "--dns-zone",
            "A zone in which every name answers who asked for it. The exit serves only while its resolvers are in its"
            " country.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    dns_allow: Annotated[
        list[str] | None,
        _option(
            "--dns-allow", "CIDR of resolvers that are fine wherever they are. May be repeated.", rich_help_panel=_EXIT
        ),
    ] = None,
    speed_url: Annotated[
        str | None,
        _option("--speed-url", "What speed is measured against, by GET and by POST.", rich_help_panel=_EXIT),
    ] = None,
    speed_upload_url: Annotated[
        str | None,
        _option("--speed-upload-url", "What uploads go to, if not --speed-url.", rich_help_panel=_EXIT),
    ] = None,
    speed_every_s: Annotated[
        float | None,
        _option("--speed-every-s", "How often speed is measured; never by default.", min=1, rich_help_panel=_EXIT),
    ] = None,
    parent: Annotated[
        str | None,
        _option("--parent", "HOST:PORT of the HTTP proxy that it sends all traffic on to.", rich_help_panel=_EXIT),
    ] = None,
    parent_credentials: Annotated[
        Path | None,
        _option(
            "--parent-credentials",
            "A file that nobody else may read: the parent's user name, and the password in the next line.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    gluetun: Annotated[
        str | None,
        _option(
            "--gluetun", "URL of gluetun's control API, which must say that the tunnel runs.", rich_help_panel=_EXIT
        ),
    ] = None,
    gluetun_key_file: Annotated[
        Path | None,
        _option("--gluetun-key-file", "A file that nobody else may read: its API key.", rich_help_panel=_EXIT),
    ] = None,
    gluetun_credentials: Annotated[
        Path | None,
        _option("--gluetun-credentials", "Or one with user name and password, in two lines.", rich_help_panel=_EXIT),
    ] = None,
    tunnel: Annotated[
        list[Path] | None,
        _option(
            "--tunnel",
            "A wg-quick or .ovpn file: the agent brings the tunnel up, in its own network namespace. May be repeated: the others"
            " are taken when one does not come up.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    tunnel_credentials: Annotated[
        Path | None,
        _option("--tunnel-credentials", "The file with user name and password for OpenVPN.", rich_help_panel=_EXIT),
    ] = None,
    dns: Annotated[
        list[str] | None,
        _option(
            "--dns",
            "The resolver that the exit asks for names, through its tunnel; by default the tunnel's own. May be repeated.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    kill_switch: Annotated[
        bool | None,
        typer.Option(
            "--kill-switch/--no-kill-switch",
            help="Let nothing leave this network namespace but through the tunnel, also after the agent's end (nftables);"
            " the rule with --tunnel.",
            envvar="EXITPLANE_AGENT_KILL_SWITCH",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    tunnel_endpoint: Annotated[
        list[str] | None,
        _option(
            "--tunnel-endpoint",
            "udp:HOST:PORT or tcp:HOST:PORT: where a tunnel goes that somebody else brings up, for --kill-switch. May be"
            " repeated.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    open_kill_switch: Annotated[  # noqa: ARG001  # what it does is done before the others are looked at
        bool,
        typer.Option(
            "--open-kill-switch",
            help="Remove the kill switch that an agent left in this network namespace, and do nothing else.",
            is_eager=True,
            callback=_open_kill_switch,
        ),
    ] = False,
    drain_time_s: Annotated[
        float | None,
        _option("--drain-time-s", "Envoy's drain time, and how long open tunnels may hold up the end.", min=0),
    ] = None,
    concurrency: Annotated[
        int | None, _option("--concurrency", "Envoy's worker threads; one for each CPU by default.", min=1)
    ] = None,
    max_downstream_connections: Annotated[
        int | None,
        _option("--max-downstream-connections", "By default what the limit on descriptors allows.", min=1),
    ] = None,
    otlp: Annotated[str | None, _option("--otlp", "HOST:PORT that traces go to (OTLP over gRPC).")] = None,
    envoy: Annotated[Path | None, _option("--envoy", "The Envoy to run; the wheel's by default.")] = None,
    envoy_log_level: Annotated[
        LogLevel, _option("--envoy-log-level", "What Envoy writes to envoy.log.")
    ] = LogLevel.WARNING,
) -> None:
    """Enrol a proxy, run its Envoy, and tell the control plane how both stand.

    Every option can be given as EXITPLANE_AGENT_<NAME>. The first start enrols with the join token; later ones find the
    certificate in the state folder. SIGTERM or Ctrl-C sends clients elsewhere, lets open tunnels end for up to
    --drain-time-s (5 s by default) and ends Envoy; a second one does not wait.
    """
    configure_logging(log_buffer.keep)
    placed = {
        "--pool": pool,
        "--address": address,
        "--port": port,
        "--bind-address": bind_address,
        "--egress-address": egress_address,
        "--tunnel-interface": tunnel_interface,
        "--probe": probe,
        "--observe": observe or None,
        "--host-address": host_address or None,
        "--observe-every-s": observe_every_s,
        "--geoip": geoip,
        "--locate": locate,
        "--dns-zone": dns_zone,
        "--dns-allow": dns_allow or None,
        "--speed-url": speed_url,
        "--speed-upload-url": speed_upload_url,
        "--speed-every-s": speed_every_s,
        "--parent": parent,
        "--parent-credentials": parent_credentials,
        "--gluetun": gluetun,
        "--gluetun-key-file": gluetun_key_file,
        "--gluetun-credentials": gluetun_credentials,
        "--tunnel": tunnel or None,
        "--tunnel-credentials": tunnel_credentials,
        "--dns": dns or None,
        "--kill-switch": kill_switch,
        "--tunnel-endpoint": tunnel_endpoint or None,
    }
    settings = AgentSettings(
        api=parse_api(api),
        state=state,
        name=name,
        token_file=token_file,
        exit=_read_exit(role, placed),
        locality=None if locality is None else read_locality("--locality", locality),
        drain_time_s=drain_time_s,
        concurrency=concurrency,
        max_downstream_connections=max_downstream_connections,
        otlp=None if otlp is None else read_endpoint("--otlp", otlp),
        envoy=envoy,
        envoy_log_level=envoy_log_level.value,  # what an agent is told holds nothing of this module
    )
    serve(settings)


def _read_exit(role: Role, placed: dict[str, Any]) -> ExitSettings | None:
    """What an exit needs; None for a gateway. Raises BadSetting for what is missing, or does not belong."""
    if role is Role.GATEWAY:
        for option, value in placed.items():
            if value is not None:
                raise BadSetting(
                    f"{option} {str(value)!r}: a gateway has none", hint=f"leave it out, or use --role {Role.EXIT}"
                )
        return None
    for option in ("--pool", "--address", "--port"):
        if placed[option] is None:
            raise BadSetting(f"an exit needs {option}", hint=f"add {option}")
    managed = read_tunnel(placed)
    interface, probe = placed["--tunnel-interface"] or managed.interface, placed["--probe"]
    target = None if probe is None else read_endpoint("--probe", probe)
    if target is not None:
        # a name would be looked up outside the tunnel, and say nothing about it
        check_address("--probe", target.host)
    if interface is not None and not 0 < len(interface.encode()) <= INTERFACE_NAME_MAX:
        raise BadSetting(f"--tunnel-interface {interface!r} is no interface's name", hint="see `ip link`")
    return ExitSettings(
        pool=placed["--pool"],
        address=placed["--address"],
        port=placed["--port"],
        bind_address=check_address("--bind-address", placed["--bind-address"]),
        egress_address=check_address("--egress-address", placed["--egress-address"]),
        tunnel_interface=interface,
        probe=target,
        **read_observing(placed),
        parent=read_parent(placed),
        gluetun=read_gluetun(placed),
        servers=managed.servers,
        resolvers=managed.resolvers,
        kill_switch=managed.kill_switch,
        tunnel_endpoints=managed.endpoints,
    )
