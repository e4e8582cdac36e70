"""Requests and responses of /channels."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import ConfigDict, Field

from api.http.field_types import Name, RequestModel, ResponseModel, absent
from api.http.secret_fields import SecretUrl, SigningKey
from api.kernel.collections.schemas import ListQuery, Pattern

UNCHANGED: Final = ""
"""The marker for a secret that was not sent."""


def _unchanged() -> Any:
    return UNCHANGED


class ChannelIn(RequestModel):
    """A place that messages are sent to. Its secrets are never shown; those that a replacement leaves out stay."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "ops", "url": "ntfys://ntfy.example.net/exits"}]}
    )

    name: Name
    url: SecretUrl = Field(
        default_factory=_unchanged,
        description="`https://` or `http://` for a signed webhook, or a URL of Apprise: `tgram://`, `mailtos://`, … Never shown.",
    )
    signing_key: SigningKey = Field(
        default_factory=_unchanged, description="The key that signs a webhook, which needs one. Never shown."
    )


class ChannelPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "operations"}]})

    name: Name = Field(default_factory=absent)
    url: SecretUrl = Field(default_factory=absent)
    signing_key: SigningKey = Field(default_factory=absent)


class ChannelQuery(ListQuery):
    name: Pattern | None = None


class ChannelOut(ResponseModel):
    id: UUID
    name: str
    service: str = Field(description="`webhook`, or the scheme of the URL.")
    created_at: datetime
