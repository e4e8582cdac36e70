"""Rejections as the API shows them."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import Field

from api.http.field_types import ResponseModel


class RejectedOut(ResponseModel):
    """A version that a proxy rejected. Changing the object that it comes from clears it."""

    type_url: str
    resource: str
    version: str
    proxy_id: UUID | None = Field(description="The proxy that rejected it; null: the control plane's own check did.")
    accepted_by_others: bool = Field(
        False, description="Whether the version was released to the group, because other proxies accepted it."
    )
    detail: str = Field(description="Envoy's error message.")
    at: datetime
