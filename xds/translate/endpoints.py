"""EDS for gateways: the exits of a pool that are offered, near ones first.

The classes compiled from proto/ encode them: endpoints change often, and betterproto costs a thousand times as much.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from model.entities import Exit, Pool
from model.exit_states import SERVING, ExitState
from model.locality import Locality
from xds.translate import names
from xds.wire.endpoint_pb2 import (
    DEGRADED,
    Address,
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
    SocketAddress,
)

OVERPROVISIONING_PERCENT: Final = 100_000
"""The overprovisioning factor of a pool with standby exits: a priority keeps all load while one of up to a thousand exits is healthy.

With Envoy's default, 140, requests spill to the next priority once fewer than 72 of 100 are healthy. Envoy multiplies the factor
by the number of hosts in 32 bits, which bounds it.
"""


def translate_endpoints(pool: Pool, exits: Iterable[Exit], seen_from: Locality | None = None) -> ClusterLoadAssignment:
    """Build the endpoints of a pool as gateways at a locality see them. Without exits it is empty: Envoy would wait for an absent one.

    A gateway with a locality prefers the exits of its zone, then those of its region, then all others. Envoy uses the next
    priority as healthy exits become few. Without a locality all exits have one priority.

    Degraded exits come after the healthy ones of all priorities: Envoy sends them the load that those cannot carry.

    Exits on standby come after all others, far ones included; among themselves the near ones come first.
    With them, Envoy leaves a priority only when it has no healthy exit, also between near and far exits.
    """
    offered: dict[tuple[bool, Locality | None], list[Exit]] = {}
    for exit_ in sorted((exit_ for exit_ in exits if is_offered(exit_)), key=lambda exit_: exit_.id.int):
        offered.setdefault((exit_.standby, exit_.locality if seen_from else None), []).append(exit_)
    ranks = {group: (group[0], distance(seen_from, group[1])) for group in offered}
    priorities = sorted({*ranks.values()})  # Envoy rejects priorities with a gap
    weighted = any(exit_.weight != 1 for found in offered.values() for exit_ in found)
    assignment = ClusterLoadAssignment(cluster_name=names.pool_cluster(pool))
    for group in sorted(offered, key=lambda group: (ranks[group], str(group[1] or ""))):
        endpoints = [_endpoint(exit_, weighted=weighted) for exit_ in offered[group]]
        priority = priorities.index(ranks[group])
        assignment.endpoints.append(
            LocalityLbEndpoints(locality=_locality(group[1]), lb_endpoints=endpoints, priority=priority)
        )
    if any(standby for standby, _ in offered):
        assignment.policy.overprovisioning_factor.value = OVERPROVISIONING_PERCENT
    return assignment


def translate_no_endpoints(cluster_name: str) -> ClusterLoadAssignment:
    """Build the endpoints of a cluster that has none."""
    return ClusterLoadAssignment(cluster_name=cluster_name)


def is_offered(exit_: Exit) -> bool:
    """Return whether clients may be sent to an exit (docs/architecture.md#fail-closed)."""
    return exit_.state in SERVING and exit_.endpoint is not None


def distance(here: Locality | None, there: Locality | None) -> int:
    """Return the distance of an exit from a gateway: 0 in its zone, 1 in its region, 2 elsewhere or unknown."""
    if here is None or there is None or here.region != there.region:
        return 2
    return 0 if here.zone and here.zone == there.zone else 1


def _locality(place: Locality | None) -> LocalityLbEndpoints.Locality | None:
    return LocalityLbEndpoints.Locality(region=place.region, zone=place.zone) if place else None


def _endpoint(exit_: Exit, *, weighted: bool) -> LbEndpoint:
    address = Address(socket_address=SocketAddress(address=exit_.endpoint, port_value=exit_.port))
    endpoint = LbEndpoint(endpoint=Endpoint(address=address, hostname=names.exit_host(exit_.id)))
    if exit_.state is ExitState.DEGRADED:
        endpoint.health_status = DEGRADED
    if weighted:
        endpoint.load_balancing_weight.value = exit_.weight
    return endpoint
