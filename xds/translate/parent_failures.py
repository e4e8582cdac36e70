"""What an exit says when its parent fails, so that gateways go to another exit, and clients never see the parent's 407."""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.core.v3 import DataSource, HeaderValueOption, SubstitutionFormatString
from envoy_data_plane.envoy.extensions.filters.http.custom_response.v3 import CustomResponse
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter, LocalReplyConfig
from envoy_data_plane.envoy.extensions.http.custom_response.local_response_policy.v3 import LocalResponsePolicy
from envoy_data_plane.envoy.type.matcher.v3 import HttpResponseStatusCodeMatchInput
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig
from envoy_data_plane.xds.type.matcher.v3 import (
    Matcher,
    MatcherMatcherTree,
    MatcherMatcherTreeMatchMap,
    MatcherOnMatch,
)

from xds.translate import names
from xds.translate.encoding import overwrite, pack
from xds.translate.http import http_filter, local_replies

_POOL: Final = f"%METADATA(ROUTE:{names.METADATA}:{names.POOL_METADATA})%"
_FAILED: Final = f"exitplane: the exit of pool {_POOL} could not use its parent proxy"
REFUSED: Final = "credentials_refused"


def parent_replies() -> LocalReplyConfig:
    """Whatever keeps the exit's Envoy from getting an answer is the parent's failure: it dials nobody else."""
    return local_replies(f"{_FAILED} (%RESPONSE_CODE_DETAILS%)\n", *_headers("%RESPONSE_CODE_DETAILS%"))


def parent_refusals() -> HttpFilter:
    """A filter that makes a 407 of the parent the exit's failure. A client would take it for the gateway's."""
    text = SubstitutionFormatString(
        text_format_source=DataSource(inline_string=f"{_FAILED} ({REFUSED})\n"), content_type="text/plain"
    )
    policy = LocalResponsePolicy(
        status_code=503, body_format=text, response_headers_to_add=_headers(REFUSED)
    )
    asked_for_credentials = MatcherMatcherTreeMatchMap(map={"407": _do(policy)})
    status = TypedExtensionConfig(name="status", typed_config=pack(HttpResponseStatusCodeMatchInput()))
    matcher = Matcher(matcher_tree=MatcherMatcherTree(input=status, exact_match_map=asked_for_credentials))
    return http_filter("envoy.filters.http.custom_response", CustomResponse(custom_response_matcher=matcher))


def _do(policy: LocalResponsePolicy) -> MatcherOnMatch:
    name = "envoy.extensions.http.custom_response.local_response_policy"
    return MatcherOnMatch(action=TypedExtensionConfig(name=name, typed_config=pack(policy)))


def _headers(words: str) -> list[HeaderValueOption]:
    status = f'exitplane-exit; error=proxy_internal_error; details="parent: {words}"'
    return [overwrite(names.FAILURE_HEADER, f"{names.PARENT_FAILED}{words}"), overwrite("proxy-status", status)]
