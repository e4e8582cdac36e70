"""Which exits gateways are told of, and which of them they prefer."""

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
    """Where the exits of each priority stand, as a gateway is told that stands `here`."""
    exits = [make_exit(number, locality) for number, locality in enumerate(localities)]
    found: dict[int, set[str | None]] = {}
    for group in translate_endpoints(POOL, exits, place(here)).endpoints:
        stands_at = str(Locality(group.locality.region, group.locality.zone)) if group.HasField("locality") else None
        found.setdefault(group.priority, set()).add(stands_at)
    return found


def test_a_gateway_prefers_its_zone_then_its_region_then_all_others():
    assert seen(*PLACES, here="eu-west/a") == {
        0: {"eu-west/a"},
        1: {"eu-west/b", "eu-west"},
        2: {"eu", "us/a", "us", "ap", None},
    }


def test_a_gateway_that_knows_its_region_only_prefers_the_whole_region():
    assert seen("eu-west/a", "eu-west/b", "eu-west", "us", None, here="eu-west") == {
        0: {"eu-west/a", "eu-west/b", "eu-west"},
        1: {"us", None},
    }


def test_zones_of_one_name_in_two_regions_are_two_zones():
    assert seen("us/a", "eu/b", here="eu/a") == {0: {"eu/b"}, 1: {"us/a"}}


@pytest.mark.parametrize("missing", range(len(PLACES) + 1))
@pytest.mark.parametrize("here", PLACES)
def test_priorities_begin_with_zero_and_leave_none_out(here, missing):
    """Envoy refuses others."""
    for left in (PLACES[missing:], PLACES[:missing], PLACES[:missing] + PLACES[missing + 1 :]):
        priorities = sorted(seen(*left, here=here))
        assert priorities == list(range(len(priorities)))


def test_exits_that_are_not_offered_leave_no_priority_behind():
    lost = make_exit(1, "eu/a", ExitState.LOST)
    (group,) = translate_endpoints(POOL, [lost, make_exit(2, "us")], place("eu/a")).endpoints
    assert (group.priority, group.locality.region, len(group.lb_endpoints)) == (0, "us", 1)
    assert not translate_endpoints(POOL, [lost], place("eu/a")).endpoints


def test_to_a_gateway_that_does_not_know_where_it_stands_all_exits_are_alike():
    exits = [make_exit(number, locality) for number, locality in enumerate(PLACES)]
    unplaced = [make_exit(number) for number in range(len(PLACES))]
    assert encode(translate_endpoints(POOL, exits)) == encode(translate_endpoints(POOL, unplaced))


@pytest.mark.parametrize("here", PLACES)
def test_exits_without_localities_are_one_list_in_the_order_of_their_ids_wherever_the_gateway_stands(here):
    exits = [make_exit(number) for number in (3, 1, 2)]
    made = encode(translate_endpoints(POOL, exits, place(here)))
    assert made == bytes(envoys_own([(None, 0, [1, 2, 3])]))


@pytest.mark.parametrize("here", KNOWN)
def test_the_order_in_which_exits_come_makes_no_difference(here):
    exits = [make_exit(number, locality) for number, locality in enumerate(PLACES * 2)]
    assert encode(translate_endpoints(POOL, exits, place(here))) == encode(
        translate_endpoints(POOL, exits[::-1], place(here))
    )


def envoys_own(groups: list[tuple[str | None, int, list[int]]]) -> ClusterLoadAssignment:
    """The same in the classes of Envoy's own API, which know all of its fields."""
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


def test_what_is_sent_is_what_envoy_reads():
    exits = [make_exit(1, "us"), make_exit(2, "eu/a"), make_exit(3, "eu/b"), make_exit(4, "eu/a"), make_exit(5)]
    groups = [("eu/a", 0, [2, 4]), ("eu/b", 1, [3]), (None, 2, [5]), ("us", 2, [1])]
    sent = encode(translate_endpoints(POOL, exits, place("eu/a")))
    assert ClusterLoadAssignment.parse(sent) == envoys_own(groups)
    assert sent == bytes(envoys_own(groups))


def test_no_priority_is_used_when_all_its_exits_are_unhealthy():
    """Fail closed: Envoy would otherwise send to exits that failed their checks."""
    balancing = Cluster.parse(encode(translate_pool_cluster(POOL))).common_lb_config
    assert balancing.healthy_panic_threshold.value == 0
    assert balancing.locality_weighted_lb_config is None
    assert balancing.zone_aware_lb_config is None
