"""The testbed of fleet benchmarks: PostgreSQL, a control plane in a process of its own, and a declared fleet."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID, uuid4

import pycountry
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert, update
from sqlmodel import SQLModel, col

from bench.process import Process, free_port, terminating
from model import key_file
from model.authority import CertificateAuthority, create_authority, sign_request
from model.database import Database
from model.embedded_postgres import embedded_server
from model.entities import Role
from model.exit_states import ExitState
from model.identity import Identity
from model.repositories import authorities
from model.schema_version import upgrade
from model.settings import Settings
from model.tables import ExitRow, FleetRow, ListenerRow, PoolRow, ProxyRow
from model.unit_of_work import UnitOfWork, write
from model.world import Kind
from xds.translate import names

READY_S: Final = 60
_CHUNK: Final = 1_000
_COUNTRIES: Final = sorted(country.alpha_2.lower() for country in pycountry.countries)
_SETTINGS: Final = {
    "EXITPLANE_SILENCE_TIMEOUT_S": "1e7",  # the exits do not run, but must stay healthy
    "EXITPLANE_LOST_AFTER_S": "1e8",
}


@dataclass(frozen=True, slots=True)
class Replica:
    """A running control plane."""

    process: Process
    xds_port: int
    api_port: int
    ready_s: float
    """The time from its start until it was ready."""
    _pipes: asyncio.subprocess.Process
    _profiled: bool

    async def stop(self) -> None:
        """Stop it in order, before the end of its block."""
        self._pipes.terminate()
        await self._pipes.wait()

    def toggle_profile(self) -> None:
        """Start or stop the profiler, if it was opened with one."""
        if self._profiled:
            self._pipes.send_signal(signal.SIGUSR1)


@dataclass(frozen=True, slots=True)
class DeclaredFleet:
    """The ids of a declared fleet."""

    id: UUID
    pools: Sequence[UUID]
    exits: Sequence[UUID]
    gateways: Sequence[UUID]

    @property
    def counts(self) -> dict[str, int]:
        """The number of resources of each type that a gateway receives."""
        of_pools = dict.fromkeys((names.CLUSTER, names.ENDPOINT), len(self.pools))
        return of_pools | dict.fromkeys((names.LISTENER, names.ROUTE, names.EXTENSION), 1)


def _country(number: int) -> str:
    """Return a real country, which commands can read, or an invented one for larger fleets."""
    return _COUNTRIES[number] if number < len(_COUNTRIES) else f"c{number}"


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction: its revision, and when it began and was committed."""

    revision: int
    began_ns: int
    done_ns: int


class Testbed:
    """A PostgreSQL with an empty schema, and a temporary folder."""

    def __init__(self, folder: Path, url: str, database: Database, authority: CertificateAuthority) -> None:
        self.folder = folder
        self.database = database
        self.authority = authority
        self.authority_file = folder / "authority.pem"
        self.authority_file.write_text(authority.certificate_pem)
        self._url = url

    @asynccontextmanager
    async def serve(
        self, *, profile: Path | None = None, more: Mapping[str, str] = MappingProxyType({})
    ) -> AsyncIterator[Replica]:
        """Run a control plane on this database while the block lasts, with `more` settings; it is ready when the block begins."""
        api_port, xds_port = free_port(), free_port()
        settings = {
            **_SETTINGS,
            "EXITPLANE_STATE_DIR": str(self.folder),
            "EXITPLANE_DATABASE_URL": self._url,
            "EXITPLANE_API_LISTEN": f"127.0.0.1:{api_port}",
            "EXITPLANE_XDS_LISTEN": f"127.0.0.1:{xds_port}",
            **more,
        }
        program = ("-m", "bench.profiled_server", str(profile)) if profile else ("-m", "cli", "serve")
        began = time.monotonic()
        with (self.folder / "serve.log").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, *program),
                env=os.environ | settings,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        async with terminating(process):
            await self._until_ready(process, api_port)
            yield Replica(
                Process(process.pid), xds_port, api_port, time.monotonic() - began, process, profile is not None
            )

    async def _until_ready(self, process: asyncio.subprocess.Process, api_port: int) -> None:
        async with asyncio.timeout(READY_S):
            while not await _is_ready(api_port):
                if process.returncode is not None:
                    raise RuntimeError("the control plane ended:\n" + (self.folder / "serve.log").read_text()[-2000:])
                await asyncio.sleep(0.02)

    async def declare(self, *, pools: int, exits: int, gateways: int) -> DeclaredFleet:
        """Declare a fleet with pools of healthy exits, as one revision."""
        now = datetime.now(UTC)
        fleet_id, name = uuid4(), f"bench-{uuid4().hex[:8]}"
        pool_ids, gateway_ids = [uuid4() for _ in range(pools)], [uuid4() for _ in range(gateways)]
        pool_of = {uuid4(): pool_id for pool_id in pool_ids for _ in range(exits)}
        async with write(self.database) as unit:
            await _insert(unit, FleetRow, Kind.FLEET, [{"id": fleet_id, "name": name, "created_at": now}])
            listener = {"id": uuid4(), "fleet_id": fleet_id, "address": "127.0.0.1", "port": 8080}
            await _insert(unit, ListenerRow, Kind.LISTENER, [listener])
            rows: Iterable[dict[str, Any]] = (
                {"id": pool_id, "fleet_id": fleet_id, "name": f"pool-{number}", "country": _country(number)}
                for number, pool_id in enumerate(pool_ids)
            )
            await _insert(unit, PoolRow, Kind.POOL, [{**row, "created_at": now} for row in rows])
            proxies = [(proxy_id, Role.GATEWAY) for proxy_id in gateway_ids] + [(id_, Role.EXIT) for id_ in pool_of]
            rows = (
                {"id": proxy_id, "fleet_id": fleet_id, "name": f"{role}-{number}", "role": role, "created_at": now}
                for number, (proxy_id, role) in enumerate(proxies)
            )
            await _insert(unit, ProxyRow, Kind.PROXY, [*rows])
            rows = (_exit(exit_id, pool_id, number, now) for number, (exit_id, pool_id) in enumerate(pool_of.items()))
            await _insert(unit, ExitRow, Kind.EXIT, [*rows])
        return DeclaredFleet(fleet_id, pool_ids, [*pool_of], gateway_ids)

    def certify(self, fleet: DeclaredFleet) -> list[Path]:
        """Write a file for each gateway of a fleet, with its own certificate and a shared key."""
        key = ec.generate_private_key(ec.SECP256R1())
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        csr_pem = csr.public_bytes(serialization.Encoding.PEM).decode()
        now = datetime.now(UTC)
        paths = []
        for proxy_id in fleet.gateways:
            identity = Identity(fleet.id, Role.GATEWAY, proxy_id)
            paths.append(self.folder / f"{proxy_id}.pem")
            paths[-1].write_text(sign_request(self.authority, csr_pem, identity, now) + key_pem)
        return paths

    async def move(self, exit_ids: Sequence[UUID], port: int, *, traceparent: str | None = None) -> Commit:
        """Move exits to another port, in one transaction."""
        began = time.monotonic_ns()
        async with write(self.database, traceparent=traceparent) as unit:
            if len(exit_ids) == 1:
                statement = update(ExitRow).where(col(ExitRow.id) == exit_ids[0]).values(port=port)
            else:
                statement = update(ExitRow).where(col(ExitRow.id).in_(exit_ids)).values(port=port)
            await unit.session.execute(statement)
            for exit_id in exit_ids:
                unit.touch(Kind.EXIT, exit_id)
        done = time.monotonic_ns()
        assert unit.revision is not None
        return Commit(unit.revision, began, done)


def _exit(exit_id: UUID, pool_id: UUID, number: int, now: datetime) -> dict[str, Any]:
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return {
        "id": exit_id,
        "pool_id": pool_id,
        "name": f"exit-{number}",
        "address": address,
        "endpoint": address,
        "port": 8443,
        "bind_address": "0.0.0.0",
        "egress_address": None,
        "state": ExitState.HEALTHY,
        "state_reason": "",
        "state_since": now,
        "created_at": now,
    }


async def _insert(unit: UnitOfWork, table: type[SQLModel], kind: Kind, rows: Sequence[dict[str, Any]]) -> None:
    for start in range(0, len(rows), _CHUNK):
        await unit.session.execute(insert(table), rows[start : start + _CHUNK])
    for row in rows:
        unit.touch(kind, row["id"])


async def _is_ready(api_port: int) -> bool:
    with suppress(OSError, IndexError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection("127.0.0.1", api_port)
        writer.write(b"GET /health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        status = (await reader.readline()).split()[1]
        writer.close()
        return status == b"200"
    return False


@asynccontextmanager
async def open_testbed() -> AsyncIterator[Testbed]:
    """Start a migrated PostgreSQL with a certificate authority in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="exitplane-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # noqa: ASYNC240 - once, before anything runs; root's PostgreSQL runs as another user
        with embedded_server(folder / "database") as url:
            key_file.create(folder / key_file.NAME)
            database = Database(url, keyring=key_file.read_keyring(Settings(state_dir=folder)))
            try:
                await upgrade(database)
                async with database.session() as session:
                    authority = await authorities.ensure(session, lambda: create_authority(datetime.now(UTC)))
                yield Testbed(folder, url, database, authority)
            finally:
                await database.close()


def run(measure: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a benchmark; Ctrl-C and SIGTERM stop everything that it started."""

    async def until_done() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await measure()

    try:
        asyncio.run(until_done())
    except KeyboardInterrupt:
        sys.exit(130)
    except asyncio.CancelledError:
        sys.exit(143)
