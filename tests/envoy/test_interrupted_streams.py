"""Real Envoys whose ADS stream ends at the worst moment, and pools that are deleted while a canary has to try that first."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from uuid import UUID

import pytest

from model.entities import Pool, Resilience
from model.exit_states import ExitState
from model.world import Change, Kind, put
from tests.envoy.envoy_process import eventually
from tests.envoy.static_gateway import fetch
from tests.envoy.two_hops import FLEET, POOL, TwoHops, make_exit, two_hops
from xds.protocol.messages import Variant
from xds.translate import names

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(300)]
FROZEN = Pool(UUID(int=12), FLEET, "frozen", "fr", resilience=Resilience(check_timeout_s=60))
SECOND = Pool(UUID(int=13), FLEET, "us-too", "us")
EXIT, SPARE = make_exit(1, None), replace(make_exit(2, None), state=ExitState.UNREACHABLE)
UNSERVED = "no exit of pool"
"""In the gateway's own answer if it has no cluster, or no healthy exit, for a request."""
WARMING = "cluster_manager.warming_clusters"


@dataclass
class Scene:
    """A gateway with an exit, which refuses the target of every request, and with another one that it is not offered yet."""

    hops: TwoHops

    @property
    def server(self):
        return self.hops.gateway_server

    def is_served(self) -> bool:
        """Return whether a request reaches an exit."""
        return (
            UNSERVED not in fetch(self.hops.gateway.ports["clients"], "http://127.0.0.1/", [("exit-country", "us")])[1]
        )

    def timed_out(self) -> str:
        """Return the statistics of clusters that stopped to wait for their endpoints."""
        lines = self.hops.gateway.admin("/stats?filter=^cluster.pool.*init_fetch_timeout").splitlines()
        return "\n".join(line for line in lines if not line.endswith(": 0"))

    def clusters(self) -> str:
        return self.hops.gateway.admin("/clusters")

    def warming(self) -> int:
        return self.hops.gateway.stat(WARMING)

    def warms(self, pool: Pool) -> bool:
        """Return whether the cluster of a pool warms."""
        return names.pool_cluster(pool) in self.hops.gateway.admin("/config_dump?resource=dynamic_warming_clusters")

    def check_intervals_s(self) -> set[int]:
        """Return the intervals of the health checks of all clusters in use."""
        clusters = self.hops.gateway.admin("/config_dump?resource=dynamic_active_clusters")
        return {int(each) for each in re.findall(r'"no_traffic_interval": "(\d+)s"', clusters)}

    def wait_until_settled(self) -> None:
        """Wait until the newest stream has taken clusters, and no cluster warms."""
        eventually(lambda: names.CLUSTER in self.server.subscribed and self.warming() == 0)


@pytest.fixture(scope="module", params=[Variant.DELTA, Variant.SOTW], ids=["delta", "sotw"])
def scene(request, tmp_path_factory) -> Iterator[Scene]:
    with two_hops(tmp_path_factory.mktemp("hops"), EXIT, SPARE, variant=request.param) as hops:
        scene = Scene(hops)
        eventually(scene.is_served)
        yield scene


@pytest.fixture(autouse=True)
def _restored(scene) -> Iterator[None]:
    """Leave the World as it was, for the tests that follow in any order."""
    world = scene.server.world
    yield
    scene.server.cut_before = None
    scene.server.change(world=world)
    eventually(lambda: scene.is_served() and names.pool_cluster(SECOND) not in scene.clusters())
    eventually(lambda: scene.check_intervals_s() == {world.pools[POOL.id].resilience.check_interval_s})
    scene.wait_until_settled()


@pytest.mark.parametrize("cut_before", [names.CLUSTER, names.ENDPOINT])
def test_stream_cut_before_endpoints_of_changed_cluster(scene, cut_before):
    scene.server.cut_before = cut_before
    pool = scene.server.world.pools[POOL.id]
    interval_s = pool.resilience.check_interval_s + 1
    scene.server.change(put(replace(pool, resilience=replace(pool.resilience, check_interval_s=interval_s))))
    eventually(lambda: scene.check_intervals_s() == {interval_s})
    scene.wait_until_settled()
    assert scene.server.cut_before is None
    assert scene.timed_out() == ""
    assert scene.is_served()


def test_no_request_fails_for_cluster_that_envoy_lacks(scene):
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # it accepts connections and answers no health check
        exit_ = replace(make_exit(3, None), pool_id=FROZEN.id, port=frozen.getsockname()[1])
        scene.server.change(put(FROZEN), put(exit_))
        eventually(lambda: scene.warms(FROZEN))
        scene.server.cut()
        eventually(lambda: names.ROUTE in scene.server.subscribed and names.CLUSTER not in scene.server.subscribed)
        spare = replace(scene.server.world.exits[SPARE.id], pool_id=SECOND.id, state=ExitState.HEALTHY)
        routes = scene.server.sent.count(names.ROUTE)
        scene.server.change(put(SECOND), put(spare))
        served = [scene.is_served() for _ in range(100)]
        assert scene.warming(), "the gateway asks for no clusters yet"
        scene.server.change(put(replace(exit_, state=ExitState.UNREACHABLE)))
        eventually(lambda: served.append(scene.is_served()) or scene.server.sent.count(names.ROUTE) > routes)
        scene.wait_until_settled()
        assert names.pool_cluster(SECOND) in scene.clusters()
        served += [scene.is_served() for _ in range(100)]
        assert all(served)


def test_exit_deleted_with_its_pool_while_change_is_held(scene):
    scene.wait_until_settled()
    scene.server.accept()
    gone = [(Kind.EXIT, each.id) for each in scene.server.world.exits.values()]
    gone += [(Kind.POOL, each.id) for each in scene.server.world.pools.values()]
    scene.server.change(*(Change(kind, key, None) for kind, key in gone))
    eventually(lambda: not scene.is_served())
    assert names.pool_cluster(POOL) in scene.clusters(), "its removal is held"
    scene.server.cut()
    eventually(lambda: names.ENDPOINT in scene.server.subscribed)
    assert not scene.is_served()
