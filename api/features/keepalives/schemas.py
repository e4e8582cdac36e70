"""Requests and responses of VPN Sentinel's protocol."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.http.field_types import ResponseModel


class KeepaliveIn(BaseModel):
    """A keepalive. This schema documents it; parsing is more lenient.

    The fields of `location` and `dns_test` may also be sent flat, as `country`, `city`, `region`, `provider`, `timezone`,
    `dns_loc` and `dns_colo`. Long values are cut, missing or mistyped values count as unknown, other fields are ignored.
    """

    model_config = ConfigDict(extra="allow")

    client_id: str = Field(min_length=1, max_length=100, pattern=r"^[a-zA-Z0-9._-]+$")
    timestamp: str | None = Field(None, description="When the client sent it. Ignored: the time of receipt counts.")
    public_ip: str = "unknown"
    status: str = "alive"
    client_version: str = "Unknown"
    location: dict[str, str] | None = Field(None, description="The fields country, city, region, org and timezone.")
    dns_test: dict[str, str] | None = Field(None, description="The fields location and colo.")


class KeepaliveOut(ResponseModel):
    status: str = "ok"
    message: str = "Keepalive received"
    server_time: datetime


class SentinelClientOut(ResponseModel):
    """The last keepalive of a client."""

    last_seen: datetime
    ip: str
    location: str
    provider: str
    country: str
    city: str
    region: str
    timezone: str
    dns_loc: str
    dns_colo: str
    client_version: str


EXAMPLE: dict[str, Any] = {
    "client_id": "office-vpn-primary",
    "timestamp": "2026-01-01T12:00:00+0000",
    "public_ip": "198.51.100.7",
    "status": "alive",
    "client_version": "1.0.0",
    "location": {
        "country": "DE",
        "city": "Berlin",
        "region": "Berlin",
        "org": "AS64500 Example",
        "timezone": "Europe/Berlin",
    },
    "dns_test": {"location": "DE", "colo": "TXL"},
}
