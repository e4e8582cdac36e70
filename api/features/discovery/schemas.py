"""Responses of Prometheus's HTTP service discovery (its `http_sd_configs`)."""

from __future__ import annotations

from pydantic import Field

from api.http.field_types import ResponseModel


class TargetGroupOut(ResponseModel):
    """One target, with labels for `relabel_configs`."""

    targets: list[str] = Field(description="`host:port`, one in each group.")
    labels: dict[str, str] = Field(
        description="`__meta_exitplane_component` (`replica`, `gateway` or `exit`), and of proxies `_fleet`, `_name` and `_pool`."
    )
