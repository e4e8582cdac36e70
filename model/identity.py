"""The identity of a proxy, from its certificate only (docs/architecture.md#identity-from-certificate).

It is the certificate's only URI name, `spiffe://exitplane/fleet/<fleet>/<role>/<proxy>` (SPIFFE ID, section 2), so that an
exit can admit the gateways of its own fleet by their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from model.entities import Role

TRUST_DOMAIN = "exitplane"
XDS_SERVER_NAME = "xds.exitplane.internal"
"""The DNS name in the control plane's own certificate. Proxies verify it, whatever address they dialled."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A proxy of one role in one fleet. For an exit, `proxy_id` is the exit's id."""

    fleet_id: UUID
    role: Role
    proxy_id: UUID

    @property
    def uri(self) -> str:
        return f"{role_prefix(self.fleet_id, self.role)}{self.proxy_id}"

    @property
    def server_name(self) -> str:
        """The DNS name in the certificate. Gateways send it as SNI and verify it when they dial an exit."""
        return f"{self.proxy_id}.{self.role}.exitplane.internal"


def role_prefix(fleet_id: UUID, role: Role) -> str:
    """Return the prefix of the URI names of all proxies of a role in a fleet."""
    return f"spiffe://{TRUST_DOMAIN}/fleet/{fleet_id}/{role}/"


def parse_uri(uri: str) -> Identity:
    """Read an identity from a certificate's URI name.

    Raises ValueError when the name is not from this control plane.
    """
    parts = uri.split("/")
    if len(parts) != 7 or parts[:4] != ["spiffe:", "", TRUST_DOMAIN, "fleet"]:
        raise ValueError(f"not an identity of this control plane: {uri!r}")
    return Identity(fleet_id=UUID(parts[4]), role=Role(parts[5]), proxy_id=UUID(parts[6]))
