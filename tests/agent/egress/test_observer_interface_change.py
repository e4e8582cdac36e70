"""The observation of an exit whose tunnel moves to another interface."""

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
from tests.agent.egress.test_observer import SEEN, observed, observing, up


async def test_observation_of_one_interface_is_not_kept_for_another(source, until):
    board, active = up(), ActiveInterface("lo")
    exit_ = an_exit(source.url, tunnel_interface="lo", observe_every_s=0.01)
    async with observing(exit_, board, retry_s=0.01, active=active, route=lambda *_: active.interface):
        await until(lambda: observed(board) == SEEN)
        source.respond(web.Response(status=503))
        count = len(source.clients)
        await until(lambda: len(source.clients) > count + 2)
        assert observed(board) == SEEN
        active.interface = "nowhere0"
        await until(lambda: board.report.observation.country is None)
    assert board.report.observation.leak == ""


async def test_observer_waits_while_interface_changes(source):
    board, active = StatusBoard(), ActiveInterface("nowhere0")
    observer = Observer(an_exit(source.url, tunnel_interface="lo"), board, active=active, route=lambda *_: "lo")
    async with active.lock:
        task = asyncio.create_task(observer.observe())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 0.1)
        active.interface = "lo"
    snapshot = await asyncio.wait_for(task, 60)
    assert (snapshot.interface, snapshot.observation) == ("lo", SEEN)


async def test_candidate_is_observed_by_new_interface_whatever_the_route(source):
    exit_ = an_exit(source.url, tunnel_interface="ep0")
    observer = Observer(exit_, StatusBoard(), route=lambda *_: "ep0")
    assert await observer.observe_candidate(replace(exit_, tunnel_interface="lo")) == SEEN
    seen = await observer.observe_candidate(replace(exit_, tunnel_interface="nowhere0"))
    assert (seen.country, seen.error) == (None, "127.0.0.1: it cannot be reached")


async def test_candidate_queries_new_resolvers_by_new_interface(source, make_resolver, monkeypatch):
    queries = []

    async def identify(zone, server, interface):
        queries.append((server.host, interface))
        raise UnusableAnswer("it is silent")

    monkeypatch.setattr(dns_leak, "identify_resolver", identify)
    exit_ = an_exit(source.url, tunnel_interface="ep0", dns_zone="who.test")
    seen = await Observer(exit_, StatusBoard()).observe_candidate(
        replace(exit_, tunnel_interface="lo", resolvers=("10.0.0.53",))
    )
    assert set(queries) == {("10.0.0.53", "lo")}
    assert "it is silent" in seen.error


async def test_query_bound_to_interface_uses_no_other(make_resolver):
    resolver = await make_resolver(lambda _: [])
    with pytest.raises(NoDnsAnswer, match="cannot be reached"):
        await query("who.test", "TXT", resolver.endpoint, interface="nowhere0")
    assert resolver.queries == []
