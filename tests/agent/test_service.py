"""A whole agent in this process, with a real Envoy."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest
from envoy_data_plane.envoy.config.bootstrap.v3 import BootstrapStaticResources
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager
from structlog.testing import capture_logs

from agent.config.state_dir import StateDirUnusable
from agent.control.signed_client import Deregistered
from agent.envoy.supervisor import EnvoyMissing
from agent.vpn.tunnel_health import HealthProbe
from model.entities import Role
from tests.held_port import held_port
from xds.translate import names

pytestmark = pytest.mark.envoy

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60
IN_AN_ANY = (Router, HttpConnectionManager)
"""Imported so that their type URLs are registered for use in an Any."""
TOKEN = "ep-exit-never-to-be-seen"


class ScriptedProbe:
    """A probe with a result that the test sets."""

    def __init__(self, failure: str | None = None) -> None:
        self.failure = failure

    async def __call__(self) -> str | None:
        return self.failure


@pytest.fixture(autouse=True)
def _short_period(monkeypatch):
    monkeypatch.setattr("agent.service.PERIOD_S", 0.02)


# -- an exit -----------------------------------------------------------------------------------------------------------


async def test_exit_health_follows_tunnel(plane, source, make_settings, start, until, admin_of, envoy_state):
    plane.interval_s = 300.0
    tunnel = ScriptedProbe()
    running = start(make_settings(Role.EXIT), [HealthProbe(tunnel)])
    await until(lambda: plane.said(tunnel="up", envoy="up"), timeout_s=PATIENCE_S)
    admin = await admin_of(running)

    async def state():
        return await envoy_state(admin)

    assert await state() == "LIVE"
    tunnel.failure = "interface wg0 is not there"
    await until(lambda: plane.said(tunnel="down", reason="interface wg0 is not there", envoy="up"))

    async def failed():
        return await state() == "DRAINING"

    await until(failed)
    tunnel.failure = None
    await until(lambda: plane.said(tunnel="up", envoy="up"))

    async def passed():
        return await state() == "LIVE"

    await until(passed)


async def test_restarted_envoy_fails_health_check_while_tunnel_is_down(
    plane, source, make_settings, start, until, admin_of, envoy_state
):
    running = start(make_settings(Role.EXIT), [HealthProbe(ScriptedProbe("gone"))])
    await admin_of(running)
    pid = running.record["pid"]

    async def failed():
        return await envoy_state(await admin_of(running)) == "DRAINING"

    await until(failed)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: running.record is None)
    await until(lambda: running.record, timeout_s=PATIENCE_S)
    await until(failed)

    assert running.record["pid"] != pid


async def test_dead_envoy_is_reported_and_restarted(plane, source, make_settings, start, until):
    plane.interval_s = 300.0
    running = start(make_settings(Role.EXIT))
    await until(lambda: plane.said(envoy="up"), timeout_s=PATIENCE_S)
    os.kill(running.record["pid"], signal.SIGKILL)
    await until(lambda: plane.said(envoy="down"))
    await until(lambda: plane.said(envoy="up"), timeout_s=PATIENCE_S)


async def test_envoy_without_configuration_is_reported_down(plane, make_settings, start, until, admin_of):
    running = start(make_settings(Role.EXIT))
    admin = await admin_of(running)
    await until(lambda: len(plane.beats) >= 3)

    assert {beat["envoy"] for beat in plane.beats} == {"down"}
    assert not await admin.is_live()
    await running.end()


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_exit_fails_health_check_before_last_heartbeat(
    plane, source, make_settings, start, until, admin_of, envoy_state, is_running
):
    running = start(make_settings(Role.EXIT))
    await until(lambda: plane.said(envoy="up"), timeout_s=PATIENCE_S)
    pid, admin = running.record["pid"], await admin_of(running)
    states = []

    async def note_state():
        states.append(await envoy_state(admin))

    plane.on_stopping = note_state
    await running.end()

    # the health check failed first, and Envoy ran until the last heartbeat
    assert states == ["DRAINING"]
    assert plane.said(stopping=True, envoy="up")
    assert not is_running(pid)
    assert running.record is None


async def test_last_heartbeat_has_time_limit(plane, source, make_settings, start, until, monkeypatch):
    monkeypatch.setattr("agent.service.LAST_HEARTBEAT_S", 0.2)
    running = start(make_settings(Role.GATEWAY))
    await until(lambda: plane.said(envoy="up"), timeout_s=PATIENCE_S)
    never = asyncio.Event()
    plane.on_stopping = never.wait
    await running.end()  # the control plane does not answer
    never.set()


async def test_agent_stops_while_enrolling(plane, make_settings, start, until, answer):
    plane.instead = [answer(503, headers={"Retry-After": "60"})]
    running = start(make_settings(Role.GATEWAY))
    await until(lambda: plane.enrolled)

    await running.end()


async def test_deregistered_agent_stops_its_envoy(plane, source, make_settings, start, until, answer, is_running):
    running = start(make_settings(Role.GATEWAY))
    await until(lambda: plane.said(envoy="up"), timeout_s=PATIENCE_S)
    pid = running.record["pid"]
    plane.to_beats = answer(410, {"detail": "the gateway was removed"})

    with pytest.raises(Deregistered):
        async with asyncio.timeout(PATIENCE_S):
            await running.task
    assert not is_running(pid)


async def test_missing_envoy_ends_agent_before_enrolment(plane, make_settings, start):
    running = start(make_settings(Role.GATEWAY, envoy=Path("/no/envoy")))

    with pytest.raises(EnvoyMissing):
        await running.task
    assert plane.enrolled == []


async def test_second_agent_in_same_folder_is_refused(plane, source, make_settings, start, until):
    start(make_settings(Role.GATEWAY))
    await until(lambda: plane.enrolled)

    with pytest.raises(StateDirUnusable, match="another agent uses"):
        await start(make_settings(Role.GATEWAY)).task


# -- while the control plane is down ------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_envoy_restarted_during_outage_keeps_configuration(
    plane, source, make_settings, start, until, http, target, port
):
    source.held = resources(port, target)
    running = start(make_settings(Role.GATEWAY))

    async def serves():
        try:
            async with http.get(f"http://127.0.0.1:{port}/") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    await until(serves, timeout_s=PATIENCE_S)
    await until(lambda: running.record)  # an Envoy may serve before its agent has written envoy.json
    first = running.record["pid"]
    await until((running.settings.state / "record.bin").exists)
    await source.stop()
    os.kill(first, signal.SIGKILL)
    await until(lambda: running.record and running.record["pid"] != first, timeout_s=PATIENCE_S)
    await until(serves, timeout_s=PATIENCE_S)

    # when the control plane is back, Envoy states what it holds, and keeps it
    streams = len(source.streams)
    await source.start()
    await until(lambda: len(source.streams) > streams and len(source.streams[-1]) == 2, timeout_s=PATIENCE_S)
    assert source.streams[-1] == {names.CLUSTER: {"target": "1"}, names.LISTENER: {"clients": "1"}}
    await running.end()
    assert not (running.settings.state / "agent.sock").exists()


# -- open tunnels ------------------------------------------------------------------------------------------------------


@pytest.fixture
def port():
    """A port that Envoy may bind while it is held (SO_REUSEPORT)."""
    with held_port() as held:
        yield held


def resources(port: int, target_port: int) -> dict[str, dict[str, bytes]]:
    """Build a listener on `port` that routes every request to `target_port`."""
    target = {"endpoint": {"address": {"socketAddress": {"address": "127.0.0.1", "portValue": target_port}}}}
    types = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "statPrefix": "clients",
        "httpFilters": [{"name": "router", "typedConfig": {"@type": f"{types}.http.router.v3.Router"}}],
        "routeConfig": {
            "name": "all",
            "virtualHosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "target", "timeout": "0s"}}],
                }
            ],
        },
    }
    both = BootstrapStaticResources.from_dict(
        {
            "listeners": [
                {
                    "name": "clients",
                    "address": {"socketAddress": {"address": "127.0.0.1", "portValue": port}},
                    "filterChains": [{"filters": [{"name": "http", "typedConfig": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "target",
                    "connectTimeout": "1s",
                    "loadAssignment": {"clusterName": "target", "endpoints": [{"lbEndpoints": [target]}]},
                }
            ],
        }
    )
    return {
        names.LISTENER: {"clients": bytes(both.listeners[0])},
        names.CLUSTER: {"target": bytes(both.clusters[0])},
    }


@pytest.fixture
async def target():
    """The port of a server that answers every request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def silent_target():
    """A server that answers once `release` is set; `(port, received, release)`."""
    received, release = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        received.set()
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], received, release
    release.set()
    server.close()


@pytest.fixture
def gateway_with_an_open_request(plane, source, make_settings, start, until, http, silent_target, port):
    """A function that starts a gateway and returns its agent and the task of an open request through it."""

    async def begin(**other):
        target_port, received, _ = silent_target
        source.held = resources(port, target_port)
        running = start(make_settings(Role.GATEWAY, **other))
        await until(lambda: plane.said(envoy="up"), timeout_s=PATIENCE_S)

        async def ask() -> int:
            async with http.get(f"http://127.0.0.1:{port}/") as response:
                return response.status

        asking = asyncio.create_task(ask())
        await received.wait()
        return running, asking

    return begin


async def test_stopping_gateway_waits_for_open_requests(plane, gateway_with_an_open_request, silent_target, until):
    running, asking = await gateway_with_an_open_request(drain_time_s=PATIENCE_S)
    running.stop.request()
    await until(lambda: plane.said(stopping=True))
    assert not running.task.done()
    silent_target[2].set()

    assert await asking == 200
    async with asyncio.timeout(PATIENCE_S):
        await running.task


async def test_stopping_gateway_waits_no_longer_than_drain_time(gateway_with_an_open_request):
    running, asking = await gateway_with_an_open_request(drain_time_s=0.2)

    await running.end()
    assert (await asyncio.gather(asking, return_exceptions=True))[0] != 200


async def test_last_heartbeat_does_not_delay_drain(plane, gateway_with_an_open_request, until):
    running, asking = await gateway_with_an_open_request(drain_time_s=0.2)
    answered = asyncio.Event()
    plane.on_stopping = answered.wait
    with capture_logs() as logs:
        running.stop.request()
        await until(lambda: [each for each in logs if each["event"] == "agent.tunnels_cut"])
    answered.set()

    await running.end()
    assert (await asyncio.gather(asking, return_exceptions=True))[0] != 200


async def test_second_stop_request_does_not_wait(plane, gateway_with_an_open_request, until):
    running, asking = await gateway_with_an_open_request(drain_time_s=300)
    running.stop.request()
    await until(lambda: plane.said(stopping=True))

    await running.end()
    assert (await asyncio.gather(asking, return_exceptions=True))[0] != 200
