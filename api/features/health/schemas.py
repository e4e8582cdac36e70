"""Responses of /health."""

from __future__ import annotations

from pydantic import Field

from api.http.field_types import ResponseModel


class PartOut(ResponseModel):
    ok: bool
    reason: str = ""


class ConnectionsOut(ResponseModel):
    """The connections of a listener."""

    open: int
    waiting: int = Field(description="Those on which no request is authenticated yet.")
    closed: dict[str, int] = Field(description="How many were closed since the start, by reason.")


class HealthOut(ResponseModel):
    ok: bool = Field(description="Whether every part is healthy.")
    parts: dict[str, PartOut]
    connections: dict[str, ConnectionsOut] = Field(default={}, description="By listener: `api` and `xds`.")
