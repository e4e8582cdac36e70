"""Spans of gateways and exits (docs/decisions/0053-spans-of-envoys.md).

A gateway decides by the fleet's share whether it traces a request, and an exit follows it. Their spans go to the collector of the
bootstrap, which is the agent's. What the client itself sent of a trace is hidden from Envoy's tracers, and is what the target sees.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from betterproto2 import Message
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import (
    GrpcService,
    GrpcServiceEnvoyGrpc,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher, Route, RouteMatch
from envoy_data_plane.envoy.config.route.v3 import Tracing as RouteTracing
from envoy_data_plane.envoy.config.trace.v3 import OpenTelemetryConfig, TracingHttp
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManagerTracing,
    RequestIdExtension,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.extensions.request_id.uuid.v3 import UuidRequestIdConfig
from envoy_data_plane.envoy.extensions.tracers.opentelemetry.samplers.v3 import (
    ParentBasedSamplerConfig,
    TraceIdRatioBasedSamplerConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.tracing.v3 import CustomTag, CustomTagLiteral
from envoy_data_plane.envoy.type.v3 import FractionalPercent, FractionalPercentDenominatorType, Percent

from model.entities import Tracing
from xds.translate import names
from xds.translate.encoding import pack

_CONTEXT: Final = {"traceparent": names.CLIENT_TRACEPARENT, "tracestate": names.CLIENT_TRACESTATE}
"""The headers of a trace (W3C Trace Context), and those in which a gateway passes the client's own ones to the exit."""
HIDDEN_CONTEXT: Final = tuple(_CONTEXT.values())
_SHARES: Final = 10_000
"""Envoy decides by the remainder of a random number after division by this."""
_WITHHELD: Final = (
    *("http.url", "user_agent", "peer.address", "downstream_cluster", "guid:x-request-id", "guid:x-client-trace-id"),
    *("grpc.path", "grpc.authority", "grpc.content_type", "grpc.timeout"),
)
"""Tags of Envoy's that hold what a client or a target sent, or their addresses. A custom tag of the same name replaces one."""


def trace_gateway(tracing: Tracing) -> dict[str, Any]:
    """Build the fields of a gateway's connection manager. By itself it traces nothing: `sampling_route` has the share."""
    return {
        "tracing": HttpConnectionManagerTracing(
            **_spans(tracing, "gateway"), spawn_upstream_span=True, upstream_operation="gateway.attempt"
        ),
        "generate_request_id": True,  # Envoy decides by it; routes remove it
        "early_header_mutation_extensions": [
            _extension("envoy.http.early_header_mutation.header_mutation", HeaderMutation(mutations=_hide_context()))
        ],
    }


def trace_exit(tracing: Tracing) -> dict[str, Any]:
    """Build the fields of an exit's connection manager. It traces what its gateway traces, and tells the target nothing."""
    always = UuidRequestIdConfig(pack_trace_reason=False, use_request_id_for_trace_sampling=False)  # asks the sampler
    never = _extension(
        "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based",
        TraceIdRatioBasedSamplerConfig(sampling_percentage=FractionalPercent()),
    )
    sampler = _extension(
        "envoy.tracers.opentelemetry.samplers.parent_based", ParentBasedSamplerConfig(wrapped_sampler=never)
    )
    return {
        "tracing": HttpConnectionManagerTracing(**_spans(tracing, "exit", sampler), no_context_propagation=True),
        "request_id_extension": RequestIdExtension(typed_config=pack(always)),
    }


def _spans(tracing: Tracing, role: str, sampler: TypedExtensionConfig | None = None) -> dict[str, Any]:
    collector = GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=names.COLLECTOR))
    tracer = OpenTelemetryConfig(grpc_service=collector, service_name=f"exitplane-{role}", sampler=sampler)
    tags = [
        *(CustomTag(tag=name, literal=CustomTagLiteral(value="-")) for name in _WITHHELD),
        CustomTag(tag="http.method", value="%REQ(:METHOD):16%"),  # over HTTP/2 a client may send any text
    ]
    if tracing.targets:
        tags.append(CustomTag(tag="exitplane.target", value="%REQ(:AUTHORITY):256%"))
    return {
        "provider": TracingHttp(name="envoy.tracers.opentelemetry", typed_config=pack(tracer)),
        "operation": role,
        "client_sampling": Percent(),
        "random_sampling": Percent(),
        "max_path_tag_length": 0,
        "custom_tags": tags,
    }


def _hide_context() -> list[Mutation]:
    """Hide the client's own context, and whatever else by which it could have a request traced or kept from it."""
    internal = HeaderMutationRemoveOnMatch(key_matcher=StringMatcher(prefix=names.INTERNAL_PREFIX))
    mutations = [
        Mutation(remove="x-request-id"),
        Mutation(remove="x-envoy-force-trace"),
        Mutation(remove_on_match=internal),
    ]
    for header, hidden in _CONTEXT.items():
        # an empty value tells the exit that the client sent none
        copied = _copy(hidden, header, keep_empty_value=hidden == names.CLIENT_TRACEPARENT)
        mutations += [Mutation(remove=hidden), Mutation(append=copied), Mutation(remove=header)]
    return mutations


def sampling_route(route: Route, share: float) -> Route:
    """Have a share of the requests traced that first match a route (at the precision of Envoy: 0.0001)."""
    per_10_000 = FractionalPercent(
        numerator=round(share * _SHARES), denominator=FractionalPercentDenominatorType.TEN_THOUSAND
    )
    return replace(route, tracing=RouteTracing(client_sampling=FractionalPercent(), random_sampling=per_10_000))


def restoring_route(route: Route) -> Route:
    """Build the route of an exit for requests from a gateway that traces: the upstream gets the client's context or none.

    The route configuration has to remove HIDDEN_CONTEXT, which Envoy does after it has applied a route's own changes.
    """
    sent = HeaderMatcher(name=names.CLIENT_TRACEPARENT, present_match=True)
    return replace(
        route,
        match=replace(route.match or RouteMatch(), headers=[sent]),
        request_headers_to_remove=list(_CONTEXT),
        request_headers_to_add=[_copy(header, hidden) for header, hidden in _CONTEXT.items()],
    )


def _copy(name: str, of: str, *, keep_empty_value: bool = False) -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key=name, value=f"%REQ({of})%"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
        keep_empty_value=keep_empty_value,
    )


def _extension(name: str, config: Message) -> TypedExtensionConfig:
    return TypedExtensionConfig(name=name, typed_config=pack(config))
