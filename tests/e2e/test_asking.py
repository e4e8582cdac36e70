"""Asking for a country: the traffic leaves there, and the target learns nothing of the proxy."""

from __future__ import annotations

import asyncio
import json
import subprocess

import aiohttp
import pytest

ASKED_WITH = {"host", "user-agent", "accept", "accept-encoding", "connection"}


@pytest.mark.parametrize("tunnel", [True, False], ids=["by CONNECT", "by plain HTTP"])
@pytest.mark.parametrize("by", ["user name", "header"])
@pytest.mark.parametrize("country", ["us", "gb"])
def test_the_target_is_reached_from_the_country_asked_for(lab, country, by, tunnel):
    answer = lab.request(country, by=by, tunnel=tunnel)
    assert answer.status == 200, answer.text
    assert answer.json()["source"] in lab.egress_addresses(country)


@pytest.mark.parametrize("tunnel", [True, False], ids=["by CONNECT", "by plain HTTP"])
def test_the_target_sees_none_of_the_proxys_headers(lab, tunnel):
    seen = lab.request("gb", tunnel=tunnel).json()["headers"]
    assert {name.lower() for name, _ in seen} <= ASKED_WITH


def test_what_a_client_sends_in_the_proxys_own_headers_is_stripped(lab):
    forged = {"x-ep-country": "us", "x-envoy-retry-on": "5xx", "proxy-connection": "keep-alive", "x-kept": "yes"}
    seen = lab.request("gb", tunnel=False, headers=forged).json()
    assert seen["source"] in lab.egress_addresses("gb")
    assert {name.lower() for name, _ in seen["headers"]} <= ASKED_WITH | {"x-kept"}
    assert "x-kept" in {name.lower() for name, _ in seen["headers"]}


def test_the_uk_is_gb(lab):
    assert lab.request("uk").json()["source"] in lab.egress_addresses("gb")


def test_names_are_resolved_by_the_exit(lab):
    answer = lab.request("gb", base_url=lab.page_name_url)
    assert answer.status == 200, answer.text
    assert answer.json()["source"] in lab.egress_addresses("gb")


def test_without_a_country_nothing_leaves(lab):
    before = lab.count_requests()
    answer = lab.request(None, tunnel=False)
    assert answer.status == 400
    assert "exit-country" in answer.text
    assert lab.count_requests() == before


def test_a_country_that_no_pool_serves_is_refused_with_those_that_are(lab):
    answer = lab.request("fr", tunnel=False)
    assert answer.status == 404
    assert "gb, us" in answer.text


def test_an_http2_client_is_served(lab):
    host = lab.page_address
    command = ["curl", "-sS", "--http2-prior-knowledge", "--max-time", "10", "-H", "exit-country: gb"]
    connect_to = f"{host}:{lab.gateway_address}"
    run = subprocess.run(
        [*command, "--connect-to", connect_to, "-w", "\n%{http_version}", f"http://{host}/"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    body, version = run.stdout.rsplit("\n", 1)
    assert version == "2"
    assert json.loads(body)["source"] in lab.egress_addresses("gb")


async def test_a_websocket_upgrade_passes(lab):
    wish = {"exit-country": "gb"}
    async with (
        asyncio.timeout(20),
        aiohttp.ClientSession() as session,
        # a ws:// request through an HTTP proxy is an absolute-form GET with Upgrade
        session.ws_connect(f"{lab.page_url}/echo", proxy=lab.gateway_url, headers=wish) as socket,
    ):
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"


def test_what_an_exit_carries_is_counted(lab, eventually):
    def carried_gb() -> float:
        (found,) = (each["month_gb"] for each in lab.api("GET", "/exits")["items"] if each["country"] == "gb")
        return found

    before_gb, requests = carried_gb(), 20
    for number in range(requests):
        assert lab.request("gb", tunnel=number % 2 == 0).status == 200
    eventually(lambda: carried_gb() >= before_gb + requests * 200 / 1e9)  # the least that a request and its answer take


def test_the_page_would_show_a_leak(lab):
    """What makes the tests above able to fail: the host has a way to the page past all exits."""
    run = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "--max-time", "10", f"{lab.page_url}/"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert json.loads(run.stdout)["source"] == lab.host_source
