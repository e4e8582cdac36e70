"""Dry runs as the API shows them: what a write would answer, and whose configuration it would change."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from api.http.field_types import ResponseModel


class ResourceDifference(ResponseModel):
    type_url: str
    name: str
    change: Literal["added", "changed", "removed"]
    before: dict[str, Any] | None = Field(description="As Envoy reads it; null also where there is too much to show.")
    after: dict[str, Any] | None


class ProxyDifference(ResponseModel):
    """What would change for some proxies, all in the same way."""

    proxies: list[UUID]
    resources: list[ResourceDifference]


class DryRunDiff(ResponseModel):
    changed: list[str] = Field(description="What of the declared state would change: `pool ID created`.")
    configuration: list[ProxyDifference]


class DryRunOut(ResponseModel):
    """What a write would have answered, and what it would have changed. Nothing was done."""

    status: int
    body: Any
    differences: DryRunDiff
