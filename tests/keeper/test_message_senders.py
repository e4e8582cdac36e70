"""Sending of messages: signed webhooks, Apprise in a thread, and addresses that are not dialled."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from uuid import UUID

import pytest
from aiohttp import web

from keeper.messages import senders
from keeper.messages.senders import Sender
from keeper.messages.signature import sign
from model import apprise_client
from model.apprise_client import NotSent
from model.repositories.messages import ClaimedMessage
from model.tables import ChannelRow
from tests.telegram import TOKEN, Telegram

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = "0123456789abcdef-key"
DOCUMENT = Path(__file__).parents[2] / "docs" / "messages.md"
CONTENT = {
    "title": "exit <b>us-1</b> is lost",
    "body": "a <script>, *b* & _c_",
    "kind": "alert",
    "items": [{"count": 1}],
}
MESSAGE = ClaimedMessage(5, NOW, "lost", UUID(int=1), CONTENT, 1)


def channel(url, service="webhook"):
    return ChannelRow(id=UUID(int=1), name="c", service=service, url=url, signing_key=KEY, created_at=NOW)


@pytest.fixture
async def receiver():
    """A server at `receiver.address`, which records requests and answers with `receiver.status`."""

    class Receiver:
        status, headers, requests = 200, {}, []

        async def handle(self, request):
            self.requests.append((request.path_qs, request.headers, await request.read()))
            return web.Response(status=self.status, headers=self.headers)

    opened = Receiver()
    opened.requests = []
    app = web.Application()
    telegram = opened.telegram = Telegram()
    app.router.add_post("/bot{token}/{method}", telegram.handle)
    app.router.add_route("*", "/{tail:.*}", opened.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    opened.address = f"127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    yield opened
    await runner.cleanup()


@pytest.fixture
async def sender():
    async with Sender(lambda: NOW, allows_local=True) as opened:
        yield opened


def documented_check():
    """The function that docs/messages.md gives to receivers."""
    (recipe,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names = {"hmac": hmac, "hashlib": hashlib, "Mapping": Mapping}
    exec(recipe, names)
    return names["is_genuine"]


def test_documented_check_accepts_only_what_was_signed_lately():
    is_genuine, body, at = documented_check(), b'{"a":1}', NOW.timestamp()
    headers = sign(KEY, body, NOW)
    assert is_genuine(KEY, headers, body, at + 300)
    assert not is_genuine(KEY, headers, body, at + 301)
    assert not is_genuine(KEY, headers, body, at - 301)
    assert not is_genuine(KEY, headers, body + b" ", at)
    assert not is_genuine(KEY + "x", headers, body, at)
    assert not is_genuine(KEY, headers | {"Exitplane-Timestamp": str(int(at) + 1)}, body, at)
    assert not is_genuine(KEY, {}, body, at)


async def test_webhook_is_signed(sender, receiver):
    await sender.send(channel(f"http://{receiver.address}/hook?a=b"), MESSAGE)
    ((path, headers, body),) = receiver.requests
    assert (path, headers["Exitplane-Message"]) == ("/hook?a=b", "5")
    assert documented_check()(KEY, headers, body, NOW.timestamp())
    assert json.loads(body) == {"id": 5, "at": NOW.isoformat(), "rule": "lost", **CONTENT}


@pytest.mark.parametrize("status", [302, 307, 404, 500])
async def test_webhook_follows_no_redirect_and_fails_with_the_status(status, sender, receiver):
    receiver.status, receiver.headers = status, {"Location": f"http://{receiver.address}/elsewhere"}
    with pytest.raises(NotSent, match=f"status {status}"):
        await sender.send(channel(f"http://{receiver.address}/hook"), MESSAGE)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0"])
async def test_own_host_is_not_dialled(host, receiver):
    port = receiver.address.partition(":")[2]
    async with Sender(lambda: NOW) as sender:
        for each in (channel(f"http://{host}:{port}/"), channel(f"ntfy://{host}:{port}/topic", "ntfy")):
            with pytest.raises(NotSent, match="own host or link"):
                await sender.send(each, MESSAGE)
    assert receiver.requests == []


async def test_error_contains_no_secret(sender):
    with pytest.raises(NotSent) as failed:
        await sender.send(channel("http://user:s3cr3t-word@no-such-host.invalid/s3cr3t-path"), MESSAGE)
    assert "s3cr3t" not in str(failed.value)


async def test_apprise_sends_plain_text(sender, receiver):
    await sender.send(channel(f"ntfy://{receiver.address}/topic", "ntfy"), MESSAGE)
    ((_, _, body),) = receiver.requests
    assert "a <script>, *b* & _c_" in json.loads(body)["message"]
    receiver.status = 500
    with pytest.raises(NotSent, match="500"):
        await sender.send(channel(f"ntfy://{receiver.address}/topic", "ntfy"), MESSAGE)


async def test_apprise_escapes_markup_for_telegram(sender, receiver, monkeypatch):
    plugin = import_module("apprise.plugins.telegram").NotifyTelegram
    monkeypatch.setattr(plugin, "notify_url", f"http://{receiver.address}/bot")
    await sender.send(channel(f"tgram://{TOKEN}/7/", "tgram"), MESSAGE)
    (sent,) = receiver.telegram.sent
    assert sent["parse_mode"] == "HTML"
    assert "&lt;script&gt;" in sent["text"]
    assert "<script>" not in sent["text"]


async def test_hanging_service_gets_no_second_thread(sender, monkeypatch):
    monkeypatch.setattr(senders, "APPRISE_TIMEOUT_S", 0.05)
    release, calls = threading.Event(), []

    def hang(url, content):
        calls.append(url)
        release.wait(60)

    monkeypatch.setattr(senders, "notify", hang)
    for reason in ("did not answer within", "still hangs"):
        with pytest.raises(NotSent, match=reason):
            await sender.send(channel("ntfy://ntfy.example.net/t", "ntfy"), MESSAGE)
    release.set()
    assert len(calls) == 1


def test_channel_checks_import_no_other_plugin():
    assert apprise_client.understands("ntfy://ntfy.example.net/topic")
    assert not apprise_client.understands("tgram://no-token")
    assert "apprise.plugins.syslog" not in sys.modules
