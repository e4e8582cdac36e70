"""Tests of exits that die: another exit of the pool serves; without one, clients get a 503, never the host's address."""

from __future__ import annotations

import time

import pytest

from tests.e2e.labs import BOUND_S

LOST_S = 20.0
"""The time limit of a request: one that is in a tunnel when that dies is never answered."""


@pytest.fixture
def us(lab, eventually):
    """The two exits of the pool us, offered by the gateway before and healthy after."""
    exits = [exit_ for exit_ in lab.exits if exit_.country == "us"]
    eventually(lambda: all(offered(lab, exit_) for exit_ in exits))
    yield exits
    for exit_ in lab.exits:
        if exit_.tunnel and exit_.tunnel_pid is None:
            exit_.restore_tunnel()
        if exit_.child is None:
            exit_.start()
    lab.wait_until_healthy()
    lab.wait_until_serving()


def offered(lab, pool_exit) -> bool:
    return any(
        pool_exit.site.address.exploded in line and line.endswith("health_flags::healthy")
        for line in lab.gateway.query_admin("/clusters").splitlines()
    )


def test_requests_succeed_while_an_exits_envoy_is_killed(lab, us, run_clients, eventually):
    dying, living = us
    with run_clients("us", timeout_s=LOST_S) as clients:
        eventually(lambda: len(clients.answers) > 20)
        dying.kill_envoy()
        killed_at, count = time.monotonic(), len(clients.answers)
        eventually(lambda: len(clients.answers) > count + 100)
    assert clients.failures(since=killed_at) == []
    assert living.egress_address in clients.sources(since=killed_at)


def test_requests_succeed_while_an_exits_tunnel_is_killed(lab, us, run_clients, eventually):
    dying, living = us
    with run_clients("us", timeout_s=LOST_S) as clients:
        eventually(lambda: len(clients.answers) > 20)
        dying.kill_tunnel()
        killed_at, count = time.monotonic(), len(clients.answers)
        eventually(lambda: len(clients.answers) > count + 100)
        eventually(lambda: not offered(lab, dying))
    assert clients.failures(since=killed_at) == []
    assert clients.sources(since=killed_at) == {living.egress_address}


def test_pool_without_exits_answers_503_with_its_name(lab, us, eventually):
    """From the death of the exits until they have left the pool."""
    before = lab.count_requests().get(lab.host_source)
    for exit_ in us:
        exit_.kill_tunnel()
    answers = []

    def refused_by_the_gateway() -> bool:
        for tunnel in (False, True):
            # the first request waits for as many connection attempts as there are retries
            answers.append(lab.request("us", tunnel=tunnel, timeout_s=BOUND_S))  # noqa: PERF401 - answers before an error count
        return "UH" in answers[-2].text

    eventually(refused_by_the_gateway)
    assert {answer.status for answer in answers} == {503}
    assert all("pool us" in answer.text for answer in answers)
    assert lab.count_requests().get(lab.host_source) == before


def test_returned_exit_serves_again(lab, us, eventually):
    dying, living = us
    dying.kill_tunnel()
    eventually(lambda: not offered(lab, dying))
    dying.restore_tunnel()
    eventually(lambda: offered(lab, dying))
    living.kill_tunnel()
    eventually(lambda: not offered(lab, living))
    assert lab.request("us").json()["source"] == dying.egress_address


def test_exit_with_stopped_agent_leaves_the_pool_with_its_reason(lab, us, eventually):
    leaving, _ = us
    leaving.stop()

    def item():
        return next(each for each in lab.api("GET", "/exits")["items"] if each["name"] == leaving.name)

    eventually(lambda: item()["state"] == "unreachable")
    assert item()["state_reason"] == "its agent was stopped"
    eventually(lambda: not offered(lab, leaving))


def test_requests_to_a_dead_port_eject_no_exit(lab, us, stat):
    before = stat(lab.gateway, "outlier_detection.ejections_enforced_total")
    dead = lab.page_url.rstrip("/") + ":9"
    for number in range(100):
        assert lab.request("us", base_url=dead, tunnel=bool(number % 2)).status == 503
    assert stat(lab.gateway, "outlier_detection.ejections_enforced_total") == before
    assert stat(lab.gateway, "ejections_active") == 0
    assert lab.request("us").status == 200
