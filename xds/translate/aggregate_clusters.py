"""CDS for gateways: clusters that go on from one pool to the next where there is no healthy exit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Final

from envoy_data_plane.envoy.config.cluster.v3 import (
    Cluster,
    ClusterCommonLbConfig,
    ClusterCustomClusterType,
    ClusterLbPolicy,
)
from envoy_data_plane.envoy.extensions.clusters.aggregate.v3 import ClusterConfig
from envoy_data_plane.envoy.type.v3 import Percent

from model.entities import Pool
from xds.translate import names
from xds.translate.clusters import CONNECT_TIMEOUT, unbounded
from xds.translate.encoding import encode, pack
from xds.translate.template import ANY_POOL
from xds.wire import template_pb2 as wire

_ANY: Final = (ANY_POOL, ANY_POOL)


def translate_aggregate_cluster(pools: Sequence[Pool]) -> wire.Cluster:
    """The cluster that uses these pools in order."""
    cluster = wire.Cluster.FromString(_any_aggregate_cluster())
    cluster.name = names.aggregate_cluster(pool.id for pool in pools)
    config = wire.ClusterConfig(clusters=map(names.pool_cluster, pools))
    cluster.cluster_type.typed_config.value = encode(config)
    return cluster


@cache
def _any_aggregate_cluster() -> bytes:
    return encode(define_aggregate_cluster(_ANY))


def define_aggregate_cluster(pools: Sequence[Pool]) -> Cluster:
    """The same in Envoy's own types. Everything about connections is the pools' own; here only an order is added."""
    return Cluster(
        name=names.aggregate_cluster(pool.id for pool in pools),
        cluster_type=ClusterCustomClusterType(
            name="envoy.clusters.aggregate",
            typed_config=pack(ClusterConfig(clusters=[names.pool_cluster(pool) for pool in pools])),
        ),
        lb_policy=ClusterLbPolicy.CLUSTER_PROVIDED,
        connect_timeout=CONNECT_TIMEOUT,
        common_lb_config=ClusterCommonLbConfig(
            healthy_panic_threshold=Percent(value=0),  # fail closed, as in the pools themselves
            update_merge_window=timedelta(0),
        ),
        circuit_breakers=unbounded(),
    )
