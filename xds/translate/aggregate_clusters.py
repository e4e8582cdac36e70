"""CDS for gateways: aggregate clusters, which use the next pool when one has no healthy exit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cache

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
from xds.translate.clusters import CONNECT_TIMEOUT, unbounded_circuit_breakers
from xds.translate.encoding import encode, pack
from xds.wire import template_pb2 as wire


def translate_aggregate_cluster(pools: Sequence[Pool]) -> wire.Cluster:
    """Build the cluster that uses these pools in order from a template."""
    cluster = wire.Cluster.FromString(_template())
    cluster.name = names.aggregate_cluster(pool.id for pool in pools)
    config = wire.ClusterConfig(clusters=map(names.pool_cluster, pools))
    cluster.cluster_type.typed_config.value = encode(config)
    return cluster


@cache
def _template() -> bytes:
    return encode(define_aggregate_cluster("<name>", ["<pool>"]))


def define_aggregate_cluster(name: str, clusters: Sequence[str]) -> Cluster:
    """Build a cluster that uses these clusters in order. All settings of connections are those of the pools' clusters."""
    return Cluster(
        name=name,
        cluster_type=ClusterCustomClusterType(
            name="envoy.clusters.aggregate",
            typed_config=pack(ClusterConfig(clusters=[*clusters])),
        ),
        lb_policy=ClusterLbPolicy.CLUSTER_PROVIDED,
        connect_timeout=CONNECT_TIMEOUT,
        common_lb_config=ClusterCommonLbConfig(
            healthy_panic_threshold=Percent(value=0),  # fail closed, as in the pools themselves
            update_merge_window=timedelta(0),
        ),
        circuit_breakers=unbounded_circuit_breakers(),
    )
