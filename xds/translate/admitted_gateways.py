"""SDS for exits: the gateways that they admit.

The classes compiled from proto/ encode the list, because a fleet may have thousands of gateways, and betterproto costs a thousand
times as much.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from model.entities import Role, TrustedAuthority
from model.identity import Identity, role_prefix
from xds.translate import names
from xds.wire.template_pb2 import (
    CertificateValidationContext,
    DataSource,
    Secret,
    StringMatcher,
    SubjectAltNameMatcher,
)


def translate_admitted_gateways(
    fleet_id: UUID, gateway_ids: Iterable[UUID], authorities: Iterable[TrustedAuthority]
) -> Secret:
    """Build the validation context of a fleet's exits: a gateway needs a certificate of an authority, and has to be in the list.

    Without gateways it has the name of none, because Envoy takes an empty list for "any" (docs/architecture.md#fail-closed).
    """
    uris = [Identity(fleet_id, Role.GATEWAY, each).uri for each in sorted(gateway_ids, key=lambda each: each.int)]
    roots = (each.certificate for each in sorted(authorities, key=lambda each: each.id.int))
    context = CertificateValidationContext(
        trusted_ca=DataSource(inline_string="".join(roots)),
        match_typed_subject_alt_names=[_uri(each) for each in uris or [role_prefix(fleet_id, Role.GATEWAY)]],
    )
    return Secret(name=names.GATEWAYS_SECRET, validation_context=context)


def _uri(value: str) -> SubjectAltNameMatcher:
    return SubjectAltNameMatcher(san_type=SubjectAltNameMatcher.URI, matcher=StringMatcher(exact=value))
