"""Orders as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Field

from api.http.field_types import RequestModel, ResponseModel, Text

OrderKind = Literal["rotate", "speed-test", "logs"]
OUTCOME_BYTES_MAX: Final = 262_144


class OrderOut(ResponseModel):
    """What an exit's agent was asked to do. It learns so with its next heartbeat."""

    id: UUID
    exit_id: UUID
    exit: str
    kind: OrderKind
    state: Literal["pending", "done", "failed", "expired"]
    asked_at: datetime
    expires_at: datetime
    done_at: datetime | None
    outcome: dict[str, Any] | None = Field(
        description="Of `rotate` the `server` that is used now; of `speed-test` `download_mbps`, `upload_mbps` and `rtt_ms`; "
        "of `logs` the `lines`, the newest last."
    )
    trouble: str = Field(description="Why it failed.")


class OrderSaid(ResponseModel):
    """An order as the agent is told it."""

    id: UUID
    kind: str
    detail: dict[str, Any]


class SettledIn(RequestModel):
    """What came of an order."""

    id: UUID
    outcome: dict[str, Any] | None = None
    trouble: Annotated[Text, Field(max_length=500)] = ""
