"""Every operation of the OpenAPI document, tested by schemathesis with documented and undocumented input."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import uvicorn

pytestmark = pytest.mark.slow
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,unsupported_method,allow_header_conformance"
)
OPTIONS = (
    *("--generation-deterministic", "--max-examples", "10", "--request-timeout", "60"),
    *("--suppress-health-check", "all", "--continue-on-failure", "--warnings", "off", "--no-color"),
)


@pytest.fixture
async def address(api, until):
    config = uvicorn.Config(api.app, host="127.0.0.1", port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


@pytest.fixture
def try_everything(address, tmp_path):
    """`await try_everything(credential, *options)`: the findings of schemathesis as text; empty if there are none."""

    async def run(credential: str, *options: str) -> str:
        program = Path(sys.executable).with_name("schemathesis")
        header = ("--header", f"Authorization: Bearer {credential}") if credential else ()
        process = await asyncio.create_subprocess_exec(
            *(program, "run", f"{address}/openapi.json", "--checks", CHECKS, *OPTIONS, *header, *options),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return "" if process.returncode == 0 else output.decode()

    return run


@pytest.mark.timeout(1_500)
async def test_every_operation_replies_as_documented(try_everything, demo):
    found = await try_everything(demo.credential, "--phases", "examples,coverage,fuzzing")
    assert not found, found


@pytest.mark.timeout(600)
async def test_every_operation_replies_as_documented_to_strangers(try_everything, demo, stored):
    before = await stored()
    # without a credential, an unsupported method gets 401 like any other
    found = await try_everything("", "--phases", "examples,coverage", "--exclude-checks", "unsupported_method")
    assert not found, found
    assert await stored() == before
