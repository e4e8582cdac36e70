"""An exit that dies is left for another of its pool; with none left, a clear 503, and never the host's own address."""

from __future__ import annotations

import time

import pytest

from tests.e2e.scenes import BOUND_S


@pytest.fixture
def us(scene):
    """The two exits of the pool us, healthy before and after."""
    yield [exit_ for exit_ in scene.exits if exit_.country == "us"]
    for exit_ in scene.exits:
        if exit_.tunnel and exit_.tunnel_pid is None:
            exit_.restore_tunnel()
        if exit_.child is None:
            exit_.start()
    scene.wait_until_healthy()
    scene.wait_until_serving()


def offered(scene, pool_exit) -> bool:
    return any(
        pool_exit.site.address.exploded in line and line.endswith("health_flags::healthy")
        for line in scene.gateway.admin("/clusters").splitlines()
    )


def test_requests_succeed_while_an_exits_envoy_is_killed(scene, us, asking, eventually):
    dying, living = us
    with asking("us") as clients:
        eventually(lambda: len(clients.answers) > 20)
        dying.kill_envoy()
        killed_at, count = time.monotonic(), len(clients.answers)
        eventually(lambda: len(clients.answers) > count + 100)
    assert clients.failures(since=killed_at) == []
    assert living.egress_address in clients.sources(since=killed_at)


def test_requests_succeed_while_an_exits_tunnel_is_killed(scene, us, asking, eventually):
    dying, living = us
    with asking("us") as clients:
        eventually(lambda: len(clients.answers) > 20)
        dying.kill_tunnel()
        killed_at, count = time.monotonic(), len(clients.answers)
        eventually(lambda: len(clients.answers) > count + 100)
        eventually(lambda: not offered(scene, dying))
    assert clients.failures(since=killed_at) == []
    assert clients.sources(since=killed_at) == {living.egress_address}


def test_with_no_exit_left_the_client_gets_a_503_that_names_the_pool(scene, us, eventually):
    """All the way from the first moment, before anybody noticed, to when the exits have left the pool."""
    before = scene.seen().get(scene.host_source)
    for exit_ in us:
        exit_.kill_tunnel()
    answers = []

    def refused_by_the_gateway() -> bool:
        for tunnel in (False, True):
            # whoever asks at the first moment waits for as many dials as there are tries
            answers.append(scene.ask("us", tunnel=tunnel, timeout_s=BOUND_S))  # noqa: PERF401 - what comes before a failure counts
        return "UH" in answers[-2].text

    eventually(refused_by_the_gateway)
    assert {answer.status for answer in answers} == {503}
    assert all("pool us" in answer.text for answer in answers)
    assert scene.seen().get(scene.host_source) == before


def test_an_exit_that_came_back_serves_again(scene, us, eventually):
    dying, living = us
    dying.kill_tunnel()
    eventually(lambda: not offered(scene, dying))
    dying.restore_tunnel()
    eventually(lambda: offered(scene, dying))
    living.kill_tunnel()
    eventually(lambda: not offered(scene, living))
    assert scene.ask("us").json()["source"] == dying.egress_address


def test_an_exit_whose_agent_is_stopped_leaves_the_pool_with_its_reason(scene, us, eventually):
    leaving, _ = us
    leaving.stop()

    def item():
        return next(each for each in scene.api("GET", "/exits")["items"] if each["name"] == leaving.name)

    eventually(lambda: item()["state"] == "unreachable")
    assert item()["state_reason"] == "its agent was stopped"
    eventually(lambda: not offered(scene, leaving))


def test_a_hundred_requests_to_a_dead_port_eject_no_exit(scene, us, stat):
    before = stat(scene.gateway, "outlier_detection.ejections_enforced_total")
    dead = scene.page_url.rstrip("/") + ":9"
    for number in range(100):
        assert scene.ask("us", base_url=dead, tunnel=bool(number % 2)).status == 503
    assert stat(scene.gateway, "outlier_detection.ejections_enforced_total") == before
    assert stat(scene.gateway, "ejections_active") == 0
    assert scene.ask("us").status == 200
