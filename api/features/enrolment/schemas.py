"""What a proxy shows to enrol, and what it gets."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import ConfigDict, Field

from api.features.exits.schemas import ANY_ADDRESS, ParentIn
from api.http.field_types import (
    Host,
    IpAddress,
    Locality,
    Name,
    Port,
    Reference,
    RequestModel,
    ResponseModel,
    SourceAddress,
    Text,
)

_SECRETS: dict[str, Any] = {"join_token": "ep-exit-…", "csr": "-----BEGIN CERTIFICATE REQUEST-----…"}


class EnrolmentIn(RequestModel):
    join_token: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="Of `exitplane token`, for this role and fleet. Never repeated in a reply."
    )
    csr: Annotated[str, Field(min_length=1, max_length=16_384)] = Field(
        description="A certificate signing request in PEM, for a key on P-256; the names in it are ignored."
    )
    name: Name
    locality: Locality | None = Field(
        default=None, description="Where the proxy stands; null: what is known of it already stays."
    )
    version: Annotated[Text, Field(max_length=64)] = Field(default="", description="The agent's version.")


class ExitEnrolmentIn(EnrolmentIn):
    """An exit that registers itself. Doing so again under the same name keeps the exit and updates its address."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [_SECRETS | {"name": "us-1", "pool": "us", "address": "198.51.100.7", "port": 8443}]
        }
    )

    pool: Reference = Field(description="A pool of the token's fleet.")
    address: Host = Field(description="What gateways dial.")
    port: Port
    bind_address: IpAddress = Field(default=ANY_ADDRESS, description="What the exit's Envoy listens on.")
    egress_address: SourceAddress | None = None
    parent: ParentIn | None = Field(
        default=None, description="The proxy that it sends all traffic on to; null: what is declared already stays."
    )


class ProxyEnrolmentIn(EnrolmentIn):
    """A gateway that registers itself, in the token's fleet."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SECRETS | {"name": "gateway-1"}]})


class XdsOut(ResponseModel):
    address: str | None = Field(description="Where the xDS server is; null: at the host that was just called.")
    port: int


class HeartbeatSettingsOut(ResponseModel):
    interval_s: int


class EnrolmentOut(ResponseModel):
    id: UUID
    fleet_id: UUID
    certificate: str = Field(description="PEM.")
    authority: str = Field(description="The root that the xDS server and the other proxies are verified by; PEM.")
    xds: XdsOut
    heartbeat: HeartbeatSettingsOut
