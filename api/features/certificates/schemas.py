"""Server certificates as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field

from api.http.field_types import Name, Reference, RequestModel, ResponseModel, absent
from api.kernel.collections.schemas import FleetListQuery

Pem = Annotated[str, Field(max_length=65_536)]


class CertificateIn(RequestModel):
    """What listeners show to clients that speak TLS to them."""

    name: Name
    fleet: Reference
    chain: Pem = Field(description="PEM, the server's own certificate first.")
    key: Pem = Field(description="PEM, not encrypted. It is never shown again, and travels to gateways by SDS alone.")


class CertificatePatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "gateways"}]})

    name: Name = Field(default_factory=absent)
    chain: Pem = Field(default_factory=absent, description="Together with its key.")
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
