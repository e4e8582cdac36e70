"""The steps of docker-compose.yml: `python -m demo.compose STEP`.

control-plane  upgrades the schema of the database, creates the key file and the first admin, and becomes `exitplane serve`
setup          declares fleet and pools, and writes the authority's certificate and a join token for each agent that is not
               enrolled; names that are given may be taken over
gluetun        declares the pool of an exit behind gluetun, and writes its join token and the secrets of both
observability  writes an API key with which Prometheus finds what to scrape, and the authority's certificate
provider       runs the VPN provider and its internet, whose customers are the exits

A step waits for what it needs, and may be repeated: what exists stays. It ends with 1 and a line with a hint if it is impossible.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Network
from pathlib import Path
from typing import Final

from client import Client
from client.json_client import JsonClient
from demo import provider
from demo.agents import EXITPLANE
from demo.errors import LabError
from demo.plan import AddressPlan, plan_tunnels
from model.errors import ExitplaneError

COUNTRIES: Final = ("us", "us", "gb", "jp")
FLEET: Final = "demo"
GATEWAY: Final = "gw-1"
USER: Final = 10001
"""The user of the control plane and of gateways."""
STATE, JOIN, ACCOUNTS, SERVERS, PARENT, SCRAPE = map(
    Path, ("/state", "/join", "/accounts", "/servers", "/parent", "/scrape")
)
PROMETHEUS_USER: Final = 65534
"""The user that Prometheus runs as, and the owner of its API key."""
PROMETHEUS_KEY: Final = "prometheus"
"""The name of that key."""
GLUETUN_POOL: Final = "vpn"
GLUETUN_EXIT: Final = "vpn-1"
GLUETUN_SETTINGS: Final = ("VPN_SERVICE_PROVIDER", "SERVER_COUNTRIES", "GLUETUN_COUNTRY")
_WITHIN_S: Final = 120.0
_PAUSE_S: Final = 0.2
_TOKEN_NEW_S: Final = 45 * 60.0
"""The age up to which a join token is used again. It is valid for an hour."""
_GLUETUN_ROUTES: Final = (
    *("GET /v1/vpn/status", "GET /v1/publicip/ip", "GET /v1/version"),
    *("PUT /v1/vpn/status", "PUT /v1/vpn/settings"),
)


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent that needs a join token: its name and role, and the user that it runs as."""

    name: str
    role: str
    user: int


def read_plan(environment: Mapping[str, str]) -> AddressPlan:
    """Plan the addresses of the containers in the network of EXITPLANE_NET, three numbers of an IPv4 address. Raises LabError."""
    net = environment.get("EXITPLANE_NET", "")
    try:
        block = IPv4Network(f"{net}.0/24")
    except (AddressValueError, ValueError) as error:
        raise LabError(f"EXITPLANE_NET is {net!r}", hint="write three numbers, such as 10.177.0, into .env") from error
    return plan_tunnels(0, COUNTRIES, block)


def list_agents(plan: AddressPlan) -> list[Agent]:
    """List the gateway and the exits of the plan."""
    return [Agent(GATEWAY, "gateway", USER), *(Agent(site.name, "exit", 0) for site in plan.sites)]


# -- the control plane -----------------------------------------------------------------------------------------------------


def prepare() -> None:
    """Upgrade the schema, and create the first admin with password and API key, unless they exist."""
    wait_for_port("the database", "postgres", 5432)
    run_command("db", "upgrade")
    password, key = STATE / "admin.password", STATE / "admin.key"
    if not key.exists():
        if not password.exists():
            provider.write_private(password, secrets.token_urlsafe(18))
        run_command("init", "--name", "admin", "--password-file", str(password), "--api-key-file", str(key))
    print("the first admin is `admin`: read the password, and an API key for scripts, with", flush=True)
    print(
        f"  docker compose exec control-plane cat {password}\n  docker compose exec control-plane cat {key}", flush=True
    )


# -- setup -------------------------------------------------------------------------------------------------------------


async def set_up(plan: AddressPlan, taken_over: Sequence[str]) -> None:
    """Declare fleet and pools unless there is the fleet, and write a join token for each agent that needs one."""
    agents = list_agents(plan)
    if unknown := set(taken_over) - {each.name for each in agents}:
        raise LabError(
            f"there is no agent {', '.join(sorted(unknown))}", hint=f"name {', '.join(each.name for each in agents)}"
        )
    async with _open_client() as api:
        if FLEET not in [item["name"] async for item in api.list("fleets")]:
            await api.create("fleets", {"name": FLEET, "listener": {"address": "127.0.0.1", "port": 8080}})
            for country in dict.fromkeys(COUNTRIES):
                await api.create("pools", {"name": country, "fleet": FLEET, "country": country})
        for agent in agents:
            await write_token(api, agent, takes_over=agent.name in taken_over)
    provider.write_private(JOIN / "ready", "yes\n")
    (JOIN / "ready").chmod(0o644)
    print(f"join tokens for {', '.join(each.name for each in agents)} are in {JOIN}, unless these are enrolled")


async def write_token(api: JsonClient, agent: Agent, *, takes_over: bool = False) -> None:
    """Write a join token that only this agent can use, unless it has a new one, or its name is registered and may not be taken over."""
    is_known = agent.name in [item["name"] async for item in api.list("proxies")]
    file = JOIN / f"{agent.name}.token"
    # podman repeats this step before it starts each agent
    is_new = file.exists() and time.time() - file.stat().st_mtime < _TOKEN_NEW_S
    if not takes_over and (is_known or is_new):
        return
    body = {"name": agent.name, "fleet": FLEET, "role": agent.role, "proxy": agent.name}
    made = await api.create("join-tokens", body | {"takes_over": is_known})
    provider.write_private(file, f"{made['token']}\n", agent.user)


@asynccontextmanager
async def _open_client() -> AsyncIterator[JsonClient]:
    """Open a client of the control plane's API for its admin, once the API answers. Raises ApiUnreachable, ApiRefused."""
    url = os.environ["EXITPLANE_API"]
    wait_until(f"the control plane at {url}", lambda: _is_ready(url))
    authority = JOIN / "ca.pem"
    run_command("ca", "--output", str(authority))
    key = (STATE / "admin.key").read_text().strip()
    async with Client(url, f"Bearer {key}", ca=authority) as client:
        yield client.json


def _is_ready(url: str) -> bool:
    """Tell whether the control plane is ready. Nothing is sent to it, so that its certificate need not be known yet."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=5, context=unverified):  # noqa: S310  # https
            return True
    except OSError:  # an answer of 503, too
        return False


# -- gluetun -----------------------------------------------------------------------------------------------------------


def gluetun_role(key: str) -> str:
    """Return the settings of gluetun's control API that admit the agent with a key (docs/gluetun.md)."""
    routes = ", ".join(f'"{route}"' for route in _GLUETUN_ROUTES)
    return f'[[roles]]\nname = "exitplane"\nroutes = [{routes}]\nauth = "apikey"\napikey = "{key}"\n'


async def set_up_gluetun(environment: Mapping[str, str]) -> None:
    """Write the secrets that gluetun and the agent beside it share, declare the pool, and write the join token."""
    missing = [name for name in GLUETUN_SETTINGS if not environment.get(name)]
    if missing:
        raise LabError(
            f"{', '.join(missing)}: no value in .env", hint="copy deploy/gluetun.env to .env, and fill it in"
        )
    files = {
        "key": secrets.token_urlsafe(32),
        "httpproxy_user": "exit",
        "httpproxy_password": secrets.token_urlsafe(24),
    }
    for name, value in files.items():
        if not (PARENT / name).exists():
            provider.write_private(PARENT / name, value)
    user, password, key = ((PARENT / name).read_text() for name in ("httpproxy_user", "httpproxy_password", "key"))
    provider.write_private(PARENT / "credentials", f"{user}\n{password}\n")
    provider.write_private(PARENT / "config.toml", gluetun_role(key))
    wait_until("the step `setup`", (JOIN / "ready").exists)
    async with _open_client() as api:
        if GLUETUN_POOL not in [item["name"] async for item in api.list("pools")]:
            country = environment["GLUETUN_COUNTRY"].lower()
            await api.create("pools", {"name": GLUETUN_POOL, "fleet": FLEET, "country": country})
        await write_token(api, Agent(GLUETUN_EXIT, "exit", 0))
    print(f"the pool {GLUETUN_POOL} is declared, and {GLUETUN_EXIT} has a join token, unless it is enrolled")


# -- observability -----------------------------------------------------------------------------------------------------


async def set_up_observability() -> None:
    """Write the API key that may list targets and nothing else, and the authority's certificate, unless they are there."""
    key = SCRAPE / "exitplane.key"
    async with _open_client() as api:
        provider.write_private(SCRAPE / "ca.pem", (JOIN / "ca.pem").read_text(), PROMETHEUS_USER)
        if not key.exists():
            # a key whose volume was removed, which nobody has any more
            lost = [item["id"] async for item in api.list("api-keys") if item["name"] == PROMETHEUS_KEY]
            for each in lost:
                await api.delete("api-keys", each)
            body = {"name": PROMETHEUS_KEY, "role": "viewer", "scopes": ["discovery:read"]}
            made = await api.create("api-keys", body)
            provider.write_private(key, made["key"], PROMETHEUS_USER)
    print("Prometheus has an API key that lists what to scrape")


# -- helpers -----------------------------------------------------------------------------------------------------------


def wait_for_port(what: str, host: str, port: int) -> None:
    """Wait until a port accepts connections. Raises LabError after _WITHIN_S."""

    def answers() -> bool:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError:
            return False
        return True

    wait_until(f"{what} at {host}:{port}", answers)


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    """Wait until a condition holds. Raises LabError after _WITHIN_S."""
    deadline = time.monotonic() + _WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {_WITHIN_S:g} s for {what}", hint="see its log: docker compose logs")
        time.sleep(_PAUSE_S)


def run_command(*arguments: str) -> None:
    """Run an `exitplane` command; end with its status if it fails, because it has said why."""
    status = subprocess.run((*EXITPLANE, *arguments), check=False).returncode
    if status:
        sys.exit(status)


def run_step(step: str, arguments: Sequence[str]) -> None:
    """Take a step. Raises ExitplaneError."""
    match step:
        case "control-plane":
            prepare()
            os.execv(EXITPLANE[0], (*EXITPLANE, "serve"))  # noqa: S606  # so that signals reach it
        case "setup":
            asyncio.run(set_up(read_plan(os.environ), arguments))
        case "gluetun":
            asyncio.run(set_up_gluetun(os.environ))
        case "observability":
            asyncio.run(set_up_observability())
        case "provider":
            plan = read_plan(os.environ)
            provider.write_accounts(plan, SERVERS, ACCOUNTS)
            provider.serve(plan, SERVERS)
        case _:
            raise LabError(
                f"there is no step {step!r}", hint="name control-plane, setup, gluetun, observability or provider"
            )


def main(step: str, *arguments: str) -> None:
    """Take a step, and end with 1 and one line if it is impossible."""
    # the first process of a container ignores signals that it does not handle
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        run_step(step, arguments)
    except ExitplaneError as error:
        sys.exit(f"exitplane: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
