"""Requests and responses of orders to exits."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AliasChoices, Field

from api.http.field_types import RequestModel, ResponseModel, Text

OrderKind = Literal["rotate", "speed-test", "logs"]
OUTCOME_BYTES_MAX: Final = 262_144


class OrderOut(ResponseModel):
    """An order to an exit's agent. The agent receives it in the reply to its next heartbeat."""

    id: UUID
    exit_id: UUID
    exit: str
    kind: OrderKind
    state: Literal["pending", "done", "failed", "expired"]
    created_at: datetime
    expires_at: datetime
    done_at: datetime | None
    outcome: dict[str, Any] | None = Field(
        description="The result. Of `rotate`: the `server` in use now. Of `speed-test`: `download_mbps`, `upload_mbps` and `rtt_ms`. "
        "Of `logs`: the `lines`, newest last. null: none yet, or the order failed."
    )
    error: str = Field(description="Why the order failed; empty if it did not.")


class AgentOrderOut(ResponseModel):
    """An order as it is sent to the agent."""

    id: UUID
    kind: str
    detail: dict[str, Any]


class OrderResultIn(RequestModel):
    """The result of an order, as the agent reports it."""

    id: UUID
    outcome: dict[str, Any] | None = None
    error: Annotated[Text, Field(max_length=500)] = Field(
        "",
        validation_alias=AliasChoices("error", "trouble"),  # agents of release 0.1.0
        description="Why the order failed; empty if it did not.",
    )
