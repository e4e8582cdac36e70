"""The response of a dry run: the response of the write, and the changes in proxies' configuration."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from api.http.field_types import ResponseModel


class ResourceDifference(ResponseModel):
    type_url: str
    name: str
    change: Literal["added", "changed", "removed"]
    before: dict[str, Any] | None = Field(
        description="The resource as JSON, as Envoy reads it; null also where there are too many to show."
    )
    after: dict[str, Any] | None


class ProxyDifference(ResponseModel):
    """The changes that some proxies would get, equal for all of them."""

    proxies: list[UUID]
    resources: list[ResourceDifference]


class DryRunDiff(ResponseModel):
    changed: list[str] = Field(description="The changes of the declared state: `pool ID created`.")
    configuration: list[ProxyDifference]


class DryRunOut(ResponseModel):
    """The response and the changes of a write that was not executed."""

    status: int
    body: Any
    differences: DryRunDiff
