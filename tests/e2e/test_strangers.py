"""A stranger opens more connections than a control plane may have descriptors: requests and streams get in all the same."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from uuid import uuid4

import aiohttp
import grpc
import pytest

from model.authority import create_authority
from model.entities import Role
from model.identity import XDS_SERVER_NAME, Identity
from model.repositories import authorities, heartbeats
from tests.conftest import KEY_SETTING
from tests.ports import reserved_port
from tests.server.conftest import DELTA, certify

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
DESCRIPTORS = 600
STRANGERS = 900


@asynccontextmanager
async def strangers(*ports):
    """Hold connections with one byte each, and open each one anew that is closed, while the block lasts."""

    async def hold(port):
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
                try:
                    writer.write(b"P")
                    await reader.read()
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.5)

    tasks = [asyncio.create_task(hold(port)) for port in ports for _ in range(STRANGERS // len(ports))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def served(database_url, until, tmp_path):
    """Ports of API and xDS of a control plane that may open few descriptors."""
    with reserved_port() as api_port, reserved_port() as xds_port:
        settings = {
            **KEY_SETTING,
            "EXITPLANE_DATABASE_URL": database_url,
            "EXITPLANE_API_LISTEN": f"127.0.0.1:{api_port}",
            "EXITPLANE_XDS_LISTEN": f"127.0.0.1:{xds_port}",
            "EXITPLANE_STATE_DIR": str(tmp_path),
        }
        program = f'ulimit -n {DESCRIPTORS}; exec "$0" -m cli serve'
        process = await asyncio.create_subprocess_exec("sh", "-c", program, sys.executable, env=os.environ | settings)

        async def ready():
            assert process.returncode is None, "the control plane ended"
            return (await ask(api_port))[0] == 200

        try:
            await until(ready, timeout_s=240)
            yield api_port, xds_port
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def ask(port, path="/health/ready"):
    """Return status and body of a request over a new connection; 0 without an answer within 5 s, an agent's time."""
    timeout = aiohttp.ClientTimeout(total=5)
    with suppress(OSError, aiohttp.ClientError):
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://127.0.0.1:{port}{path}") as reply,
        ):
            return reply.status, await reply.json()
    return 0, {}


async def loses_strangers(api_port):
    """Return whether both listeners have closed connections because there were too many."""
    _, health = await ask(api_port, "/health")
    return bool(health) and all(each["closed"] for each in health["connections"].values())


async def stream_status(port, authority):
    """Return the status of a stream of an enrolled proxy that the World does not know; it proves that the call got in."""
    pair = certify(authority, Identity(uuid4(), Role.GATEWAY, uuid4()))
    credentials = grpc.ssl_channel_credentials(
        authority.certificate_pem.encode(), pair.key_pem.encode(), pair.certificate_pem.encode()
    )
    options = [("grpc.ssl_target_name_override", XDS_SERVER_NAME), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        with suppress(grpc.aio.AioRpcError):
            await channel.stream_stream(DELTA)(timeout=10, wait_for_ready=True).read()
            return "open"
        call = channel.stream_stream(DELTA)(timeout=10, wait_for_ready=True)
        with suppress(grpc.aio.AioRpcError):
            await call.read()
        return await call.details()


async def test_requests_and_streams_get_in_beside_strangers(served, database, until):
    api_port, xds_port = served
    async with database.session() as session:
        authority = await authorities.ensure(session, lambda: create_authority(datetime.now(UTC)))

    async def watermark():
        async with database.session() as session:
            return await heartbeats.ingest_watermark(session)

    await until(watermark)
    async with strangers(api_port, xds_port):
        await until(lambda: loses_strangers(api_port))
        before = await watermark()
        assert [(await ask(api_port))[0] for _ in range(10)] == [200] * 10
        assert "not known here yet" in await stream_status(xds_port, authority)

        async def heartbeats_get_in():
            return await watermark() > before

        await until(heartbeats_get_in)
