"""The container reconciler with a real PostgreSQL and the fake engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import select, text
from structlog.testing import capture_logs

from keeper.containers.container_spec import (
    INSTANCE_LABEL,
    POOL_LABEL,
    SLOT_LABEL,
    TOKEN_PATH,
    SpecContext,
    template_digest,
)
from keeper.containers.engine import Engine
from keeper.containers.reconciler import ContainerReconciler, run_containers
from keeper.lease import run_while_leased
from model.container_policy import Allowance, ContainerPolicy
from model.database import Database
from model.entities import Role
from model.exit_states import ExitState
from model.repositories import container_commands, containers, declared, exits, heartbeats, join_tokens
from model.stored_containers import ContainerSettings
from model.tables import ContainerCommandRow, ContainerRow, ExitRow, PoolRow, ProxyRow
from model.unit_of_work import write
from tests.conftest import KEYRING
from tests.keeper.conftest import KeeperHarness
from tests.keeper.fake_engine import FakeEngine

pytestmark = pytest.mark.postgres
WANTED = {"minimum": 2, "maximum": 3, "image": "exit:1"}
POLICY = ContainerPolicy(
    images=["exit:*"],
    fleets={
        "demo": Allowance(networks=["exits"], commands=[["run", "it"]], environment=["PROVIDER"], ports=["20000-20002"])
    },
)
CONTEXT = SpecContext("installation-1", "http://plane:8000", Path("/etc/exitplane-secrets"), policy=POLICY)


class ContainerTestbed(KeeperHarness):
    """A pool with containers, a fake engine, and the reconciler."""

    engine: FakeEngine
    reconciler: ContainerReconciler

    async def declare_containers(self, wanted: dict[str, Any] | None) -> None:
        async with write(self.database) as unit:
            pool = await declared.lock(unit.session, PoolRow, self.pool.id)
            await declared.save_changes(unit, pool, {"containers": wanted})

    async def reconcile(self, times: int = 1, seconds: float = 2) -> None:
        """Run the reconciler `times` times, with the clock advanced before each."""
        for _ in range(times):
            self.clock.advance(seconds=seconds)
            await self.flush_watermark()
            while await self.reconciler.reconcile():
                pass

    async def rows(self) -> list[ContainerRow]:
        async with self.database.session() as session:
            return [*await containers.all_rows(session)]

    async def pool_status(self):
        async with self.database.session() as session:
            return (await containers.pool_statuses(session, [self.pool.id])).get(self.pool.id)

    def name(self, slot: int) -> str:
        return f"us-{self.pool.id.hex[:8]}-{slot}"

    async def enrol(self, slot: int, **said: Any) -> Any:
        """Enrol the agent in a container, and store its heartbeat."""
        name = self.name(slot)
        async with self.database.session() as session:
            known = (await containers.exits_in(session)).get(name)
        exit_id = known.id if known else await self.declare(name, ExitState.HEALTHY)
        await self.send_heartbeat(exit_id, **said)
        async with write(self.database) as unit:
            row = await declared.lock(unit.session, ExitRow, exit_id)
            if row.state not in (ExitState.DRAINING, ExitState.HEALTHY):
                await exits.change_state(unit, exit_id, ExitState(row.state), ExitState.HEALTHY, "", self.clock())
        async with self.database.session() as session:
            load = {"load": said.get("open_requests", 0), "id": exit_id}
            await session.execute(text("UPDATE heartbeat SET open_requests = :load WHERE proxy_id = :id"), load)
        return exit_id

    async def send_heartbeat(self, exit_id, **said):
        said.pop("open_requests", None)
        await super().send_heartbeat(exit_id, **said)

    async def command(self, slot: int, verb: str, **more: Any) -> Any:
        command = ContainerCommandRow(container=self.name(slot), verb=verb, asked_at=self.clock(), **more)
        async with self.database.session() as session:
            await container_commands.add(session, command)
        return command.id

    async def answer(self, command_id):
        async with self.database.session() as session:
            return await container_commands.find(session, command_id)

    async def exits(self) -> dict[str, str]:
        async with self.database.session() as session:
            return {row.name: row.state for row in (await session.execute(select(ExitRow))).scalars()}


@pytest.fixture
async def testbed(database: Database, clock, tmp_path) -> AsyncIterator[ContainerTestbed]:
    opened = ContainerTestbed(database, clock)
    await opened.open()
    await opened.declare_containers(WANTED)
    async with FakeEngine(tmp_path / "engine.sock").serving() as fake_engine, Engine(fake_engine.address) as engine:
        opened.engine = fake_engine
        opened.reconciler = ContainerReconciler(database, engine, CONTEXT, clock)
        yield opened


@pytest.fixture
async def serving(testbed) -> ContainerTestbed:
    """A testbed with two serving containers."""
    await testbed.reconcile()
    for slot in (1, 2):
        await testbed.enrol(slot)
    await testbed.reconcile()
    return testbed


# -- making ------------------------------------------------------------------------------------------------------------


async def test_pool_gets_its_minimum_with_labels_and_environment(testbed):
    await testbed.reconcile()
    assert testbed.engine.running() == [testbed.name(1), testbed.name(2)]
    made = testbed.engine.named(testbed.name(1))
    assert (
        made.labels.items()
        >= {INSTANCE_LABEL: "installation-1", POOL_LABEL: str(testbed.pool.id), SLOT_LABEL: "1"}.items()
    )
    said = {name.removeprefix("EXITPLANE_AGENT_"): value for name, value in made.environment.items()}
    assert said == {
        "STATE": "/var/lib/exitplane-agent",
        "ROLE": "exit",
        "API": "http://plane:8000",
        "NAME": made.name,
        "POOL": str(testbed.pool.id),
        "TOKEN_FILE": TOKEN_PATH,
        "ADDRESS": made.name,
        "PORT": "8443",
    }
    host = made.body["HostConfig"]
    assert host["CapAdd"] == ["NET_ADMIN"]
    assert host["Devices"][0]["PathOnHost"] == "/dev/net/tun"
    assert (host["SecurityOpt"], host["RestartPolicy"]) == (["no-new-privileges"], {"Name": "no"})
    assert (host["Binds"], host["PortBindings"], "NetworkMode" in host) == ([], {}, False)


async def test_containers_are_created_with_the_settings_of_their_pool(testbed):
    said = {"command": ["run", "it"], "environment": {"PROVIDER": "x"}, "secrets": ["wg.conf"], "network": "exits"}
    more = {"capabilities": [], "devices": [], "address": "203.0.113.5", "port": 20_000}
    await testbed.declare_containers(WANTED | said | more)
    await testbed.reconcile()
    made = testbed.engine.named(testbed.name(2))
    host = made.body["HostConfig"]
    assert (made.body["Cmd"], made.environment["PROVIDER"], host["NetworkMode"]) == (["run", "it"], "x", "exits")
    assert host["Binds"] == ["/etc/exitplane-secrets/demo/wg.conf:/run/secrets/wg.conf:ro"]
    assert (host["CapAdd"], host["Devices"]) == ([], [])
    assert host["PortBindings"] == {"20001/tcp": [{"HostPort": "20001"}]}
    assert (made.environment["EXITPLANE_AGENT_ADDRESS"], made.environment["EXITPLANE_AGENT_PORT"]) == (
        *("203.0.113.5", "20001"),
    )


async def test_each_container_has_its_own_secret_join_token(testbed, database):
    with capture_logs() as logs:
        await testbed.reconcile()
    tokens = [testbed.engine.named(testbed.name(slot)).files[TOKEN_PATH].decode().strip() for slot in (1, 2)]
    assert tokens[0] != tokens[1]
    written = json.dumps([each.body for each in testbed.engine.containers.values()], default=str) + str(logs)
    assert not any(token in written for token in tokens)
    async with database.session() as session:
        for slot, token in zip((1, 2), tokens, strict=True):
            row = await join_tokens.find(session, token)
            assert (row.proxy_name, row.role, row.uses, row.takes_over) == (testbed.name(slot), Role.EXIT, 1, True)
            assert row.expires_at - testbed.clock() == timedelta(minutes=5)
        made = (await session.execute(text("SELECT action FROM audit_event WHERE kind = 'join-token'"))).scalars()
        assert [*made] == ["created", "created"]


async def test_containers_get_the_authority_of_the_api_as_a_file(testbed):
    await testbed.reconcile()
    assert all("EXITPLANE_AGENT_API_CA" not in each.environment for each in testbed.engine.containers.values())

    testbed.reconciler._context = replace(CONTEXT, api="https://plane:8000", api_ca="PEM")
    changed = template_digest(ContainerSettings(**WANTED), testbed.reconciler._context)
    assert changed != template_digest(ContainerSettings(**WANTED), replace(CONTEXT, api="https://plane:8000"))
    testbed.engine.containers.clear()
    await testbed.reconcile()
    for each in testbed.engine.containers.values():
        assert each.files[each.environment["EXITPLANE_AGENT_API_CA"]] == b"PEM"
    assert testbed.engine.containers


async def test_idle_fleet_gets_no_action(serving, database):
    before = len(serving.engine.asked)
    async with database.session() as session:
        revision = (await session.execute(text("SELECT value FROM revision"))).scalar_one()
    for _ in range(5):
        for slot in (1, 2):
            await serving.enrol(slot)
        await serving.reconcile()
    assert set(serving.engine.asked[before:]) == {"GET /containers/json"}
    async with database.session() as session:
        assert (await session.execute(text("SELECT value FROM revision"))).scalar_one() == revision


# -- replacing ---------------------------------------------------------------------------------------------------------


async def test_ended_container_is_replaced_and_keeps_its_exit(serving):
    exit_id = await serving.enrol(1)
    serving.engine.named(serving.name(1)).end()
    before = serving.engine.named(serving.name(1)).id
    await serving.reconcile()
    row = await serving.row(exit_id)
    assert (row.state, row.state_reason) == (
        "unreachable",
        "its container is replaced: it ended: Exited (137) a second ago",
    )
    await serving.reconcile(times=2)
    assert serving.engine.named(serving.name(1)).id != before
    assert await serving.enrol(1) == exit_id
    assert "it ended: Exited (137)" in (await serving.pool_status()).error


async def test_error_is_cleared_when_the_pool_is_stable(serving):
    serving.engine.named(serving.name(1)).end()
    await serving.reconcile(times=3)
    for _ in range(20):
        for slot in (1, 2):
            await serving.enrol(slot)
        await serving.reconcile(seconds=4)
    standing = await serving.pool_status()
    assert (standing.error, standing.error_since, standing.failures) == ("", None, 0)


async def test_removed_container_is_created_again(serving):
    gone = serving.engine.named(serving.name(2))
    del serving.engine.containers[gone.id]
    await serving.reconcile()
    assert serving.engine.running() == [serving.name(1), serving.name(2)]


async def test_container_with_a_lost_exit_is_replaced(serving):
    exit_id = await serving.enrol(1)
    async with write(serving.database) as unit:
        await exits.change_state(unit, exit_id, ExitState.HEALTHY, ExitState.LOST, "silent", serving.clock())
    before = serving.engine.named(serving.name(1)).id
    await serving.reconcile(times=3)
    assert serving.engine.named(serving.name(1)).id != before
    assert f"POST /containers/{before}/stop" in serving.engine.asked


async def test_pool_with_dying_containers_backs_off(testbed):
    testbed.engine.dies_at_once = True
    await testbed.reconcile(times=60)
    made = sum(each == "POST /containers/create" for each in testbed.engine.asked)
    assert 4 <= made <= 16
    assert "it ended: Exited (1)" in (await testbed.pool_status()).error


async def test_container_is_started_after_a_crash_before_its_start(testbed):
    testbed.engine.fails["POST /containers/000"] = (500, "the lights went out")
    await testbed.reconcile()
    assert (testbed.engine.running(), len(testbed.engine.containers)) == ([], 1)
    testbed.engine.fails.clear()
    await testbed.reconcile(times=3)
    assert testbed.engine.running() == [testbed.name(1), testbed.name(2)]
    assert all(TOKEN_PATH in each.files for each in testbed.engine.containers.values())


async def test_missing_image_is_shown_with_hint_and_time(testbed):
    testbed.engine.images.clear()
    await testbed.reconcile(times=4)
    standing = await testbed.pool_status()
    assert ("No such image: exit:1" in standing.error, "pull or build" in standing.error) == (True, True)
    since = standing.error_since
    await testbed.reconcile(times=4)
    assert (await testbed.pool_status()).error_since == since
    testbed.engine.images.add("exit:1")
    await testbed.reconcile(times=40)
    assert testbed.engine.running() == [testbed.name(1), testbed.name(2)]


async def test_secrets_without_a_folder_are_an_error(testbed):
    testbed.reconciler._context = replace(CONTEXT, secrets=None)
    await testbed.declare_containers(WANTED | {"secrets": ["wg.conf"]})
    await testbed.reconcile()
    assert "EXITPLANE_CONTAINER_SECRETS" in (await testbed.pool_status()).error
    assert testbed.engine.containers == {}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image": "other:1"}, "may not use the image other:1"),
        ({"network": "underlay"}, "may not use the network underlay"),
        ({"secrets": ["../other/wg.conf"]}, "is not a plain file name"),
    ],
)
async def test_pool_written_before_the_policy_gets_no_container(fields, reason, testbed):
    await testbed.declare_containers(WANTED | fields)
    testbed.engine.images.add("other:1")
    await testbed.reconcile(times=3)
    assert reason in (await testbed.pool_status()).error
    assert testbed.engine.containers == {}


async def test_serving_containers_stay_when_their_pool_is_allowed_no_more(serving):
    before = sorted(serving.engine.containers)
    await serving.declare_containers(WANTED | {"network": "underlay"})
    for _ in range(3):
        for slot in (1, 2):
            await serving.enrol(slot)
        await serving.reconcile()
    assert sorted(serving.engine.containers) == before
    assert "may not use the network underlay" in (await serving.pool_status()).error


async def test_unreachable_engine_is_shown_and_loses_no_container(serving):
    serving.engine.fails["GET /containers/json"] = (500, "out of order")
    await serving.reconcile(times=3)
    async with serving.database.session() as session:
        assert "out of order" in (await containers.engine(session)).error
    serving.engine.fails.clear()
    await serving.reconcile()
    async with serving.database.session() as session:
        assert (await containers.engine(session)).error == ""
    assert [each.starts for each in serving.engine.containers.values()] == [1, 1]


# -- what is not its own -----------------------------------------------------------------------------------------------


async def test_containers_of_others_are_never_touched(testbed):
    other = {
        "Image": "exit:1",
        "Labels": {INSTANCE_LABEL: "installation-2", POOL_LABEL: str(testbed.pool.id), SLOT_LABEL: "1"},
    }
    async with Engine(testbed.engine.address) as engine:
        theirs = await engine.create("theirs", other)
        await engine.start(theirs)
        plain = await engine.create("plain", {"Image": "exit:1"})
    await testbed.reconcile()
    await testbed.declare_containers(None)
    await testbed.reconcile(times=5)
    assert set(testbed.engine.containers) == {theirs, plain}
    assert [call for call in testbed.engine.asked if theirs in call][1:] == []


async def test_name_of_a_foreign_container_is_shown_and_not_touched(testbed):
    async with Engine(testbed.engine.address) as engine:
        theirs = await engine.create(testbed.name(1), {"Image": "exit:1"})
    await testbed.reconcile(times=5)
    assert theirs in testbed.engine.containers
    assert "in use" in (await testbed.pool_status()).error


async def test_container_without_a_row_is_found_by_its_labels(serving):
    async with serving.database.session() as session:
        await session.execute(text("DELETE FROM container"))
    await serving.reconcile()
    assert [each.starts for each in serving.engine.containers.values()] == [1, 1]
    assert [row.slot for row in await serving.rows()] == [1, 2]


# -- how many ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_load_scales_up_to_the_maximum_and_idleness_scales_down(serving):
    await serving.declare_containers(WANTED | {"requests_per_exit": 10, "drain_s": 20})
    for _ in range(20):
        for slot in range(1, len(await serving.rows()) + 1):
            await serving.enrol(slot, open_requests=30)
        await serving.reconcile(seconds=4)
    assert serving.engine.running() == [serving.name(slot) for slot in (1, 2, 3)]
    for _ in range(80):
        for slot in range(1, 4):
            if any(row.slot == slot for row in await serving.rows()):
                await serving.enrol(slot, open_requests=2)
        await serving.reconcile(seconds=4)
    draining = [name for name, state in (await serving.exits()).items() if state == ExitState.DRAINING]
    assert (len(draining), len(serving.engine.running())) in ((1, 3), (0, 2))
    for _ in range(10):
        for row in await serving.rows():
            await serving.enrol(row.slot, open_requests=2)
        await serving.reconcile(seconds=4)
    assert (len(serving.engine.running()), len(await serving.exits())) == (2, 2)


async def test_leaving_exit_is_drained_until_it_has_no_open_requests(serving):
    for slot in (1, 2):
        await serving.enrol(slot, open_requests=3)
    await serving.declare_containers(WANTED | {"minimum": 1, "maximum": 1, "drain_s": 600})
    await serving.reconcile()
    (going,) = [name for name, state in (await serving.exits()).items() if state == ExitState.DRAINING]
    slot = int(going[-1])
    serving.clock.advance(seconds=2)
    await serving.enrol(slot, open_requests=3)
    await serving.reconcile(times=3)
    assert going in serving.engine.running()
    serving.clock.advance(seconds=2)
    await serving.enrol(slot, open_requests=0)
    await serving.reconcile()
    assert going not in serving.engine.running()
    assert list(await serving.exits()) == [name for name in map(serving.name, (1, 2)) if name != going]


async def test_pool_without_containers_deregisters_their_exits(serving, database):
    await serving.declare_containers(None)
    await serving.reconcile(times=40)
    assert (serving.engine.containers, await serving.rows(), await serving.exits()) == ({}, [], {})
    async with database.session() as session:
        assert (await session.execute(select(ProxyRow))).all() == []


async def test_containers_of_a_deleted_pool_are_removed(testbed):
    await testbed.reconcile()
    async with write(testbed.database) as unit:
        await declared.remove(unit, await declared.lock(unit.session, PoolRow, testbed.pool.id))
    await testbed.reconcile()
    assert (testbed.engine.containers, await testbed.rows()) == ({}, [])


async def test_new_image_is_rolled_out_one_container_at_a_time(serving):
    serving.engine.images.add("exit:2")
    await serving.declare_containers(WANTED | {"image": "exit:2", "drain_s": 0})
    least = 2
    for _ in range(30):
        await serving.reconcile()
        up = [each for each in serving.engine.containers.values() if each.state == "running"]
        least = min(least, len(up))
        for row in await serving.rows():
            await serving.enrol(row.slot)
    assert {each.body["Image"] for each in serving.engine.containers.values()} == {"exit:2"}
    assert (least, len(serving.engine.running())) == (2, 2)


# -- commands ----------------------------------------------------------------------------------------------------------


async def test_stopped_container_stays_stopped_until_it_is_started(serving):
    await serving.command(1, "stop")
    await serving.reconcile(times=100)
    assert serving.engine.running() == [serving.name(2)]
    assert len(serving.engine.containers) == 2
    await serving.command(1, "start")
    await serving.reconcile()
    assert serving.engine.running() == [serving.name(1), serving.name(2)]


async def test_pool_restart_waits_for_each_container_to_serve(serving):
    for slot in (1, 2):
        await serving.command(slot, "restart", in_turn=True)
    await serving.reconcile()
    assert [serving.engine.named(serving.name(slot)).starts for slot in (1, 2)] == [2, 1]
    await serving.reconcile(times=3)
    assert serving.engine.named(serving.name(2)).starts == 1
    await serving.enrol(1)
    await serving.reconcile()
    assert [serving.engine.named(serving.name(slot)).starts for slot in (1, 2)] == [2, 2]


async def test_logs_command_returns_the_last_lines(serving):
    command_id = await serving.command(1, "logs", lines=2)
    await serving.reconcile()
    assert (await serving.answer(command_id)).answer == "two\nthree\n"


async def test_failed_command_has_an_error(serving):
    serving.engine.fails[f"POST /containers/{serving.engine.named(serving.name(1)).id}/restart"] = (500, "stuck")
    first, second = await serving.command(1, "restart"), await serving.command(9, "restart")
    await serving.reconcile()
    assert "stuck" in (await serving.answer(first)).error
    assert "no such container" in (await serving.answer(second)).error


# -- the lease ---------------------------------------------------------------------------------------------------------


async def test_work_is_cancelled_when_the_lease_is_lost():
    lost, ended = asyncio.Event(), asyncio.Event()

    async def alive():
        if lost.is_set():
            raise asyncpg.ConnectionDoesNotExistError

    async def work():
        try:
            lost.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with asyncio.timeout(60):
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await run_while_leased(alive, work())
    assert ended.is_set()


@pytest.mark.slow
async def test_one_of_two_replicas_works_and_the_other_follows(testbed, until, database_url):
    async def replica():
        database = Database(database_url, keyring=KEYRING)
        try:
            await run_containers(database, testbed.engine.address, CONTEXT, testbed.clock, interval_s=0.05)
        finally:
            await database.close()

    first, second = asyncio.create_task(replica()), asyncio.create_task(replica())
    try:
        await until(lambda: len(testbed.engine.running()) == 2)
        assert sum(each == "POST /containers/create" for each in testbed.engine.asked) == 2
        async with testbed.database.session() as session:
            ended = (
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            await session.execute(text(ended))
        testbed.engine.named(testbed.name(1)).end()
        testbed.clock.advance(seconds=1)
        await until(lambda: testbed.clock.advance(seconds=0.1) and len(testbed.engine.running()) == 2)
    finally:
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)


async def test_old_commands_are_pruned(testbed, database):
    command = await testbed.command(7, "stop")
    await testbed.reconcile()
    testbed.clock.advance(hours=2)
    await testbed.reconcile()
    assert await testbed.answer(command) is None


async def test_heartbeat_of_an_unknown_exit_makes_no_container(testbed):
    async with testbed.database.session() as session:
        assert await heartbeats.find(session, uuid4()) is None
        assert await containers.find(session, uuid4(), testbed.name(1)) is None
