"""An exit's parent proxy: the probe, requests through it, its options and its registration."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web
from yarl import URL

from agent.config.credentials import Credentials, read_credentials, read_key
from agent.config.option_parsing import BadSetting
from agent.config.settings import AgentSettings, ExitSettings, GluetunAccess, ParentProxy
from agent.config.status import HealthState, StatusBoard
from agent.control.enrolment import _build_placement
from agent.egress.observer import Observer
from agent.egress.parent_proxy import probe_parent
from agent.options import ExitOptions, read_exit
from agent.vpn.tunnel_health import TunnelMonitor, probes_of
from model.endpoint import Endpoint
from model.entities import Role
from tests.gluetun import GluetunStandIn as StandIn
from tests.gluetun import basic

KNOWN = Credentials("exit", "p\u00e4ss word")


@pytest.fixture
async def stand_in():
    made = StandIn(username=KNOWN.username, password=KNOWN.password)
    await made.start()
    yield made
    await made.stop()
    made.release()


@pytest.fixture
async def target():
    """An endpoint that accepts connections."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    server.close()


def endpoint_of(stand_in) -> Endpoint:
    return Endpoint("127.0.0.1", stand_in.proxy_port)


async def test_probe_accepts_parent_that_connects(stand_in, target):
    parent = ParentProxy(endpoint_of(stand_in), KNOWN)
    assert await probe_parent(parent, target) is None
    assert await probe_parent(parent, None) is None
    assert [each.method for each in stand_in.requests] == ["CONNECT", "CONNECT"]


async def test_probe_tells_missing_from_refused_credentials(stand_in):
    found = await probe_parent(ParentProxy(endpoint_of(stand_in), Credentials("exit", "x")), None)
    assert found == f"the parent proxy {endpoint_of(stand_in)} refuses the exit's credentials"
    found = await probe_parent(ParentProxy(endpoint_of(stand_in)), None)
    assert found == f"the parent proxy {endpoint_of(stand_in)} asks for credentials"


async def test_probe_reports_unreachable_target(stand_in):
    found = await probe_parent(ParentProxy(endpoint_of(stand_in), KNOWN), Endpoint("127.0.0.1", 1))
    assert found == f"127.0.0.1:1 cannot be reached through the parent proxy {endpoint_of(stand_in)} (it answers 503)"


async def test_probe_reports_timeout(stand_in, monkeypatch):
    monkeypatch.setattr("agent.egress.parent_proxy.TIMEOUT_S", 0.1)
    stand_in.hangs = True
    assert "does not answer in time" in (await probe_parent(ParentProxy(endpoint_of(stand_in), KNOWN), None) or "")


async def test_probe_reports_unreachable_parent(stand_in):
    await stand_in.stop()
    assert "cannot be reached" in (await probe_parent(ParentProxy(endpoint_of(stand_in), KNOWN), None) or "")


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 2000 OK\r\n", b"x" * 100_000, b"HTTP/2 200\r\n"]
)
async def test_probe_reports_answer_that_is_not_http(answer):
    async def respond(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    endpoint = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    assert "not HTTP" in (await probe_parent(ParentProxy(endpoint), None) or "")
    server.close()


async def test_tunnel_is_up_while_gluetun_and_parent_are(stand_in):
    access = GluetunAccess(URL(stand_in.control_url))
    exit_ = ExitSettings("us", "192.0.2.3", 8443, parent=ParentProxy(endpoint_of(stand_in), KNOWN), gluetun=access)
    board = StatusBoard()
    watch = TunnelMonitor(probes_of(exit_), board, period_s=1)

    async def observe(times: int = 1) -> tuple[HealthState, str]:
        for _ in range(times):
            await watch.observe()
        return board.report.tunnel, board.report.reason

    assert await observe() == (HealthState.UP, "")
    stand_in.status = "stopped"
    assert await observe() == (HealthState.UP, "")
    assert await observe() == (HealthState.DOWN, "gluetun says that its tunnel is stopped")
    stand_in.status = "running"
    assert await observe() == (HealthState.UP, "")
    stand_in.password = "another"
    assert await observe(2) == (
        HealthState.DOWN,
        f"the parent proxy {endpoint_of(stand_in)} refuses the exit's credentials",
    )


async def test_source_is_queried_through_parent(stand_in):
    async def tell(request):
        return web.json_response({"ip": "198.51.100.9", "country": "US"})

    app = web.Application()
    app.router.add_get("/json", tell)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    stand_in.names["ipinfo.example"] = "127.0.0.1"
    source = URL(f"http://ipinfo.example:{port}/json")
    exit_ = ExitSettings("us", "192.0.2.3", 8443, sources=(source,), parent=ParentProxy(endpoint_of(stand_in), KNOWN))

    observation = (await Observer(exit_, StatusBoard()).observe()).observation

    await runner.cleanup()
    assert (observation.address, observation.country) == ("198.51.100.9", "us")
    (asked,) = stand_in.requests
    assert (asked.target, asked.headers["proxy-authorization"]) == (str(source), basic("exit", KNOWN.password))


async def test_https_sends_credentials_to_parent_only(stand_in, target):
    stand_in.names["ipinfo.example"] = "127.0.0.1"
    source = URL(f"https://ipinfo.example:{target.port}/json")
    exit_ = ExitSettings("us", "192.0.2.3", 8443, sources=(source,), parent=ParentProxy(endpoint_of(stand_in), KNOWN))
    observation = (await Observer(exit_, StatusBoard()).observe()).observation
    assert observation.error == "ipinfo.example: it cannot be reached"  # the target speaks no TLS
    (asked,) = stand_in.requests
    assert (asked.method, asked.headers["proxy-authorization"]) == ("CONNECT", basic("exit", KNOWN.password))


async def test_changed_credentials_file_is_used_at_once(stand_in, tmp_path):
    path = write(tmp_path / "parent", "exit\nold\n")
    parent = ParentProxy(endpoint_of(stand_in), Credentials("exit", "old"), path)
    assert "refuses" in (await probe_parent(parent, None) or "")
    write(path, f"{KNOWN.username}\n{KNOWN.password}\n")
    assert await probe_parent(parent, None) is None
    path.unlink()
    assert "refuses" in (await probe_parent(parent, None) or "")


# -- settings ----------------------------------------------------------------------------------------------------------


def write(path, text, mode=0o600):
    path.write_text(text)
    path.chmod(mode)
    return path


def test_credentials_are_read_from_private_file(tmp_path):
    path = write(tmp_path / "parent", f"{KNOWN.username}\n{KNOWN.password}\n")
    assert read_credentials("--parent-credentials", path) == KNOWN
    assert KNOWN.password not in repr(KNOWN)
    assert read_key("--gluetun-key-file", write(tmp_path / "key", "abc\n")) == "abc"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_credentials_file_readable_by_others_is_refused(tmp_path, mode):
    with pytest.raises(BadSetting, match="is open to others"):
        read_credentials("--parent-credentials", write(tmp_path / "parent", "a\nb\n", mode))


@pytest.mark.parametrize("text", ["", "a", "a\n", "a\n\n", "a\nb\nc", "a:b\nc", "a\nb\x07", "x" * 5000])
def test_malformed_credentials_file_is_refused(tmp_path, text):
    with pytest.raises(BadSetting, match="--parent-credentials"):
        read_credentials("--parent-credentials", write(tmp_path / "parent", text))


def options(**given):
    return ExitOptions(pool="us", address="192.0.2.3", port=8443, **given)


def test_options_set_parent_and_credentials(tmp_path):
    path = write(tmp_path / "parent", f"{KNOWN.username}\n{KNOWN.password}\n")
    given = {"parent": "127.0.0.1:8888", "parent_credentials": path, "gluetun": "http://127.0.0.1:8000"}
    exit_ = read_exit(Role.EXIT, options(**given))
    assert exit_.parent == ParentProxy(Endpoint("127.0.0.1", 8888), KNOWN, path)
    assert exit_.gluetun == GluetunAccess(URL("http://127.0.0.1:8000"))
    settings = AgentSettings(URL("http://127.0.0.1"), tmp_path, "us-1", None, exit=exit_)
    expected = {"address": "127.0.0.1", "port": 8888, "username": KNOWN.username, "password": KNOWN.password}
    assert _build_placement(settings)["parent"] == expected
    assert KNOWN.password not in repr(settings)


def test_registration_without_parent_has_no_parent_field(tmp_path):
    exit_ = read_exit(Role.EXIT, options())
    assert "parent" not in json.dumps(
        _build_placement(AgentSettings(URL("http://127.0.0.1"), tmp_path, "us-1", None, exit=exit_))
    )


@pytest.mark.parametrize(
    "given",
    [
        {"parent": "127.0.0.1"},
        {"parent_credentials": "x"},
        {"gluetun": "ftp://x"},
        {"gluetun_key_file": "x"},
        {"gluetun_credentials": "x"},
        {"gluetun": "http://127.0.0.1:8000", "gluetun_key_file": "x", "gluetun_credentials": "x"},
    ],
)
def test_incompatible_parent_options_are_refused(given):
    with pytest.raises(BadSetting):
        read_exit(Role.EXIT, options(**given))
