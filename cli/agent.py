"""`exitplane agent`: the process beside each Envoy."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.control import log_buffer
from agent.options import AgentOptions, ExitOptions, read_settings
from agent.service import serve
from agent.vpn.managed_tunnel import open_kill_switch
from cli.logging import configure_logging
from model.entities import Role


class LogLevel(StrEnum):
    """The log levels that Envoy may be given."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _option(name: str, text: str, **more: Any) -> Any:
    """Declare an option that EXITPLANE_AGENT_<NAME> sets too."""
    variable = "EXITPLANE_AGENT_" + name.removeprefix("--").replace("-", "_").upper()
    return typer.Option(name, help=text, envvar=variable, **more)


_EXIT = "For exits only"


def _open_kill_switch(wanted: bool) -> None:  # noqa: FBT001  # typer calls it so
    if wanted:
        asyncio.run(open_kill_switch())
        raise typer.Exit


def agent(
    *,
    role: Annotated[Role, _option("--role", "What the proxy is.")],
    api: Annotated[str, _option("--api", "The control plane's REST API, as https://host:port.")],
    state: Annotated[
        Path, _option("--state", "The folder for key, certificate and Envoy's files; created if it is missing.")
    ],
    name: Annotated[str, _option("--name", "The proxy's name in its fleet or pool.")],
    token_file: Annotated[
        Path | None, _option("--token-file", "The file with the join token; needed for the first start only.")
    ] = None,
    api_ca: Annotated[
        Path | None,
        _option(
            "--api-ca",
            "The file with the authority of the API's certificate, as `exitplane ca` prints it; by default the system's, and"
            " after the enrolment the control plane's own.",
        ),
    ] = None,
    locality: Annotated[
        str | None, _option("--locality", "Where the proxy runs, as REGION or REGION/ZONE: gateways prefer near exits.")
    ] = None,
    pool: Annotated[str | None, _option("--pool", "The exit's pool.", rich_help_panel=_EXIT)] = None,
    address: Annotated[
        str | None, _option("--address", "The host that gateways connect to.", rich_help_panel=_EXIT)
    ] = None,
    port: Annotated[
        int | None, _option("--port", "The port that gateways connect to.", min=1, max=65535, rich_help_panel=_EXIT)
    ] = None,
    bind_address: Annotated[
        str | None,
        _option("--bind-address", "The IP address that Envoy listens on; all by default.", rich_help_panel=_EXIT),
    ] = None,
    egress_address: Annotated[
        str | None,
        _option("--egress-address", "The IP address that traffic must leave from.", rich_help_panel=_EXIT),
    ] = None,
    tunnel_interface: Annotated[
        str | None,
        _option(
            "--tunnel-interface",
            "The tunnel's network interface, which must be up; ep0 by default with --tunnel.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    probe: Annotated[
        str | None,
        _option("--probe", "ADDRESS:PORT that must accept a TCP connection through the tunnel.", rich_help_panel=_EXIT),
    ] = None,
    observe: Annotated[
        list[str] | None,
        _option(
            "--observe",
            "URL of a service that returns its caller's address and country, as ipinfo's or ip-api's JSON or Cloudflare's trace;"
            " it is asked through the tunnel. The exit serves only while it returns the pool's country. May be repeated; the"
            " first one decides.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    host_address: Annotated[
        list[str] | None,
        _option(
            "--host-address",
            "An address of the host: traffic that leaves from it is a leak. May be repeated.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    observe_every_s: Annotated[
        float | None,
        _option(
            "--observe-every-s", "Seconds between two observations; 60 by default.", min=0.1, rich_help_panel=_EXIT
        ),
    ] = None,
    geoip: Annotated[
        Path | None,
        _option(
            "--geoip",
            "A MaxMind DB file with the locations of addresses. It is read again when it changes.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    locate: Annotated[
        str | None,
        _option(
            "--locate",
            "URL that, with /ADDRESS appended, returns the location of that address, in a format of --observe.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    dns_zone: Annotated[
        str | None,
        _option(
            "--dns-zone",
            "A DNS zone whose names resolve to the resolver that asks. The exit serves only while its resolvers are in its"
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
        _option("--speed-url", "URL that speed is measured against, by GET and by POST.", rich_help_panel=_EXIT),
    ] = None,
    speed_upload_url: Annotated[
        str | None,
        _option("--speed-upload-url", "URL for uploads; --speed-url by default.", rich_help_panel=_EXIT),
    ] = None,
    speed_every_s: Annotated[
        float | None,
        _option(
            "--speed-every-s",
            "Seconds between two measurements of speed; none by default.",
            min=1,
            rich_help_panel=_EXIT,
        ),
    ] = None,
    parent: Annotated[
        str | None,
        _option("--parent", "HOST:PORT of the HTTP proxy that the exit sends all traffic to.", rich_help_panel=_EXIT),
    ] = None,
    parent_credentials: Annotated[
        Path | None,
        _option(
            "--parent-credentials",
            "A private file (mode 600) with the user name for the parent, and the password in the next line.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    gluetun: Annotated[
        str | None,
        _option(
            "--gluetun", "URL of gluetun's control API, which must report a running tunnel.", rich_help_panel=_EXIT
        ),
    ] = None,
    gluetun_key_file: Annotated[
        Path | None,
        _option("--gluetun-key-file", "A private file with gluetun's API key.", rich_help_panel=_EXIT),
    ] = None,
    gluetun_credentials: Annotated[
        Path | None,
        _option(
            "--gluetun-credentials",
            "A private file with user name and password for gluetun, in two lines.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    tunnel: Annotated[
        list[Path] | None,
        _option(
            "--tunnel",
            "A wg-quick or .ovpn file: the agent brings up the tunnel in its own network namespace. May be repeated: the next"
            " file is used if a server does not answer.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    tunnel_credentials: Annotated[
        Path | None,
        _option(
            "--tunnel-credentials",
            "A private file with user name and password for OpenVPN, in two lines.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    dns: Annotated[
        list[str] | None,
        _option(
            "--dns",
            "A resolver that the exit uses, through its tunnel; the tunnel's own by default. May be repeated.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    kill_switch: Annotated[
        bool | None,
        typer.Option(
            "--kill-switch/--no-kill-switch",
            help="Drop all packets that leave this network namespace outside the tunnel (nftables), also after the agent's end;"
            " on by default with --tunnel or --tunnel-interface, unless there is a --parent.",
            envvar="EXITPLANE_AGENT_KILL_SWITCH",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    tunnel_endpoint: Annotated[
        list[str] | None,
        _option(
            "--tunnel-endpoint",
            "udp:HOST:PORT or tcp:HOST:PORT of the server of a tunnel that somebody else brings up, for --kill-switch. May be"
            " repeated.",
            rich_help_panel=_EXIT,
        ),
    ] = None,
    open_kill_switch: Annotated[  # noqa: ARG001  # its callback has run by then
        bool,
        typer.Option(
            "--open-kill-switch",
            help="Remove the kill switch that an agent left in this network namespace, and exit.",
            is_eager=True,
            callback=_open_kill_switch,
        ),
    ] = False,
    drain_time_s: Annotated[
        float | None,
        _option("--drain-time-s", "Envoy's drain time in seconds, and how long open tunnels may delay the end.", min=0),
    ] = None,
    concurrency: Annotated[
        int | None, _option("--concurrency", "The number of Envoy's worker threads; one per CPU by default.", min=1)
    ] = None,
    max_downstream_connections: Annotated[
        int | None,
        _option(
            "--max-downstream-connections",
            "The limit on client connections; by default what the limit on descriptors allows.",
            min=1,
        ),
    ] = None,
    otlp: Annotated[str | None, _option("--otlp", "HOST:PORT of a collector for traces (OTLP over gRPC).")] = None,
    metrics_listen: Annotated[
        str | None,
        _option(
            "--metrics-listen",
            "ADDRESS:PORT at which Envoy offers its metrics: GET /stats/prometheus, to everybody who can connect, and nothing else.",
        ),
    ] = None,
    envoy: Annotated[Path | None, _option("--envoy", "The Envoy to run; the wheel's by default.")] = None,
    envoy_log_level: Annotated[
        LogLevel, _option("--envoy-log-level", "The level of Envoy's log, envoy.log.")
    ] = LogLevel.WARNING,
) -> None:
    """Enrol a proxy, run its Envoy, and report the state of both to the control plane.

    The environment variable EXITPLANE_AGENT_<NAME> sets the option of that name. The first start enrols with the join token; later
    starts use the certificate in the state folder. SIGTERM or Ctrl-C sends clients elsewhere, lets open tunnels end for up to
    --drain-time-s (5 s by default) and stops Envoy; a second signal does not wait.
    """
    configure_logging(log_buffer.keep)
    options = AgentOptions(
        role=role,
        api=api,
        state=state,
        name=name,
        token_file=token_file,
        api_ca=api_ca,
        locality=locality,
        drain_time_s=drain_time_s,
        concurrency=concurrency,
        max_downstream_connections=max_downstream_connections,
        otlp=otlp,
        metrics_listen=metrics_listen,
        envoy=envoy,
        envoy_log_level=envoy_log_level.value,
        exit=ExitOptions(
            pool=pool,
            address=address,
            port=port,
            bind_address=bind_address,
            egress_address=egress_address,
            tunnel_interface=tunnel_interface,
            probe=probe,
            observe=observe,
            host_address=host_address,
            observe_every_s=observe_every_s,
            geoip=geoip,
            locate=locate,
            dns_zone=dns_zone,
            dns_allow=dns_allow,
            speed_url=speed_url,
            speed_upload_url=speed_upload_url,
            speed_every_s=speed_every_s,
            parent=parent,
            parent_credentials=parent_credentials,
            gluetun=gluetun,
            gluetun_key_file=gluetun_key_file,
            gluetun_credentials=gluetun_credentials,
            tunnel=tunnel,
            tunnel_credentials=tunnel_credentials,
            dns=dns,
            kill_switch=kill_switch,
            tunnel_endpoint=tunnel_endpoint,
        ),
    )
    asyncio.run(serve(read_settings(options)))
