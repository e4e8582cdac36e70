"""EDS for gateways: the exits of a pool that may be offered, the near ones first.

Encoded with the classes compiled from proto/: endpoints change often, and betterproto costs a thousand times as much.
"""

from __future__ import annotations

from collections.abc import Iterable

from model.locality import Locality
from model.world import Exit, ExitState, Pool
from xds.translate import names
from xds.wire.endpoint_pb2 import (
    Address,
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
    SocketAddress,
)


def translate_endpoints(pool: Pool, exits: Iterable[Exit], seen_from: Locality | None = None) -> ClusterLoadAssignment:
    """The healthy exits of a pool; empty, and not absent, when there is none (an absent one would be waited for).

    A gateway that knows where it stands prefers the exits of its zone, then those of its region, then all others; Envoy
    goes on to the next priority as healthy exits become few. To one that does not know, all are alike.
    """
    offered: dict[Locality | None, list[Exit]] = {}
    for exit_ in sorted((exit_ for exit_ in exits if is_offered(exit_)), key=lambda exit_: exit_.id.int):
        offered.setdefault(exit_.locality if seen_from else None, []).append(exit_)
    away = {place: distance(seen_from, place) for place in offered}
    distances = sorted({*away.values()})  # Envoy refuses priorities that leave one out
    assignment = ClusterLoadAssignment(cluster_name=names.pool_cluster(pool))
    for place in sorted(offered, key=lambda place: (away[place], str(place or ""))):
        endpoints = [_endpoint(exit_) for exit_ in offered[place]]
        priority = distances.index(away[place])
        assignment.endpoints.append(
            LocalityLbEndpoints(locality=_locality(place), lb_endpoints=endpoints, priority=priority)
        )
    return assignment


def is_offered(exit_: Exit) -> bool:
    """Whether clients may be sent to an exit (decision 11)."""
    return exit_.state is ExitState.HEALTHY and exit_.endpoint is not None


def distance(here: Locality | None, there: Locality | None) -> int:
    """How far an exit is from a gateway: 0 in its zone, 1 in its region, 2 elsewhere or unknown."""
    if here is None or there is None or here.region != there.region:
        return 2
    return 0 if here.zone and here.zone == there.zone else 1


def _locality(place: Locality | None) -> LocalityLbEndpoints.Locality | None:
    return LocalityLbEndpoints.Locality(region=place.region, zone=place.zone) if place else None


def _endpoint(exit_: Exit) -> LbEndpoint:
    address = Address(socket_address=SocketAddress(address=exit_.endpoint, port_value=exit_.port))
    return LbEndpoint(endpoint=Endpoint(address=address, hostname=names.exit_host(exit_.id)))
