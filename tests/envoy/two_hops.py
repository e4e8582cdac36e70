"""A real gateway and real exits, each on its own ADS stream, with certificates of one authority."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from model.authority import CertificateAuthority, create_authority, sign_request
from model.entities import Exit, Fleet, Listener, Parent, Pool, Proxy, Resilience, Role, Tracing, TrustedAuthority
from model.exit_states import ExitState
from model.identity import Identity
from model.world import Change, World, put
from tests.envoy.world_server import RunningEnvoy, WorldServer, envoy_of
from tests.ports import reserved_port
from xds.protocol.messages import Variant
from xds.translate import names

FLEET, GATEWAY = UUID(int=1), UUID(int=9)
# a late answer of a busy machine must not take an exit out of use
POOL = Pool(UUID(int=11), FLEET, "us", "us", resilience=Resilience(check_timeout_s=30))


@dataclass
class TwoHops:
    """A gateway and its exits. `exits` and `servers` have the exit's id as key."""

    gateway: RunningEnvoy
    gateway_server: WorldServer
    exits: dict[UUID, RunningEnvoy]
    servers: dict[UUID, WorldServer]
    authority: CertificateAuthority
    trusted: TrustedAuthority
    folder: Path
    """The folder with a folder for each Envoy, by the proxy's id."""
    parents: list[Any] = field(default_factory=list)

    def change(self, *changes: Change) -> None:
        """Publish changes to all Envoys."""
        for world_server in (self.gateway_server, *self.servers.values()):
            world_server.change(*changes)


def make_exit(number: int, parent: Parent | None, pool: Pool = POOL, **more: object) -> Exit:
    exit_id, address = UUID(int=100 + number), "127.0.0.1"
    fields = {"endpoint": address, "port": 0, "bind_address": address, **more}
    return Exit(exit_id, pool.id, f"{pool.name}-{number}", state=ExitState.HEALTHY, parent=parent, **fields)


@contextmanager
def two_hops(
    folder: Path,
    *exits: Exit,
    pools: Sequence[Pool] = (POOL,),
    variant: Variant = Variant.DELTA,
    tracing: Tracing | None = None,
    collector_port: int | None = None,
) -> Iterator[TwoHops]:
    """Run a gateway in front of the exits of some pools, each on a reserved port."""
    with ExitStack() as stack:
        placed = [replace(each, port=stack.enter_context(reserved_port())) for each in exits]
        fleet = Fleet(FLEET, "demo", tracing)
        yield stack.enter_context(_two_hops(folder, fleet, placed, pools, variant, collector_port))


@contextmanager
def _two_hops(
    folder: Path,
    fleet: Fleet,
    exits: Sequence[Exit],
    pools: Sequence[Pool],
    variant: Variant,
    collector_port: int | None,
) -> Iterator[TwoHops]:
    authority = create_authority(datetime.now(UTC))
    proxies = [Proxy(each.id, FLEET, each.name, Role.EXIT) for each in exits]
    gateway = Proxy(GATEWAY, FLEET, "gw", Role.GATEWAY)
    listener = Listener(UUID(int=2), FLEET, "127.0.0.1", 0)
    trusted = TrustedAuthority(UUID(int=3), authority.certificate_pem)
    entities = [fleet, trusted, *pools, listener, gateway, *proxies, *exits]
    world = World().changed(1, map(put, entities))
    servers = {each.id: WorldServer(world, each, variant) for each in (gateway, *proxies)}
    for each in servers.values():
        each.collector_port = collector_port
    with _all(servers, folder, authority) as envoys:
        yield TwoHops(envoys.pop(GATEWAY), servers.pop(GATEWAY), envoys, servers, authority, trusted, folder)


@contextmanager
def _all(
    servers: dict[UUID, WorldServer], folder: Path, authority: CertificateAuthority
) -> Iterator[dict[UUID, RunningEnvoy]]:
    if not servers:
        yield {}
        return
    (proxy_id, world_server), *others = servers.items()
    own = folder / str(proxy_id)
    certify(own, authority, world_server.proxy)
    with _all(dict(others), folder, authority) as envoys, envoy_of(world_server, own) as envoy:
        yield {**envoys, proxy_id: envoy}


def certify(folder: Path, authority: CertificateAuthority, proxy: Proxy) -> x509.Certificate:
    """Write the secrets that an agent writes for its Envoy, and return the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    identity = Identity(proxy.fleet_id, proxy.role, proxy.id)
    csr = request.public_bytes(serialization.Encoding.PEM).decode()
    chain = sign_request(authority, csr, identity, datetime.now(UTC))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, form, plain).decode()
    own = {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": pem}}
    root = {"trusted_ca": {"inline_string": authority.certificate_pem}}
    secrets = {
        names.IDENTITY_PATH: {"name": names.IDENTITY_SECRET, "tls_certificate": own},
        names.AUTHORITY_PATH: {"name": names.AUTHORITY_SECRET, "validation_context": root},
    }
    for path, secret in secrets.items():
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        draft = folder / f"{path}.new"
        draft.write_text(json.dumps({"resources": [{"@type": names.SECRET, **secret}]}))
        draft.replace(folder / path)
    return x509.load_pem_x509_certificate(chain.encode())
