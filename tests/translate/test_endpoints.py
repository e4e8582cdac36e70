"""Endpoints: the exits that gateways are offered, and their priorities by locality."""

from __future__ import annotations

from uuid import UUID

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import Address, SocketAddress
from envoy_data_plane.envoy.config.core.v3 import Locality as CoreLocality
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints

from model.entities import Exit, Pool
from model.exit_states import ExitState
from model.locality import Locality
from xds.translate import names
from xds.translate.clusters import translate_pool_cluster
from xds.translate.encoding import encode
from xds.translate.endpoints import translate_endpoints

POOL = Pool(UUID(int=1), UUID(int=2), "de", "de")
PLACES = ("eu-west/a", "eu-west/b", "eu-west", "eu", "us/a", "us", "ap", None)
KNOWN = [place for place in PLACES if place]


def place(text: str | None) -> Locality | None:
    return Locality.parse(text) if text else None


def make_exit(number: int, locality: str | None = None, state: ExitState = ExitState.HEALTHY) -> Exit:
    return Exit(UUID(int=100 + number), POOL.id, "x", f"192.0.2.{number}", 8443, state, locality=place(locality))


def seen(*localities: str | None, here: str | None) -> dict[int, set[str | None]]:
    """List the localities of the exits by priority, for a gateway at `here`."""
    exits = [make_exit(number, locality) for number, locality in enumerate(localities)]
    found: dict[int, set[str | None]] = {}
    for group in translate_endpoints(POOL, exits, place(here)).endpoints:
        stands_at = str(Locality(group.locality.region, group.locality.zone)) if group.HasField("locality") else None
        found.setdefault(group.priority, set()).add(stands_at)
    return found


def test_gateway_prefers_zone_then_region_then_others():
    assert seen(*PLACES, here="eu-west/a") == {
        0: {"eu-west/a"},
        1: {"eu-west/b", "eu-west"},
        2: {"eu", "us/a", "us", "ap", None},
    }


def test_gateway_without_zone_prefers_its_region():
    assert seen("eu-west/a", "eu-west/b", "eu-west", "us", None, here="eu-west") == {
        0: {"eu-west/a", "eu-west/b", "eu-west"},
        1: {"us", None},
    }


def test_zones_of_two_regions_differ_despite_equal_names():
    assert seen("us/a", "eu/b", here="eu/a") == {0: {"eu/b"}, 1: {"us/a"}}


@pytest.mark.parametrize("missing", range(len(PLACES) + 1))
@pytest.mark.parametrize("here", PLACES)
def test_priorities_start_at_zero_without_gaps(here, missing):
    """Envoy rejects other priorities."""
    for left in (PLACES[missing:], PLACES[:missing], PLACES[:missing] + PLACES[missing + 1 :]):
        priorities = sorted(seen(*left, here=here))
        assert priorities == list(range(len(priorities)))


def test_unoffered_exits_leave_no_priority_gap():
    lost = make_exit(1, "eu/a", ExitState.LOST)
    (group,) = translate_endpoints(POOL, [lost, make_exit(2, "us")], place("eu/a")).endpoints
    assert (group.priority, group.locality.region, len(group.lb_endpoints)) == (0, "us", 1)
    assert not translate_endpoints(POOL, [lost], place("eu/a")).endpoints


def test_gateway_without_locality_has_one_priority():
    exits = [make_exit(number, locality) for number, locality in enumerate(PLACES)]
    unplaced = [make_exit(number) for number in range(len(PLACES))]
    assert encode(translate_endpoints(POOL, exits)) == encode(translate_endpoints(POOL, unplaced))


@pytest.mark.parametrize("here", PLACES)
def test_exits_without_localities_are_one_list_by_id(here):
    exits = [make_exit(number) for number in (3, 1, 2)]
    translated = encode(translate_endpoints(POOL, exits, place(here)))
    assert translated == bytes(envoys_own([(None, 0, [1, 2, 3])]))


@pytest.mark.parametrize("here", KNOWN)
def test_order_of_exits_does_not_matter(here):
    exits = [make_exit(number, locality) for number, locality in enumerate(PLACES * 2)]
    assert encode(translate_endpoints(POOL, exits, place(here))) == encode(
        translate_endpoints(POOL, exits[::-1], place(here))
    )


def envoys_own(groups: list[tuple[str | None, int, list[int]]]) -> ClusterLoadAssignment:
    """Build the endpoints with the classes of Envoy's API, which know all fields."""
    return ClusterLoadAssignment(
        cluster_name=names.pool_cluster(POOL),
        endpoints=[
            LocalityLbEndpoints(
                locality=CoreLocality(region=known.region, zone=known.zone) if (known := place(locality)) else None,
                lb_endpoints=[
                    LbEndpoint(
                        endpoint=Endpoint(
                            address=Address(socket_address=SocketAddress(address=f"192.0.2.{number}", port_value=8443)),
                            hostname=names.exit_host(UUID(int=100 + number)),
                        )
                    )
                    for number in numbers
                ],
                priority=priority,
            )
            for locality, priority, numbers in groups
        ],
    )


def test_envoy_types_read_the_same_endpoints():
    exits = [make_exit(1, "us"), make_exit(2, "eu/a"), make_exit(3, "eu/b"), make_exit(4, "eu/a"), make_exit(5)]
    groups = [("eu/a", 0, [2, 4]), ("eu/b", 1, [3]), (None, 2, [5]), ("us", 2, [1])]
    sent = encode(translate_endpoints(POOL, exits, place("eu/a")))
    assert ClusterLoadAssignment.parse(sent) == envoys_own(groups)
    assert sent == bytes(envoys_own(groups))


def test_priority_without_healthy_exits_is_unused():
    """Otherwise Envoy would send requests to exits that failed their health checks."""
    balancing = Cluster.parse(encode(translate_pool_cluster(POOL))).common_lb_config
    assert balancing.healthy_panic_threshold.value == 0
    assert balancing.locality_weighted_lb_config is None
    assert balancing.zone_aware_lb_config is None
