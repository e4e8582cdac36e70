"""Requests and responses of /certificates."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field

from api.http.field_types import Name, Reference, RequestModel, ResponseModel, absent
from api.kernel.collections.schemas import FleetListQuery

Pem = Annotated[str, Field(max_length=65_536)]


class CertificateIn(RequestModel):
    """A server certificate that listeners present to clients over TLS."""

    name: Name
    fleet: Reference
    chain: Pem = Field(description="The certificate chain in PEM, the server's own certificate first.")
    key: Pem = Field(
        description="The private key in PEM, not encrypted. It is never shown again; gateways receive it over SDS only."
    )


class CertificatePatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "gateways"}]})

    name: Name = Field(default_factory=absent)
    chain: Pem = Field(default_factory=absent, description="Send the key with it if the key changes too.")
    key: Pem = Field(default_factory=absent)


class CertificateQuery(FleetListQuery):
    pass


class CertificateOut(ResponseModel):
    id: UUID
    name: str
    fleet: str
    fleet_id: UUID
    server_names: list[str]
    chain: str
    expires_at: datetime
    created_at: datetime
