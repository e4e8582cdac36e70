"""Responses of /health."""

from __future__ import annotations

from pydantic import Field

from api.http.field_types import ResponseModel


class PartOut(ResponseModel):
    ok: bool
    reason: str = ""


class HealthOut(ResponseModel):
    ok: bool = Field(description="Whether every part is healthy.")
    parts: dict[str, PartOut]
