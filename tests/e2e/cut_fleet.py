"""A fleet whose gateways reach two replicas of a control plane through men in the middle: the scene of the cut streams."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from inspect import isawaitable
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.ads.relay import Relay
from agent.config.identity import Enrolment
from agent.config.state_dir import StateDir
from agent.envoy.bootstrap import Bootstrap, render
from agent.envoy.secrets import write_secrets
from api.runtime.tokens import digest_of, new_key
from cli.control_plane import open_control_plane
from model.authority import CertificateAuthority, KeyPair, create_authority, sign_request
from model.database import Database
from model.endpoint import Endpoint
from model.entities import Role
from model.identity import Identity
from model.repositories import authorities, declared, operators
from model.settings import Settings
from model.tables import ApiKeyRow, FleetRow, ListenerRow, OperatorRow, ProxyRow
from model.unit_of_work import write
from tests.e2e.config_checks import DeclaredConfig, DumpedConfig, differing, parse_dump, read_admin
from tests.e2e.fleet_changer import STABLE, FleetChanger, exit_row
from tests.e2e.gateway_load import request
from tests.e2e.stream_cutter import StreamCutter
from tests.envoy.envoy_process import ADMIN, EnvoyUnderTest, envoy_process
from tests.ports import reserved_port
from xds.translate import names

BOUND_S = 60.0
SETTLED_S = 30.0
"""The time limit of a change. Envoy waits 15 s for endpoints that do not come."""
ROAMING = "jp"
ERRORS = r"^(http\.clients\.(no_route|no_cluster)|.*\.(update_rejected|init_fetch_timeout))$"
"""Statistics of requests for which no route or cluster was there, of rejected configuration, and of what never came."""
VERSIONED = (names.CLUSTER, names.ROUTE, names.EXTENSION)
"""Types of which delta's Envoys show the version that they use. A listener that was updated in place shows its first one."""


@dataclass(frozen=True)
class Way:
    """A way in which a gateway's Envoy speaks to the control plane."""

    name: str
    sotw: bool = False
    relayed: bool = False


WAYS = (Way("delta"), Way("sotw", sotw=True), Way("relayed", relayed=True))


@dataclass
class CutGateway:
    """A gateway's Envoy, and the man in the middle of its streams."""

    name: str
    way: Way
    id: UUID
    cutter: StreamCutter
    envoy: EnvoyUnderTest
    port: int
    """The port for clients."""
    counted: Counter[str] = field(default_factory=Counter)
    """ERRORS when `errors` was last called."""

    async def errors(self) -> Counter[str]:
        """Count ERRORS since the last call."""
        before, self.counted = self.counted, Counter(await self.stats(ERRORS))
        return self.counted - before

    async def dump(self) -> DumpedConfig:
        return parse_dump(await read_admin(self.envoy.admin_port, "/config_dump?include_eds"))

    async def stats(self, pattern: str) -> dict[str, int]:
        """Read the statistics whose names match."""
        text = await read_admin(self.envoy.admin_port, f"/stats?{urlencode({'filter': pattern})}")
        lines = (line.rpartition(": ") for line in text.splitlines())
        return {name: int(value) for name, _, value in lines if value.isdigit()}


@dataclass
class CutFleet:
    """The replicas, the gateways and the source of changes."""

    api_port: int
    gateways: Sequence[CutGateway]
    changer: FleetChanger
    api_key: str

    async def api(self, path: str) -> Any:
        """Get a resource of the API at one replica."""
        url = f"http://127.0.0.1:{self.api_port}/api/v1{path}"
        asked = Request(url, headers={"Authorization": f"Bearer {self.api_key}"})

        def get() -> Any:
            with urlopen(asked, timeout=BOUND_S) as answer:
                return json.load(answer)

        return await asyncio.to_thread(get)

    async def declared(self) -> DeclaredConfig:
        """Read what the API says of pools and exits."""
        pools, exits = [(await self.api(f"/{collection}?limit=200"))["items"] for collection in ("pools", "exits")]
        endpoints: dict[str, set[str]] = {f"{names.POOL_PREFIX}{pool['id']}": set() for pool in pools}
        pool_ids = {pool["name"]: pool["id"] for pool in pools}
        for exit_ in exits:
            endpoints[f"{names.POOL_PREFIX}{pool_ids[exit_['pool']]}"].add(names.exit_host(UUID(exit_["id"])))
        return DeclaredConfig(endpoints, self.changer.listeners)  # the API takes no listener on any free port

    async def settle(self, bound_s: float = SETTLED_S) -> list[str]:
        """Wait until all gateways use what the API says, at most `bound_s`. Return what differs then."""
        wanted, deadline = await self.declared(), time.monotonic() + bound_s
        while True:
            found = await self._differences(wanted)
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.1)

    async def _differences(self, wanted: DeclaredConfig) -> list[str]:
        """Compare the gateways with what is declared, with each other, and by version, up to the first that differs."""
        dumps: dict[str, DumpedConfig] = {}
        for gateway in self.gateways:
            dump = dumps[gateway.name] = await gateway.dump()
            first = dumps[self.gateways[0].name]
            by_content = [f"{text} by content" for text in differing(dump.bodies, first.bodies)]
            if found := wanted.problems(dump) or by_content:
                return [f"{gateway.name}: {text}" for text in found]
        return await self._unlike_versions(dumps)

    async def _unlike_versions(self, dumps: Mapping[str, DumpedConfig]) -> list[str]:
        """Compare the versions of delta's Envoys with those that the API reports as desired and accepted."""
        found = []
        for gateway in self.gateways:
            config = await self.api(f"/proxies/{gateway.id}/config")
            if not config["in_sync"]:
                found.append(f"{gateway.name}: not in sync")
            if not gateway.way.sotw:
                said = {
                    (each["type_url"], resource["name"]): resource["accepted"]
                    for each in config["types"]
                    for resource in each["resources"]
                    if each["type_url"] in VERSIONED
                }
                used = {key: version for key, version in dumps[gateway.name].versions.items() if key[0] in VERSIONED}
                found += [f"{gateway.name}: {text} by version" for text in differing(used, said)]
        return found


@dataclass
class Site:
    """The folder, database and names that the parts of the scene share."""

    folder: Path
    database: Database
    authority: CertificateAuthority
    fleet_id: UUID
    ports: Sequence[int]
    """The xDS ports of the replicas."""

    async def save_proxy(self, name: str, role: Role) -> UUID:
        """Declare a proxy."""
        async with write(self.database) as unit:
            row = ProxyRow(fleet_id=self.fleet_id, name=name, role=role, created_at=datetime.now(UTC))
            return (await declared.save(unit, row)).id

    def state_dir(self, proxy_id: UUID, pair: KeyPair) -> Path:
        """Make the folder of an Envoy, with its secrets."""
        path = self.folder / str(proxy_id)
        path.mkdir()
        authority_pem = self.authority.certificate_pem
        write_secrets(
            StateDir(path), key_pem=pair.key_pem, certificate_pem=pair.certificate_pem, authority_pem=authority_pem
        )
        return path

    def certify(self, role: Role, proxy_id: UUID) -> KeyPair:
        """Make a key, and have the authority sign a certificate for it."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        plain = serialization.NoEncryption()
        key_pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()
        csr_pem = csr.public_bytes(serialization.Encoding.PEM).decode()
        identity = Identity(self.fleet_id, role, proxy_id)
        return KeyPair(sign_request(self.authority, csr_pem, identity, datetime.now(UTC)), key_pem)

    def bootstrap(self, role: Role, proxy_id: UUID, ports: Sequence[int], *, relayed: bool = False) -> dict[str, Any]:
        """Render the product's bootstrap for control planes at these ports, with its admin interface on a port."""
        xds = tuple(Endpoint("127.0.0.1", port) for port in ports)
        return render(Bootstrap(role, proxy_id, self.fleet_id, xds, relayed=relayed)) | {"admin": ADMIN}


@asynccontextmanager
async def open_cut_fleet(
    folder: Path, database: Database, seed: int, page_port: int, copies: int = 1
) -> AsyncIterator[CutFleet]:
    """Run two replicas, a real exit in each stable country and one that roams, and `copies` gateways of each of WAYS."""
    async with AsyncExitStack() as stack:
        async with database.session() as session:
            authority = await authorities.ensure(session, lambda: create_authority(datetime.now(UTC)))
        async with write(database) as unit:
            fleet = await declared.save(unit, FleetRow(name="demo", created_at=datetime.now(UTC)))
            await declared.save(unit, ListenerRow(fleet_id=fleet.id, address="127.0.0.1", port=0))
        api_key = await _create_admin(database)
        replicas = [await stack.enter_async_context(_replica(folder, database)) for _ in range(2)]
        site = Site(folder, database, authority, fleet.id, [xds_port for _, xds_port in replicas])
        changer = FleetChanger(database, fleet.id, seed, partial(_open_silent_port, stack))
        exits = {}
        for country in (*STABLE, ROAMING):
            proxy_id = await site.save_proxy(f"{country}-1", Role.EXIT)
            exits[country] = exit_row(proxy_id, f"{country}-1", stack.enter_context(reserved_port()))
        await changer.declare(exits)
        for exit_ in exits.values():
            own = site.state_dir(exit_.id, site.certify(Role.EXIT, exit_.id))
            await _enter(stack, envoy_process(site.bootstrap(Role.EXIT, exit_.id, site.ports), own))
        kinds = [(f"{way.name}-{number}", way) for number in range(copies) for way in WAYS]
        gateways = [await _open_gateway(stack, site, name, way) for name, way in kinds]
        cut_fleet = CutFleet(replicas[0][0], gateways, changer, api_key)
        assert await cut_fleet.settle() == []
        for gateway, country in product(gateways, STABLE):
            await _until(partial(_is_served, gateway, page_port, country))
        yield cut_fleet


@asynccontextmanager
async def _replica(folder: Path, database: Database) -> AsyncIterator[tuple[int, int]]:
    """Run a control plane, and yield the ports of its API and of its xDS server."""
    settings = Settings(
        state_dir=folder,
        api_listen="127.0.0.1:0",
        xds_listen="127.0.0.1:0",
        removal_grace_s=0.2,
        # the exits run without agents, and send no heartbeats
        silence_timeout_s=1e7,
        lost_after_s=1e8,
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with open_control_plane(settings, database, [listening]) as xds:
            await _until(lambda: xds.ready)
            yield listening.getsockname()[1], xds.ports[0]


def _open_silent_port(stack: AsyncExitStack) -> int:
    """Open a port that takes connections and never answers, until the end of the scene."""
    port: int = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
    return port


async def _create_admin(database: Database) -> str:
    """Create an admin, and return an API key."""
    now, key = datetime.now(UTC), new_key()
    admin = OperatorRow(name="cuts", role="admin", created_at=now)
    async with database.session() as session:
        await operators.save(session, admin)
        row = ApiKeyRow(operator_id=admin.id, name="cuts", digest=digest_of(key), role="admin", created_at=now)
        await operators.save(session, row)
    return key


async def _open_gateway(stack: AsyncExitStack, site: Site, name: str, way: Way) -> CutGateway:
    proxy_id = await site.save_proxy(name, Role.GATEWAY)
    pair = site.certify(Role.GATEWAY, proxy_id)
    cutter = await stack.enter_async_context(StreamCutter(site.authority, pair, site.ports).run())
    own = site.state_dir(proxy_id, pair)
    if way.relayed:
        enrolment_ = Enrolment(
            role=Role.GATEWAY,
            name=name,
            id=proxy_id,
            fleet_id=site.fleet_id,
            key_pem=pair.key_pem,
            certificate_pem=pair.certificate_pem,
            authority_pem=site.authority.certificate_pem,
            xds=Endpoint("127.0.0.1", cutter.port),
            interval_s=10,
        )
        relay = Relay(enrolment_, StateDir(own))
        await relay.start()
        stack.push_async_callback(relay.stop)
    bootstrap = site.bootstrap(Role.GATEWAY, proxy_id, [cutter.port], relayed=way.relayed)
    if way.sotw:
        bootstrap["dynamic_resources"]["ads_config"]["api_type"] = "GRPC"
    envoy = await _enter(stack, envoy_process(bootstrap, own))
    listeners = await asyncio.to_thread(envoy.ports)
    return CutGateway(name, way, proxy_id, cutter, envoy, listeners[names.GATEWAY_LISTENER])


async def _enter(stack: AsyncExitStack, process: Any) -> EnvoyUnderTest:
    """Start an Envoy in a thread, because the relay and the man in the middle serve it from this one."""
    envoy: EnvoyUnderTest = await asyncio.to_thread(process.__enter__)
    stack.push_async_callback(asyncio.to_thread, process.__exit__, None, None, None)
    return envoy


async def _until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds, at most BOUND_S; it may be a coroutine function."""
    async with asyncio.timeout(BOUND_S):
        while True:
            found = condition()
            if await found if isawaitable(found) else found:
                return
            await asyncio.sleep(0.02)


async def _is_served(gateway: CutGateway, page_port: int, country: str) -> bool:
    return (await request(gateway.port, page_port, country, tunnel=True))[0] == 200
