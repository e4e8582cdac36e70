"""Exits in real containers: created, enrolled, serving, replaced, and removed with their pool."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from api.features.containers.schemas import ContainerOut
from api.features.exits.schemas import ExitOut
from api.features.fleets.schemas import FirstListenerIn, FleetIn
from api.features.pools.container_schemas import ContainersIn
from api.features.pools.schemas import PoolIn, PoolPatch
from api.runtime.tokens import digest_of, new_key
from cli.control_plane import open_control_plane
from client import ApiRefused, Client, collect
from model.exit_states import ExitState
from model.repositories import operators
from model.settings import Settings
from model.tables import ApiKeyRow, OperatorRow
from tests.keeper.podman import IMAGE, imported, podman, python_content, require_podman, run_podman

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
PACKAGES = [
    *("aiohappyeyeballs", "aiohttp", "aiosignal", "attr", "cryptography", "frozenlist", "google", "idna", "jwt"),
    *("multidict", "propcache", "structlog", "typing_extensions.py", "yaml", "yarl"),
]
IP_FREEBIND = 15
FIRST_PORT = 28_443
COMMAND = [str(Path(sys.executable).resolve()), "/main.py"]
AGENT = Path(__file__).with_name("container_agent.py")


@dataclass
class PodmanTestbed:
    """A control plane with podman."""

    api: Client
    network: str
    gateway: str
    """The host's address in the network, at which the ports of containers are published."""
    image: str
    most: int = 0

    async def serving(self, number: int) -> list[ExitOut] | None:
        """Return the exits when exactly `number` of them serve; None otherwise. Record the highest number of containers."""
        exits = await collect(self.api.exits.list())
        ids = await self.ids()
        self.most = max(self.most, len(ids))
        served = [each for each in exits if each.state == ExitState.HEALTHY]
        return exits if len(served) == len(exits) == len(ids) == number else None

    async def ids(self) -> dict[str, str]:
        """Return the ids of running containers in the network, by name."""
        listed = await self.run("ps", "--filter", f"network={self.network}", "--format", "{{.Names}} {{.ID}}")
        return dict(line.split() for line in listed.splitlines())

    async def run(self, *arguments: str) -> str:
        """Run podman while the control plane, which is in this process, answers agents."""
        return await asyncio.to_thread(run_podman, *arguments)

    def container_settings(self, **more) -> ContainersIn:
        given = {"minimum": 2, "maximum": 3, "image": self.image, "network": self.network, "drain_s": 20}
        given |= {"address": self.gateway, "port": FIRST_PORT}
        return ContainersIn(command=COMMAND, **(given | more))


@contextmanager
def bridge() -> Iterator[tuple[str, str]]:
    """Create a network during the block; yield its name, and the host's address in it."""
    name = f"h4-{uuid4().hex[:8]}"
    run_podman("network", "create", name)
    try:
        (shown,) = json.loads(run_podman("network", "inspect", name))
        yield name, shown["subnets"][0]["gateway"]
    finally:
        run_podman("network", "rm", "--force", name)  # with the containers in it


def listen(address: str, port: int = 0) -> socket.socket:
    """Listen on an address that exists only once the first container runs."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    listening.bind((address, port))
    listening.listen()
    return listening


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    require_podman()
    rooms = [ROOT / "agent", ROOT / "model", ROOT / "xds"]
    with imported(f"{IMAGE}:agent", python_content(packages=PACKAGES, rooms=rooms, script=AGENT)) as name:
        yield name


def _policy(folder: Path, image: str, network: str) -> Path:
    """Write a policy that allows the fleet of the test its image, network, command and ports."""
    allowed = {"images": [image], "networks": [network], "commands": [COMMAND], "ports": ["1-65535"]}
    file = folder / "policy.toml"
    file.write_text("".join(f"{name} = {json.dumps(values)}\n" for name, values in allowed.items()))
    return file


@pytest.fixture
async def testbed(tmp_path, database, image, until) -> AsyncIterator[PodmanTestbed]:
    key, at = new_key(), datetime.now(UTC)
    async with database.session() as session:
        row = OperatorRow(name="admin", role="admin", created_at=at)
        await operators.save(session, row)
        await operators.save(
            session, ApiKeyRow(operator_id=row.id, name="all", digest=digest_of(key), role="admin", created_at=at)
        )
    with bridge() as (network, gateway), listen("127.0.0.1") as here, listen(gateway) as there:
        async with podman(tmp_path, until) as engine:
            settings = Settings(
                state_dir=tmp_path,
                xds_listen="127.0.0.1:0",
                heartbeat_interval_s=1,
                container_engine=engine,
                container_policy=_policy(tmp_path, image, network),
                container_api=f"http://{gateway}:{there.getsockname()[1]}",
            )
            url = f"http://127.0.0.1:{here.getsockname()[1]}"
            async with (
                open_control_plane(settings, database, [here, there]),
                Client(url, f"Bearer {key}") as api,
            ):
                await api.fleets.create(FleetIn(name="demo", listener=FirstListenerIn(address="127.0.0.1", port=8080)))
                yield PodmanTestbed(api, network, gateway, image)


@pytest.fixture
def until(until):
    """Give `until` with a limit for podman on a busy machine."""
    return partial(until, timeout_s=180)


async def test_containers_are_created_replaced_scaled_and_removed(testbed, until):
    api = testbed.api
    pool = await api.pools.create(
        PoolIn(name="us", fleet="demo", country="us", allow_unverified=True, containers=testbed.container_settings())
    )
    first = await until(lambda: testbed.serving(2))

    killed = first[0]
    before = await testbed.ids()
    await testbed.run("kill", killed.name)

    async def was_replaced() -> bool:
        return (await testbed.ids()).get(killed.name) not in (None, before[killed.name])

    await until(was_replaced)
    again = await until(lambda: testbed.serving(2))
    assert {each.id for each in again} == {each.id for each in first}
    assert (await testbed.ids())[first[1].name] == before[first[1].name], "the other one was left alone"

    # other lines follow if a heartbeat is late
    written = await api.containers.logs(killed.id, lines=100)
    assert f"enrolled as {killed.name} with a tun device: True\n" in written.text

    await api.containers.command_exit("stop", killed.id)

    async def shown_when_stopped() -> ContainerOut | None:
        """Return the container once it runs no longer and the command is recorded as executed."""
        shown = {each.name: each for each in (await api.containers.list("us")).containers}[killed.name]
        is_done = shown.last_command is not None and shown.last_command.done_at is not None
        return shown if is_done and killed.name not in await testbed.ids() else None

    shown = await until(shown_when_stopped)
    assert (shown.stopped, shown.last_command.error) == (True, "")
    await api.containers.command_exit("start", killed.id)
    await until(lambda: testbed.serving(2))

    await api.pools.change("us", PoolPatch(containers=testbed.container_settings(minimum=3)))
    await until(lambda: testbed.serving(3))
    state = (await api.pools.read("us")).containers_state
    assert (state.wanted, state.running) == (3, 3)

    with pytest.raises(ApiRefused, match="approve") as refused:
        await api.pools.change("us", PoolPatch(containers=None))
    assert refused.value.code == "would_shrink"
    await api.pools.change("us", PoolPatch(containers=None), approve="shrink")
    await until(lambda: _gone(testbed))
    await api.pools.delete(pool.id, approve="shrink")
    assert testbed.most <= 3


async def _gone(testbed: PodmanTestbed) -> bool:
    return await collect(testbed.api.exits.list()) == [] and await testbed.ids() == {}
