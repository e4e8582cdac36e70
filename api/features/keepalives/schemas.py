"""What VPN Sentinel's client sends and is answered."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.http.field_types import ResponseModel


class KeepaliveIn(BaseModel):
    """For the documentation: what is read is more lenient. Fields of `location` and `dns_test` may also stand beside these.

    In that flat form they are `country`, `city`, `region`, `provider`, `timezone`, `dns_loc` and `dns_colo`. What is too long is
    cut, what is missing or of another type counts as unknown, and fields that are not known are ignored.
    """

    model_config = ConfigDict(extra="allow")

    client_id: str = Field(min_length=1, max_length=100, pattern=r"^[a-zA-Z0-9._-]+$")
    timestamp: str | None = Field(None, description="When the client sent it; what counts is when it was heard.")
    public_ip: str = "unknown"
    status: str = "alive"
    client_version: str = "Unknown"
    location: dict[str, str] | None = Field(None, description="country, city, region, org, timezone")
    dns_test: dict[str, str] | None = Field(None, description="location, colo")


class KeepaliveOut(ResponseModel):
    status: str = "ok"
    message: str = "Keepalive received"
    server_time: datetime


class ClientOut(ResponseModel):
    """A client as it was heard last."""

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
