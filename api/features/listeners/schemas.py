"""Requests and responses of /listeners."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BeforeValidator, ConfigDict, Field

from api.http.field_types import (
    Country,
    IpAddress,
    Name,
    Port,
    Reference,
    RequestModel,
    ResponseModel,
    ServerName,
    absent,
)
from api.http.validators import bad_value
from api.kernel.collections.schemas import FleetListQuery


def _reject_same_names(value: Any) -> Any:
    names = [each.lower() for each in value if isinstance(each, str)] if isinstance(value, dict) else []
    for name in names:
        if names.count(name) > 1:
            raise bad_value("duplicate_server_name", f"the server name {name} occurs twice", "send it once")
    return value


ByServerName = Annotated[dict[ServerName, Country], BeforeValidator(_reject_same_names), Field(max_length=1_000)]
Certificates = Annotated[list[Reference], Field(max_length=100)]
MinimumTlsVersion = Literal["1.2", "1.3"]
Methods = Annotated[list[Literal["basic"]], Field(max_length=1)]


class ListenerIn(RequestModel):
    """An address and port at which the gateways of a fleet accept clients. A changed listener ends its open tunnels."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "de", "fleet": "demo", "address": "127.0.0.1", "port": 8049, "country": "de"}]
        }
    )

    name: Name
    fleet: Reference
    address: IpAddress
    port: Port
    country: Country | None = Field(
        default=None, description="The country for clients of this listener that state none."
    )
    pool: Reference | None = Field(
        default=None, description="The pool for clients of this listener that state none; instead of `country`."
    )
    certificate: Reference | None = Field(
        default=None, description="The certificate presented to clients; null: clients connect without TLS."
    )
    additional_certificates: Certificates = Field(
        default=[],
        description="Further certificates. Clients that dial one of their names get that one, all others `certificate`.",
    )
    minimum_tls_version: MinimumTlsVersion = "1.2"
    countries_by_server_name: ByServerName = Field(
        default={}, description="The country by TLS server name (SNI), for clients that state none."
    )
    authentication: Methods = Field(
        default=[],
        description=(
            "How clients authenticate. `basic`: by the name of a user of the fleet and one of the user's secrets. Empty: all "
            "of them are served, and the address has to be a loopback one."
        ),
    )


class ListenerPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"port": 8050}]})

    name: Name = Field(default_factory=absent)
    address: IpAddress = Field(default_factory=absent)
    port: Port = Field(default_factory=absent)
    country: Country | None = Field(default_factory=absent)
    pool: Reference | None = Field(default_factory=absent)
    certificate: Reference | None = Field(default_factory=absent)
    additional_certificates: Certificates = Field(default_factory=absent)
    minimum_tls_version: MinimumTlsVersion = Field(default_factory=absent)
    countries_by_server_name: ByServerName = Field(default_factory=absent)
    authentication: Methods = Field(default_factory=absent)


class ListenerQuery(FleetListQuery):
    pool: Reference | None = None


class ListenerOut(ResponseModel):
    id: UUID
    name: str
    fleet: str
    fleet_id: UUID
    address: str
    port: int
    country: str | None
    pool: str | None
    pool_id: UUID | None
    certificate: str | None
    certificate_id: UUID | None
    additional_certificates: list[str]
    minimum_tls_version: MinimumTlsVersion
    countries_by_server_name: dict[str, str]
    authentication: list[str]
    created_at: datetime | None = Field(description="null: created before listeners became a collection.")
