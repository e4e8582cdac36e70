"""The authentication of users at gateways: ECDS resources that hold a part of the users each, and the filters that use them.

A listener that authenticates runs the filters of the part that holds the user: the first compares the secret, the second admits the
user (envoy/users.lua). Both are one resource, so that a changed user changes one part alone, and no listener
(docs/decisions/0056-users-in-parts.md).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from uuid import UUID

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    HeaderFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    ExtensionConfigSource,
    RuntimeUInt32,
    SubstitutionFormatString,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.rbac.v3 import Permission, PermissionSet, Policy, Principal, SourcedMetadata
from envoy_data_plane.envoy.config.rbac.v3 import Rbac as Rules
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.filters.http.basic_auth.v3 import BasicAuth
from envoy_data_plane.envoy.extensions.filters.http.composite.v3 import (
    Composite,
    DynamicConfig,
    ExecuteFilterAction,
    FilterChainConfiguration,
)
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import ResponseMapper
from envoy_data_plane.envoy.type.matcher.v3 import (
    HttpRequestHeaderMatchInput,
    MetadataMatcher,
    MetadataMatcherPathSegment,
    ValueMatcher,
)
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig as MatcherExtension
from envoy_data_plane.xds.type.matcher.v3 import (
    Matcher,
    MatcherMatcherTree,
    MatcherMatcherTreeMatchMap,
    MatcherOnMatch,
)

from model.entities import USER_SHARDS, User
from model.world import World
from xds.translate import names
from xds.translate.encoding import encode, overwrite, pack
from xds.translate.http import ads_source
from xds.translate.lua import quote, read_script
from xds.wire import template_pb2 as wire

CHALLENGE_SCRIPT: Final = read_script("challenge")
ADMISSION_SCRIPT: Final = read_script("users")
_COMPOSITE: Final = "type.googleapis.com/envoy.extensions.filters.http.composite.v3.Composite"
_NOBODY: Final = f"-:{{SHA}}{'A' * 27}="
"""An entry that no client matches, because Envoy refuses an empty list."""
_TEXT: Final = "exitplane: log in with the name of a user and one of the user's secrets\n"


def translate_users(shard: int, world: World, fleet_id: UUID) -> wire.TypedExtensionConfig:
    """Build the resource with the users of a fleet that are in one part."""
    found = (world.users[user_id] for user_id in world.users_of.get(fleet_id, ()))
    members = sorted((user for user in found if user.shard == shard), key=lambda user: user.name)
    passwords = [f"{user.name}/{each.slot}:{{SHA}}{each.digest}" for user in members for each in user.secrets]
    ends = [f"{user.name} {_end(user)}" for user in members if _end(user) is not None]
    body = _encode_part(shard, "\n".join((_NOBODY, *passwords)), "".join(f"{line}\n" for line in ends))
    return wire.TypedExtensionConfig.FromString(body)


def _end(user: User) -> int | None:
    """Return the time from which a user is refused, in seconds since 1970; 0 for a disabled one, None for none."""
    return user.expires_at if user.enabled else 0


@lru_cache(maxsize=2 * USER_SHARDS)  # those without users are alike in all fleets
def _encode_part(shard: int, passwords: str, ends: str) -> bytes:
    secret = BasicAuth(
        users=DataSource(inline_string=passwords),
        authentication_header="proxy-authorization",
        forward_username_header=names.USER,
        emit_dynamic_metadata=True,
    )
    admission = Lua(
        default_source_code=DataSource(inline_string=f"local TABLE = {quote(ends)}\n{ADMISSION_SCRIPT}"),
    )
    filters = [
        TypedExtensionConfig(name=names.SECRET_FILTER, typed_config=pack(secret)),
        TypedExtensionConfig(name="envoy.filters.http.lua", typed_config=pack(admission)),
    ]
    run = ExecuteFilterAction(filter_chain=FilterChainConfiguration(typed_config=filters))
    part = Composite(matcher=Matcher(on_no_match=_on_match(run)))
    return encode(TypedExtensionConfig(name=names.user_shard(shard), typed_config=pack(part)))


def choose_part() -> Composite:
    """Build the filter that runs the filters of the part that holds the user."""
    source = ExtensionConfigSource(config_source=ads_source(), type_urls=[_COMPOSITE])
    parts = {
        str(shard): _on_match(
            ExecuteFilterAction(dynamic_config=DynamicConfig(name=names.user_shard(shard), config_discovery=source))
        )
        for shard in range(USER_SHARDS)
    }
    shard = MatcherExtension(name=names.SHARD, typed_config=pack(HttpRequestHeaderMatchInput(header_name=names.SHARD)))
    tree = MatcherMatcherTree(input=shard, exact_match_map=MatcherMatcherTreeMatchMap(map=parts))
    return Composite(matcher=Matcher(matcher_tree=tree))


def _on_match(action: ExecuteFilterAction) -> MatcherOnMatch:
    return MatcherOnMatch(action=MatcherExtension(name="run", typed_config=pack(action)))


def require_admission() -> Rbac:
    """Build the filter that refuses what was not authenticated or not admitted: a script that fails lets its request pass."""
    authenticated = MetadataMatcher(
        filter=names.USERS_FILTER,  # metadata of filters within a composite one has the name of that one
        path=[MetadataMatcherPathSegment(key="username")],
        value=ValueMatcher(present_match=True),
    )
    not_admitted = Permission(header=HeaderMatcher(name=names.SHARD, present_match=True))
    both = PermissionSet(
        rules=[
            Permission(sourced_metadata=SourcedMetadata(metadata_matcher=authenticated)),
            Permission(not_rule=not_admitted),
        ]
    )
    policy = Policy(permissions=[Permission(and_rules=both)], principals=[Principal(any=True)])
    return Rbac(rules=Rules(policies={"admitted": policy}))


def challenge() -> ResponseMapper:
    """Build the answer to a request without the right secret, in place of Envoy's 401, which is a web server's (RFC 9110, 11.7.1).

    A route that answers 401 is not meant: it is matched after the user was admitted.
    """
    is_401 = AccessLogFilter(
        status_code_filter=StatusCodeFilter(
            comparison=ComparisonFilter(
                op=ComparisonFilterOp.EQ, value=RuntimeUInt32(default_value=401, runtime_key="exitplane.unused")
            )
        )
    )
    is_login = AccessLogFilter(header_filter=HeaderFilter(header=HeaderMatcher(name=names.SHARD, present_match=True)))
    body = SubstitutionFormatString(text_format_source=DataSource(inline_string=_TEXT), content_type="text/plain")
    return ResponseMapper(
        filter=AccessLogFilter(and_filter=AndFilter(filters=[is_401, is_login])),
        status_code=407,
        body_format_override=body,
        headers_to_add=[overwrite("proxy-authenticate", 'Basic realm="exitplane", charset="UTF-8"')],
    )
