"""A control plane in the benchmark's own process, on an embedded PostgreSQL, with real Envoys."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select

from api.runtime.tokens import digest_of, new_key
from bench.process import free_port
from cli.control_plane import open_control_plane
from model.database import Database
from model.embedded_postgres import embedded_server
from model.encryption import KEY_BYTES, Keyring
from model.entities import Role
from model.repositories import join_tokens, operators
from model.schema_version import upgrade
from model.settings import Settings
from model.tables import ApiKeyRow, FleetRow, OperatorRow
from model.token_rights import TokenRights

STOP_S = 20


@dataclass(frozen=True, slots=True)
class InProcessPlane:
    """A running control plane, and a port for the listener of a fleet."""

    database: Database
    api_url: str
    api_key: str
    gateway_port: int
    folder: Path

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[None]:
        """Run a gateway's agent with its Envoy while the block lasts; the fleet must be declared."""
        async with self.database.session() as session:
            fleet = (await session.execute(select(FleetRow))).scalars().first()
            assert fleet is not None, "a fleet was declared"
            _, token = await join_tokens.create(session, TokenRights(fleet.id, Role.GATEWAY), datetime.now(UTC))
        token_file = self.folder / "gateway.token"
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        arguments = ("--role", "gateway", "--name", "gw-1", "--api", self.api_url, "--token-file", str(token_file))
        with (self.folder / "gateway.log").open("wb") as output:
            agent = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cli", "agent", *arguments, "--state", str(self.folder / "gateway")),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                agent.terminate()
            try:
                await asyncio.wait_for(agent.wait(), STOP_S)
            except TimeoutError:
                agent.kill()


@asynccontextmanager
async def open_plane(folder: Path) -> AsyncIterator[InProcessPlane]:
    """Start a control plane in `folder`, on loopback addresses."""
    folder.chmod(0o755)  # noqa: ASYNC240 - once, before anything runs; root's PostgreSQL runs as another user
    listening = socket.create_server(("127.0.0.1", 0))
    api_port = listening.getsockname()[1]
    xds_port, gateway_port = free_port(), free_port()
    settings = Settings(state_dir=folder, api_listen=f"127.0.0.1:{api_port}", xds_listen=f"127.0.0.1:{xds_port}")
    with listening, embedded_server(folder) as url:
        database = Database(url, keyring=Keyring([os.urandom(KEY_BYTES)]))
        try:
            await upgrade(database)
            async with open_control_plane(settings, database, [listening]):
                api_key = await create_admin(database)
                yield InProcessPlane(database, f"http://127.0.0.1:{api_port}", api_key, gateway_port, folder)
        finally:
            await database.close()


async def create_admin(database: Database) -> str:
    """Create an admin, and return an API key."""
    now, key = datetime.now(UTC), new_key()
    admin = OperatorRow(name="bench", role="admin", created_at=now)
    async with database.session() as session:
        await operators.save(session, admin)
        row = ApiKeyRow(operator_id=admin.id, name="bench", digest=digest_of(key), role="admin", created_at=now)
        await operators.save(session, row)
    return key
