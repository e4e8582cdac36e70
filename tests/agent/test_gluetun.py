"""The client of gluetun's control API, and rotation with it."""

from __future__ import annotations

import asyncio
import json

import pytest
from yarl import URL

from agent.config.credentials import Credentials
from agent.config.settings import GluetunAccess
from agent.gluetun.client import (
    BODY_MAX_BYTES,
    BadGluetunAnswer,
    GluetunClient,
    GluetunStatus,
    GluetunUnreachable,
    KeyRefused,
    PublicIp,
)
from agent.gluetun.countries import UnknownCountry, full_name
from agent.gluetun.server_change import NotRotated, rotate
from agent.gluetun.tunnel_state import check_gluetun
from tests.gluetun import ADDRESSES
from tests.gluetun import GluetunStandIn as StandIn


@pytest.fixture
async def stand_in():
    made = StandIn()
    await made.start()
    yield made
    await made.stop()
    made.release()


def client_of(stand_in, *, timeout_s: float = 60, **access) -> GluetunClient:
    return GluetunClient(GluetunAccess(URL(stand_in.control_url), **access), timeout_s)


async def test_client_reads_status_address_and_version(stand_in):
    gluetun = client_of(stand_in)
    assert await gluetun.status() == GluetunStatus.RUNNING
    assert await gluetun.public_ip() == PublicIp(ADDRESSES["Netherlands"], "Netherlands")
    assert await gluetun.version() == "v3.40.0"
    assert await check_gluetun(gluetun) is None
    await gluetun.set_status(GluetunStatus.STOPPED)
    assert await gluetun.status() == GluetunStatus.STOPPED
    assert await gluetun.public_ip() is None


@pytest.mark.parametrize(
    ("lock", "key"),
    [
        ({"api_key": "k"}, {"key": "k"}),
        ({"api_user": ("u", "p\u00e4")}, {"credentials": Credentials("u", "p\u00e4")}),
    ],
)
async def test_client_needs_key_or_credentials(stand_in, lock, key):
    for name, value in lock.items():
        setattr(stand_in, name, value)
    assert await client_of(stand_in, **key).status() == "running"
    for wrong in ({}, {"key": "another"}, {"credentials": Credentials("u", "another")}):
        with pytest.raises(KeyRefused):
            await client_of(stand_in, **wrong).status()
    assert await check_gluetun(client_of(stand_in)) == "gluetun's control API refuses the agent's key or credentials"


def answer(status: int, body: bytes) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("says", "error"),
    [
        (answer(403, b"no"), "refuses the agent's key"),
        (answer(404, b"404 page not found"), "answers 404"),
        (answer(500, b""), "answers 500"),
        (answer(302, b""), "answers 302"),
        (answer(200, b"<html>welcome</html>"), "answers no JSON"),
        (answer(200, b"[" * 60_000), "answers no JSON"),
        (answer(200, b"\xff\xfe"), "answers no JSON"),
        (answer(200, b"[]"), "answers no JSON object"),
        (answer(200, b"{}"), "gives no status"),
        (answer(200, b'{"status": 7}'), "gives no status"),
        (answer(200, b'{"status": "a\\u001bb"}'), "gives no status"),
        (answer(200, b'{"status": "crashed"}'), "says that its tunnel is crashed"),
        (answer(200, b'{"status": "stopped"}'), "says that its tunnel is stopped"),
        (answer(200, b" " * (BODY_MAX_BYTES + 1)), "answers too much"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "answers no HTTP"),
        (b"", "cannot be reached"),
    ],
)
async def test_unusable_answer_has_plain_reason(stand_in, says, error):
    stand_in.override = lambda _path: says
    found = await check_gluetun(client_of(stand_in))
    assert found is not None
    assert error in found


async def test_unreachable_gluetun_differs_from_bad_answer(stand_in):
    stand_in.api_hangs = True
    with pytest.raises(GluetunUnreachable, match="in time"):
        await client_of(stand_in, timeout_s=0.1).status()
    await stand_in.stop()
    with pytest.raises(GluetunUnreachable, match="cannot be reached"):
        await client_of(stand_in).status()


@pytest.mark.parametrize("address", ["", None])
async def test_running_tunnel_without_public_address_is_not_up(stand_in, address):
    stand_in.override = lambda path: (
        answer(200, json.dumps({"public_ip": address}).encode()) if "public" in path else None
    )
    assert await check_gluetun(client_of(stand_in)) == "gluetun does not know its public address"


@pytest.mark.parametrize("address", ["somewhere", 7, {"a": 1}])
async def test_invalid_public_address_is_refused(stand_in, address):
    stand_in.override = lambda path: (
        answer(200, json.dumps({"public_ip": address}).encode()) if "public" in path else None
    )
    with pytest.raises(BadGluetunAnswer, match="public address"):
        await client_of(stand_in).public_ip()


# -- rotation -------------------------------------------------------------------------------------------------------


async def test_rotate_restarts_tunnel_and_awaits_new_address(stand_in):
    before = stand_in.public_ip
    found = await rotate(client_of(stand_in), poll_s=0.01)
    assert found == stand_in.public_ip != before
    changes = [json.loads(each.body) for each in stand_in.api_requests if each.method == "PUT"]
    assert changes == [{"status": "stopped"}, {"status": "running"}]


@pytest.mark.parametrize("country", ["de", "DE", "Germany"])
async def test_rotate_to_country_sends_its_full_name(stand_in, country):
    assert await rotate(client_of(stand_in), country, poll_s=0.01) == ADDRESSES["Germany"]
    (change,) = [each for each in stand_in.api_requests if each.method == "PUT"]
    assert change.target == "/v1/vpn/settings"
    assert json.loads(change.body) == {"provider": {"server_selection": {"countries": ["Germany"]}}}


@pytest.mark.parametrize("country", [None, "jp"])
async def test_rotate_times_out_without_new_address(stand_in, country):
    stand_in.reconnects = False
    with pytest.raises(NotRotated, match=r"no other address after 0\.3 s"):
        await rotate(client_of(stand_in), country, within_s=0.3, poll_s=0.01)


async def test_rotate_retries_failing_api_until_tunnel_is_started(stand_in):
    failures = iter([None, None, None, answer(500, b""), answer(500, b"")])
    stand_in.override = lambda _path: next(failures, None)
    assert await rotate(client_of(stand_in), poll_s=0.01) == stand_in.public_ip
    assert stand_in.status == "running"


async def test_rotate_ends_at_once_with_refused_key(stand_in):
    stand_in.api_key = "k"
    with pytest.raises(KeyRefused):
        await rotate(client_of(stand_in), within_s=60)


async def test_rotate_raises_without_gluetun(stand_in):
    await stand_in.stop()
    with pytest.raises(NotRotated, match="cannot be reached"):
        await rotate(client_of(stand_in), within_s=60)


async def test_rotate_can_be_cancelled(stand_in, until):
    stand_in.reconnects = False
    task = asyncio.create_task(rotate(client_of(stand_in), poll_s=0.01))
    await until(lambda: any(each.method == "PUT" for each in stand_in.api_requests))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("de", "Germany"),
        ("US", "United States"),
        ("uk", "United Kingdom"),
        ("vn", "Vietnam"),
        ("Czech Republic", "Czech Republic"),
    ],
)
def test_full_name_is_common_name_of_country(given, name):
    assert full_name(given) == name


def test_unknown_country_is_refused():
    with pytest.raises(UnknownCountry):
        full_name("zz")
