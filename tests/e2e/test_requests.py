"""Tests of requests for a country: traffic leaves there, and the target sees nothing of the proxy."""

from __future__ import annotations

import asyncio
import json
import subprocess

import aiohttp
import pytest

CLIENT_HEADERS = {"host", "user-agent", "accept", "accept-encoding", "connection"}


@pytest.mark.parametrize("tunnel", [True, False], ids=["by CONNECT", "by plain HTTP"])
@pytest.mark.parametrize("by", ["user name", "header"])
@pytest.mark.parametrize("country", ["us", "gb"])
def test_target_is_reached_from_the_requested_country(lab, country, by, tunnel):
    answer = lab.request(country, by=by, tunnel=tunnel)
    assert answer.status == 200, answer.text
    assert answer.json()["source"] in lab.egress_addresses(country)


@pytest.mark.parametrize("tunnel", [True, False], ids=["by CONNECT", "by plain HTTP"])
def test_target_sees_none_of_the_proxys_headers(lab, tunnel):
    seen = lab.request("gb", tunnel=tunnel).json()["headers"]
    assert {name.lower() for name, _ in seen} <= CLIENT_HEADERS


def test_internal_headers_of_a_client_are_removed(lab):
    forged = {"x-ep-country": "us", "x-envoy-retry-on": "5xx", "proxy-connection": "keep-alive", "x-kept": "yes"}
    seen = lab.request("gb", tunnel=False, headers=forged).json()
    assert seen["source"] in lab.egress_addresses("gb")
    assert {name.lower() for name, _ in seen["headers"]} <= CLIENT_HEADERS | {"x-kept"}
    assert "x-kept" in {name.lower() for name, _ in seen["headers"]}


def test_uk_is_an_alias_of_gb(lab):
    assert lab.request("uk").json()["source"] in lab.egress_addresses("gb")


def test_names_are_resolved_by_the_exit(lab):
    answer = lab.request("gb", base_url=lab.page_name_url)
    assert answer.status == 200, answer.text
    assert answer.json()["source"] in lab.egress_addresses("gb")


def test_request_without_a_country_is_refused(lab):
    before = lab.count_requests()
    answer = lab.request(None, tunnel=False)
    assert answer.status == 400
    assert "exit-country" in answer.text
    assert lab.count_requests() == before


def test_unserved_country_is_refused_with_the_served_ones(lab):
    answer = lab.request("fr", tunnel=False)
    assert answer.status == 404
    assert "gb, us" in answer.text


def test_http2_client_is_served(lab):
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


async def test_websocket_upgrade_passes(lab):
    intent = {"exit-country": "gb"}
    async with (
        asyncio.timeout(20),
        aiohttp.ClientSession() as session,
        # a ws:// request through an HTTP proxy is an absolute-form GET with Upgrade
        session.ws_connect(f"{lab.page_url}/echo", proxy=lab.gateway_url, headers=intent) as socket,
    ):
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"


def test_traffic_of_an_exit_is_counted(lab, eventually):
    def carried_gb() -> float:
        (found,) = (each["month_gb"] for each in lab.api("GET", "/exits")["items"] if each["country"] == "gb")
        return found

    before_gb, requests = carried_gb(), 20
    for number in range(requests):
        assert lab.request("gb", tunnel=number % 2 == 0).status == 200
    eventually(lambda: carried_gb() >= before_gb + requests * 200 / 1e9)  # the minimal size of a request and its answer


def test_direct_request_shows_the_hosts_address(lab):
    """Show that the tests above can fail: the host has a direct route to the page."""
    run = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "--max-time", "10", f"{lab.page_url}/"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert json.loads(run.stdout)["source"] == lab.host_source
