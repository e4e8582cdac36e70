"""Requests and responses of /certificates."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field

from api.http.field_types import (
    Name,
    Reference,
    RequestModel,
    ResponseModel,
    absent,
    check_certificate_host,
)
from api.http.validators import bad_value
from api.kernel.collections.schemas import FleetListQuery

_FOLDER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,253}", re.ASCII)


def _check_folder(value: str) -> str:
    if not _FOLDER.fullmatch(value) or ".." in value:
        raise bad_value(
            "bad_folder",
            "this is not the name of a folder",
            "send a name without slashes, as certbot's: gateway.example.net",
        )
    return value


Pem = Annotated[str, Field(max_length=65_536)]
Passphrase = Annotated[str, Field(max_length=1_000)]
Folder = Annotated[str, AfterValidator(_check_folder), Field(max_length=254)]
Hosts = Annotated[list[Annotated[str, AfterValidator(check_certificate_host)]], Field(max_length=100)]
_ISSUED_FOR: Final = (
    "Host names (`*.example.net` for all of one level) and addresses for which the fleet's authority issues the certificate, "
    "and renews it; instead of `chain` and `key`."
)
_FOLDER_TEXT: Final = (
    "A folder of the fleet's in EXITPLANE_CERTIFICATE_FOLDER, where an ACME client writes `fullchain.pem` and `privkey.pem`, "
    "now and at each renewal; instead of `chain` and `key`."
)


class CertificateIn(RequestModel):
    """A server certificate that listeners present to clients over TLS: uploaded, issued, or read from a folder."""

    name: Name
    fleet: Reference
    chain: Pem | None = Field(
        default=None,
        description="The certificate chain in PEM, the server's own certificate first, each followed by its issuer's.",
    )
    key: Pem | None = Field(
        default=None,
        description="The private key in PEM. It is never shown again; gateways receive it over SDS only. null: the stored one.",
    )
    passphrase: Passphrase | None = Field(
        default=None, description="The passphrase of an encrypted key. It is not stored."
    )
    issued_for: Hosts = Field(default=[], description=_ISSUED_FOR)
    folder: Folder | None = Field(default=None, description=_FOLDER_TEXT)


class CertificatePatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "gateways"}]})

    name: Name = Field(default_factory=absent)
    chain: Pem | None = Field(default_factory=absent, description="Send the key with it if the key changes too.")
    key: Pem | None = Field(default_factory=absent)
    passphrase: Passphrase | None = Field(default_factory=absent)
    issued_for: Hosts = Field(default_factory=absent, description=_ISSUED_FOR)
    folder: Folder | None = Field(default_factory=absent, description=_FOLDER_TEXT)


class CertificateQuery(FleetListQuery):
    pass


class CertificateOut(ResponseModel):
    id: UUID
    name: str
    fleet: str
    fleet_id: UUID
    source: Literal["uploaded", "issued", "folder"]
    server_names: list[str]
    chain: str | None = Field(description="The chain as it was uploaded; null: it is issued, or read from a folder.")
    presented_chain: str = Field(
        description="The chain that clients get. The last one of an issued chain is the fleet's authority."
    )
    issued_for: list[str]
    folder: str | None
    warnings: list[str] = Field(description="Present files that cannot be used, and a near end.")
    valid_from: datetime | None = Field(description="null: stored by release 0.1.0.")
    expires_at: datetime
    created_at: datetime
