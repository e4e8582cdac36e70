"""The filters between an exit's router and its upstream: a target, or the parent proxy.

The answers of both are foreign. Envoy and gateways act upon some of their headers: `x-envoy-immediate-health-check-fail` takes a host
out of rotation, and `names.FAILURE_HEADER` has a gateway try another exit. These filters see an answer before the exit's router
does; what the exit says itself is added after it (docs/decisions/0035-answers-are-foreign.md).
"""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation, Mutations
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import UpstreamCodec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from xds.translate.http import http_filter

SIGNALS: Final = ("x-envoy-", "x-ep-")
"""Prefixes of the headers by which Envoys, and a gateway and an exit, tell each other something."""


def upstream_filters(*more: HttpFilter) -> list[HttpFilter]:
    """Build the upstream filters that remove all signals from answers, with `more` filters, up to the codec."""
    removed = [
        Mutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=StringMatcher(prefix=prefix)))
        for prefix in SIGNALS
    ]
    mutations = Mutations(response_mutations=removed, response_trailers_mutations=removed)
    return [
        http_filter("envoy.filters.http.header_mutation", HeaderMutation(mutations=mutations)),
        *more,
        http_filter("envoy.filters.http.upstream_codec", UpstreamCodec()),
    ]
