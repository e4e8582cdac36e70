"""Translated resources, compared field by field with literals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch

from model.entities import Balancing, Exit, Parent, Policy, Pool, Resilience
from model.exit_states import ExitState
from xds.translate import names
from xds.translate.aggregate_clusters import translate_aggregate_cluster
from xds.translate.clusters import HTTP_OPTIONS, translate_pool_cluster
from xds.translate.destinations import Destination
from xds.translate.direct_responses import DirectResponse
from xds.translate.encoding import encode
from xds.translate.exit_listener import translate_exit_listener
from xds.translate.exit_routes import translate_exit_routes
from xds.translate.exit_targets import translate_exit_targets
from xds.translate.json_view import as_json
from xds.translate.parent_cluster import translate_parent
from xds.translate.parent_routes import translate_parent_routes
from xds.translate.route_actions import forward, respond

FLEET = UUID(int=1)
POOL = Pool(UUID(int=7), FLEET, "premium", "de", resilience=Resilience(panic_threshold_percent=60))
OTHER = Pool(UUID(int=8), FLEET, "basic", "fr")
EXIT = Exit(UUID(int=5), POOL.id, "x", "192.0.2.1", 8443, ExitState.HEALTHY, bind_address="198.51.100.4")
CLUSTER = "pool/00000000-0000-0000-0000-000000000007"
OF_POOL = {"filter_metadata": {"exitplane": {"pool": "premium"}}}
TUNNEL: dict[str, Any] = {"match": {"connect_matcher": {}}}
REQUEST: dict[str, Any] = {"match": {"prefix": "/"}}
NEVER_PASSED_ON = [
    "proxy-authorization",
    "proxy-connection",
    "forwarded",
    "x-forwarded-proto",
    "x-envoy-external-address",
    "x-envoy-internal",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-attempt-count",
    "x-envoy-original-path",
    "x-envoy-downstream-service-cluster",
    "x-envoy-decorator-operation",
    "x-request-id",
]


def routes_of(on_match: bytes) -> list[dict[str, Any]]:
    found = MatcherOnMatch.parse(on_match).to_dict(casing=str)
    listed: list[dict[str, Any]] = found["action"]["typed_config"]["routes"]
    return listed


def cluster_of(message: Any) -> dict[str, Any]:
    return as_json(names.CLUSTER, encode(message))


def test_pool_cluster_states_its_name_and_resilience():
    resource = cluster_of(translate_pool_cluster(POOL))
    assert (resource["name"], resource["type"], resource["lb_policy"]) == (CLUSTER, "EDS", "LEAST_REQUEST")
    assert resource["eds_cluster_config"] == {"eds_config": {"ads": {}, "resource_api_version": "V3"}}
    assert resource["connect_timeout"] == "3s"
    assert resource["common_lb_config"]["healthy_panic_threshold"] == {"value": 60.0}
    assert resource["outlier_detection"]["enforcing_consecutive_local_origin_failure"] == 0
    assert resource["outlier_detection"]["enforcing_consecutive_5xx"] == 0
    tls = resource["transport_socket"]["typed_config"]
    assert tls["auto_sni_san_validation"] is True
    assert tls["max_session_keys"] == 256
    assert tls["common_tls_context"]["tls_params"] == {
        "tls_minimum_protocol_version": "TLSv1_3",
        "tls_maximum_protocol_version": "TLSv1_3",
    }


def test_pool_cluster_opens_a_connection_for_each_tunnel():
    """Exits choose HTTP/1.1. One of an older release gets a connection for each tunnel too, with HTTP/2 on it."""
    resource = cluster_of(translate_pool_cluster(POOL))
    options = resource["typed_extension_protocol_options"][HTTP_OPTIONS]
    assert options["common_http_protocol_options"] == {
        "idle_timeout": "30s",
        "max_headers_count": 200,
        "max_response_headers_kb": 96,
    }
    assert options["auto_config"]["http_protocol_options"] == {}
    assert options["auto_config"]["http2_protocol_options"]["max_concurrent_streams"] == 1
    assert resource["preconnect_policy"] == {"per_upstream_preconnect_ratio": 1.5}
    offered = resource["transport_socket"]["typed_config"]["common_tls_context"]["alpn_protocols"]
    assert {*offered} == {"h2", "http/1.1"}


@pytest.mark.parametrize(
    ("policy", "stated"),
    [
        (Policy.LEAST_REQUEST, "LEAST_REQUEST"),
        (Policy.ROUND_ROBIN, "ROUND_ROBIN"),
        (Policy.RANDOM, "RANDOM"),
        (Policy.SESSION, "RING_HASH"),
    ],
)
def test_pool_cluster_states_envoys_name_of_its_policy(policy, stated):
    pool = Pool(POOL.id, FLEET, "premium", "de", balancing=Balancing(policy))
    resource = cluster_of(translate_pool_cluster(pool))
    assert resource.get("lb_policy", "ROUND_ROBIN") == stated


def of_traced_request(route):
    """Return what a route has besides, for requests from a gateway that traces."""
    restored = [
        {
            "header": {"key": name, "value": f"%REQ(exit-{name})%"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
        for name in ("traceparent", "tracestate")
    ]
    return {
        "match": route["match"] | {"headers": [{"name": "exit-traceparent", "present_match": True}]},
        "request_headers_to_add": restored,
        "request_headers_to_remove": ["traceparent", "tracestate"],
    }


def test_exit_routes_pass_everything_to_the_targets_for_their_pool():
    resource = as_json(names.ROUTE, encode(translate_exit_routes(POOL)))
    plain = {"cluster": "targets", "timeout": "0s"}
    connect = {"upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}
    assert resource["name"] == "targets"
    assert resource["request_headers_to_remove"] == [*NEVER_PASSED_ON, "exit-traceparent", "exit-tracestate"]
    (host,) = resource["virtual_hosts"]
    assert host["domains"] == ["*"]
    assert host["routes"] == [
        TUNNEL | {"route": plain | connect, "metadata": OF_POOL},
        of_traced_request(REQUEST) | {"route": plain, "metadata": OF_POOL},
        REQUEST | {"route": plain, "metadata": OF_POOL},
    ]


def test_parent_routes_pass_everything_to_the_parent_for_their_pool():
    resource = as_json(names.ROUTE, encode(translate_parent_routes(POOL)))
    plain = {"cluster": "parent-proxy", "timeout": "0s"}
    assert resource["name"] == "parent-targets"
    assert resource["request_headers_to_remove"] == [*NEVER_PASSED_ON, "exit-traceparent", "exit-tracestate"]
    (host,) = resource["virtual_hosts"]
    connect = plain | {"upgrade_configs": [{"upgrade_type": "CONNECT"}]}
    assert host["routes"] == [
        of_traced_request(TUNNEL) | {"route": connect, "metadata": OF_POOL},
        TUNNEL | {"route": connect, "metadata": OF_POOL},
        of_traced_request(REQUEST) | {"route": plain, "metadata": OF_POOL},
        REQUEST | {"route": plain, "metadata": OF_POOL},
    ]


def test_forwarding_names_the_pool_and_hashes_on_the_session():
    way = {
        "cluster": CLUSTER,
        "timeout": "0s",
        "hash_policy": [{"filter_state": {"key": "exitplane.session"}}],
    }
    assert routes_of(forward((Destination(1, (POOL,)),))) == [
        TUNNEL | {"route": way, "metadata": OF_POOL},
        REQUEST | {"route": way, "metadata": OF_POOL},
    ]


def test_refusal_answers_with_its_status_text_and_proxy_status():
    header = {
        "header": {"key": "proxy-status", "value": "exitplane; error=http_request_denied"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    response = {
        "direct_response": {"status": 407, "body": {"inline_string": "who are you"}},
        "response_headers_to_add": [header],
    }
    assert routes_of(respond(DirectResponse(407, "who are you"))) == [TUNNEL | response, REQUEST | response]


def test_aggregate_cluster_goes_through_its_pools_in_their_order():
    resource = cluster_of(translate_aggregate_cluster([OTHER, POOL]))
    assert resource["name"].startswith("pools/")
    assert resource["lb_policy"] == "CLUSTER_PROVIDED"
    assert resource["cluster_type"]["name"] == "envoy.clusters.aggregate"
    assert resource["cluster_type"]["typed_config"]["clusters"] == [
        "pool/00000000-0000-0000-0000-000000000008",
        CLUSTER,
    ]
    assert resource["common_lb_config"]["healthy_panic_threshold"] == {}


@pytest.mark.parametrize("egress", ["10.0.0.1", "fd00::1"])
def test_exit_targets_leave_from_the_egress_address(egress):
    resource = cluster_of(translate_exit_targets(egress))
    assert resource["upstream_bind_config"] == {"source_address": {"address": egress, "port_value": 0}}
    assert "upstream_bind_config" not in cluster_of(translate_exit_targets(None))
    denied = resource["cluster_type"]["typed_config"]["dns_cache_config"]["resolved_address_filter"]["ranges"]
    assert {"address_prefix": "100.64.0.0", "prefix_len": 10} in denied
    assert {"address_prefix": "::ffff:0:0", "prefix_len": 96} in denied
    assert len(denied) == 22


def test_exit_listener_binds_its_address_and_port():
    resource = as_json(names.LISTENER, encode(translate_exit_listener(EXIT)))
    assert resource["name"] == "gateways"
    assert resource["address"] == {"socket_address": {"address": "198.51.100.4", "port_value": 8443}}
    (filter_,) = resource["filter_chains"][0]["filters"]
    assert filter_["typed_config"]["rds"]["route_config_name"] == "targets"


@pytest.mark.parametrize("parent", [None, Parent("gluetun", 8888)])
def test_exit_listener_speaks_http1_to_gateways(parent):
    resource = as_json(names.LISTENER, encode(translate_exit_listener(replace(EXIT, parent=parent))))
    (chain,) = resource["filter_chains"]
    assert chain["transport_socket"]["typed_config"]["common_tls_context"]["alpn_protocols"] == ["http/1.1"]
    assert chain["filters"][0]["typed_config"].get("codec_type", "AUTO") == "AUTO"
    assert resource["tcp_keepalive"] == {"keepalive_time": 10, "keepalive_interval": 1, "keepalive_probes": 5}


def test_parent_cluster_dials_the_parents_address():
    resource = cluster_of(translate_parent(Parent("172.18.0.2", 8888), "10.0.0.1"))
    (locality,) = resource["load_assignment"]["endpoints"]
    (endpoint,) = locality["lb_endpoints"]
    assert endpoint["endpoint"]["address"] == {"socket_address": {"address": "172.18.0.2", "port_value": 8888}}
    assert resource["upstream_bind_config"] == {"source_address": {"address": "10.0.0.1", "port_value": 0}}


def test_parent_cluster_names_the_secret_of_its_credentials():
    resource = cluster_of(translate_parent(Parent("gluetun", 8888, "a", "b")))
    _, injected, codec = resource["typed_extension_protocol_options"][HTTP_OPTIONS]["http_filters"]
    assert codec["name"] == "envoy.filters.http.upstream_codec"
    assert injected["typed_config"]["overwrite"] is True
    credential = injected["typed_config"]["credential"]["typed_config"]
    assert (credential["header"], credential["credential"]["name"]) == ("proxy-authorization", "parent-credentials")


def test_name_of_a_parent_is_resolved_alike_by_listener_and_cluster():
    parent = Parent("gluetun", 8888, "a", "b")
    cluster = cluster_of(translate_parent(parent))
    listener = as_json(names.LISTENER, encode(translate_exit_listener(replace(EXIT, parent=parent))))
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    state, resolver = (each["typed_config"] for each in filters[3:5])
    assert [(each["object_key"], each["format_string"]) for each in state["on_request_headers"]] == [
        ("envoy.upstream.dynamic_host", {"text_format_source": {"inline_string": "gluetun"}}),
        ("envoy.upstream.dynamic_port", {"text_format_source": {"inline_string": "8888"}}),
    ]
    assert resolver["dns_cache_config"] == cluster["cluster_type"]["typed_config"]["dns_cache_config"]
