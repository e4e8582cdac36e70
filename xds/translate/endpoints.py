"""EDS for gateways: the exits of a pool that may be offered.

Encoded with the classes compiled from proto/: endpoints change often, and betterproto costs a thousand times as much.
"""

from __future__ import annotations

from collections.abc import Iterable

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


def translate_endpoints(pool: Pool, exits: Iterable[Exit]) -> ClusterLoadAssignment:
    """The healthy exits of a pool; empty, and not absent, when there is none (an absent one would be waited for)."""
    offered = sorted((exit_ for exit_ in exits if is_offered(exit_)), key=lambda exit_: exit_.id)
    assignment = ClusterLoadAssignment(cluster_name=names.pool_cluster(pool))
    if offered:
        assignment.endpoints.append(LocalityLbEndpoints(lb_endpoints=[_endpoint(exit_) for exit_ in offered]))
    return assignment


def is_offered(exit_: Exit) -> bool:
    """Whether clients may be sent to an exit (decision 11)."""
    return exit_.state is ExitState.HEALTHY and exit_.endpoint is not None


def _endpoint(exit_: Exit) -> LbEndpoint:
    address = Address(socket_address=SocketAddress(address=exit_.endpoint, port_value=exit_.port))
    return LbEndpoint(endpoint=Endpoint(address=address, hostname=names.exit_host(exit_.id)))
