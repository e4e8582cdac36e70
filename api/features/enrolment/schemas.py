"""Requests and responses of enrolment."""

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


SigningRequest = Annotated[
    str,
    Field(
        min_length=1,
        max_length=16_384,
        description="A certificate signing request in PEM, for a P-256 key. Its subject is ignored;"
        " alternative names that are not the proxy's own are refused.",
    ),
]


class EnrolmentIn(RequestModel):
    join_token: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="A join token from `exitplane token create`, for this role and fleet. Never repeated in a reply."
    )
    csr: SigningRequest
    name: Name
    locality: Locality | None = Field(
        default=None, description="Where the proxy runs: `region` or `region/zone`. null: keep the known locality."
    )
    version: Annotated[Text, Field(max_length=64)] = Field(default="", description="The agent's version.")
    renews: bool = Field(
        default=False,
        description="Whether the agent renews its certificate. It then gets one for hours, and otherwise one for a year.",
    )


class ExitEnrolmentIn(EnrolmentIn):
    """The registration of an exit. Registering again with the same key keeps the exit and updates its address."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [_SECRETS | {"name": "us-1", "pool": "us", "address": "198.51.100.7", "port": 8443}]
        }
    )

    pool: Reference = Field(description="A pool of the token's fleet.")
    address: Host = Field(description="The host name or IP address that gateways dial.")
    port: Port
    bind_address: IpAddress = Field(default=ANY_ADDRESS, description="The IP address that the exit's Envoy listens on.")
    egress_address: SourceAddress | None = None
    parent: ParentIn | None = Field(
        default=None, description="The HTTP proxy that the exit sends all traffic to; null: keep what is declared."
    )


class ProxyEnrolmentIn(EnrolmentIn):
    """The registration of a gateway, in the token's fleet."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SECRETS | {"name": "gateway-1"}]})


class RenewalIn(RequestModel):
    """The renewal of a certificate, for the key that signs the request."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"csr": _SECRETS["csr"]}]})

    csr: SigningRequest


class RenewalOut(ResponseModel):
    certificate: str = Field(description="The signed certificate in PEM, with the chain that the proxy has to present.")
    authority_version: str = Field(
        description="The version of the authority. Renew when a heartbeat's reply has another one."
    )
    authority: str = Field(description="The root certificates in PEM, to verify the xDS server and the other proxies.")


class XdsOut(ResponseModel):
    address: str | None = Field(description="The host of the xDS server; null: the host of this API.")
    port: int


class HeartbeatSettingsOut(ResponseModel):
    interval_s: int


class EnrolmentOut(RenewalOut):
    id: UUID
    fleet_id: UUID
    xds: XdsOut
    heartbeat: HeartbeatSettingsOut
