"""The gateways that a fleet's exits admit: SDS for new connections, and ECDS for new requests on those that are open.

Envoy checks a certificate at the handshake alone. A filter therefore looks the name of the connection's peer up with each request
(docs/decisions/0052-removed-gateways-lose-their-connections.md). The classes compiled from proto/ encode both lists, because a
fleet may have thousands of gateways, and betterproto costs a thousand times as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final
from uuid import UUID

from envoy_data_plane.envoy.config.core.v3 import ExtensionConfigSource
from envoy_data_plane.envoy.config.rbac.v3 import Action, RbacAction
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig

from model.entities import Role, TrustedAuthority
from model.identity import Identity, role_prefix
from xds.translate import names
from xds.translate.encoding import encode, pack
from xds.translate.http import ads_source
from xds.translate.matchers import OnMatch, by_peer
from xds.wire import template_pb2 as wire

_RBAC: Final = pack(Rbac()).type_url


def translate_admitted_gateways(
    fleet_id: UUID, gateway_ids: Iterable[UUID], authorities: Iterable[TrustedAuthority]
) -> wire.Secret:
    """Build the validation context of a fleet's exits: a gateway needs a certificate of an authority, and has to be in the list."""
    roots = (each.certificate for each in sorted(authorities, key=lambda each: each.id.int))
    context = wire.CertificateValidationContext(
        trusted_ca=wire.DataSource(inline_string="".join(roots)),
        match_typed_subject_alt_names=[_uri(each) for each in _admitted_names(fleet_id, gateway_ids)],
    )
    return wire.Secret(name=names.GATEWAYS_SECRET, validation_context=context)


def translate_admission_filter(fleet_id: UUID, gateway_ids: Iterable[UUID]) -> wire.TypedExtensionConfig:
    """Build the filter of a fleet's exits that answers 403 to each request of a gateway that is not in the list."""
    admitted = dict.fromkeys(_admitted_names(fleet_id, gateway_ids), _allow())
    config = wire.TypedExtensionConfig(name=names.ADMISSION_FILTER)
    config.typed_config.type_url = _RBAC
    config.typed_config.value = encode(wire.RBAC(matcher=by_peer(admitted)))
    return config


def admission_filter() -> HttpFilter:
    """Build the place of that filter in an exit's listener, which names no gateway. Without a configuration, requests get 500."""
    source = ExtensionConfigSource(config_source=ads_source(), type_urls=[_RBAC])
    return HttpFilter(name=names.ADMISSION_FILTER, config_discovery=source)


def _admitted_names(fleet_id: UUID, gateway_ids: Iterable[UUID]) -> Sequence[str]:
    """List the names of gateways in their certificates.

    Without gateways it is the name of none, because Envoy takes an empty list for "any" (docs/architecture.md#fail-closed).
    """
    uris = [Identity(fleet_id, Role.GATEWAY, each).uri for each in sorted(gateway_ids, key=lambda each: each.int)]
    return uris or [role_prefix(fleet_id, Role.GATEWAY)]


def _uri(value: str) -> wire.SubjectAltNameMatcher:
    return wire.SubjectAltNameMatcher(san_type=wire.SubjectAltNameMatcher.URI, matcher=wire.StringMatcher(exact=value))


@cache
def _allow() -> OnMatch:
    action = TypedExtensionConfig(name="admitted", typed_config=pack(Action(name="admitted", action=RbacAction.ALLOW)))
    return encode(wire.Matcher.OnMatch(action=wire.TypedExtensionConfig.FromString(encode(action))))
