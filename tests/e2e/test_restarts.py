"""Tests of repeated restarts of the control plane: no request fails, and no Envoy is updated."""

from __future__ import annotations

from itertools import cycle

import pytest

from tests.e2e.labs import with_lasting_database
from tests.scale import scaled

COUNTRIES = ("us", "gb")
RESTARTS = scaled(20)
MET_EVERY = 5
"""Every n-th restart waits until the gateway has reconnected; the others interrupt its reconnection."""


@pytest.fixture(scope="module")
def lab_opener():
    return with_lasting_database


def updates(agent) -> dict[str, str]:
    """Read how often an Envoy applied or rejected an update, by counter, without secrets, which come from files."""
    names = r"(cds|lds|rds\..*|cluster\.pool/.*)\.update_(success|rejected)"
    lines = agent.query_admin(f"/stats?filter={names}$&format=text").splitlines()
    found = dict(line.rsplit(": ", 1) for line in lines if line)
    assert {"cluster_manager.cds.update_success", "listener_manager.lds.update_success"} <= found.keys()
    return found


def streams_of_gateways(lab) -> int:
    """Count the streams of gateways that control planes have accepted so far."""
    log = lab.state_dir / "logs" / "control-plane.log"
    return sum("xds.connected" in line and '"gateway"' in line for line in log.read_text().splitlines())


def restart(lab, number: int) -> None:
    """Alternately kill and stop the control plane, then wait until the next one is ready."""
    before = lab.control_plane.pid
    if number % 2:
        lab.stop_control_plane()
    else:
        lab.kill_control_plane()
    lab.start_control_plane()
    assert lab.control_plane.pid != before


@pytest.mark.timeout(1500)
def test_restarts_fail_no_request_and_update_no_envoy(lab, run_load, eventually, remove_pool):
    agents = [lab.gateway, *lab.exits]
    before = [updates(agent) for agent in agents]
    envoys = [agent.envoy_pid for agent in agents]
    countries = cycle(COUNTRIES)
    with run_load(lambda: next(countries), clients=2, every_s=0.1) as load:
        for number in range(RESTARTS):
            met, answered = streams_of_gateways(lab), len(load.answers)
            restart(lab, number)
            if number % MET_EVERY == 0:
                eventually(lambda met=met: streams_of_gateways(lab) > met)
            eventually(lambda answered=answered: len(load.answers) > answered)
        eventually(lambda: streams_of_gateways(lab) > met)
        lab.wait_until_healthy()
        assert [updates(agent) for agent in agents] == before
        assert [agent.envoy_pid for agent in agents] == envoys
        pool = lab.api("POST", "/pools", {"name": "next", "fleet": "demo", "country": "fr"})
        eventually(lambda: "fr" in lab.request(None, tunnel=False).text)
    assert updates(lab.gateway) != before[0]
    assert load.other_than(200) == []
    assert load.sources() == {country: lab.egress_addresses(country) for country in COUNTRIES}
    remove_pool(pool["id"])
