"""What is seen of an exit whose clients go by another interface from one moment to the next."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web

from agent.config.status import StatusBoard
from agent.egress import dns_leak
from agent.egress.observer import Observer
from agent.egress.types import UnusableAnswer
from agent.net.active_interface import ActiveInterface
from agent.net.dns_client import NoDnsAnswer, query
from tests.agent.egress.conftest import an_exit
from tests.agent.egress.test_observer import SEEN, observing, told, up


async def test_what_was_seen_by_one_interface_does_not_hold_for_another(source, until):
    board, active = up(), ActiveInterface("lo")
    exit_ = an_exit(source.url, tunnel_interface="lo", observe_every_s=0.01)
    async with observing(exit_, board, again_s=0.01, active=active, route=lambda *_: active.interface):
        await until(lambda: told(board) == SEEN)
        source.say(web.Response(status=503))
        asked = len(source.asked)
        await until(lambda: len(source.asked) > asked + 2)
        assert told(board) == SEEN
        active.interface = "nowhere0"
        await until(lambda: board.report.observation.country is None)
    assert board.report.observation.leak == ""


async def test_nobody_looks_while_the_interface_is_changed(source):
    board, active = StatusBoard(), ActiveInterface("nowhere0")
    observer = Observer(an_exit(source.url, tunnel_interface="lo"), board, active=active, route=lambda *_: "lo")
    async with active.lock:
        looking = asyncio.create_task(observer.look())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(looking), 0.1)
        active.interface = "lo"
    look = await asyncio.wait_for(looking, 60)
    assert (look.interface, look.observation) == ("lo", SEEN)


async def test_a_look_ahead_goes_by_the_new_interface_alone_and_minds_no_route(source):
    exit_ = an_exit(source.url, tunnel_interface="ep0")
    observer = Observer(exit_, StatusBoard(), route=lambda *_: "ep0")
    assert await observer.look_ahead(replace(exit_, tunnel_interface="lo")) == SEEN
    seen = await observer.look_ahead(replace(exit_, tunnel_interface="nowhere0"))
    assert (seen.country, seen.trouble) == (None, "127.0.0.1: it cannot be reached")


async def test_a_look_ahead_asks_the_new_resolvers_by_the_new_interface(source, make_resolver, monkeypatch):
    asked = []

    async def ask(zone, server, interface):
        asked.append((server.host, interface))
        raise UnusableAnswer("it is mute")

    monkeypatch.setattr(dns_leak, "reveal", ask)
    exit_ = an_exit(source.url, tunnel_interface="ep0", dns_zone="who.test")
    seen = await Observer(exit_, StatusBoard()).look_ahead(
        replace(exit_, tunnel_interface="lo", resolvers=("10.0.0.53",))
    )
    assert set(asked) == {("10.0.0.53", "lo")}
    assert "it is mute" in seen.trouble


async def test_a_question_that_is_bound_to_an_interface_goes_by_no_other(make_resolver):
    resolver = await make_resolver(lambda _: [])
    with pytest.raises(NoDnsAnswer, match="cannot be reached"):
        await query("who.test", "TXT", resolver.endpoint, interface="nowhere0")
    assert resolver.asked == []
