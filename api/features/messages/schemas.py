"""Queries and responses of /messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.http.field_types import Name, ResponseModel
from api.kernel.collections.schemas import NumberedListQuery

MessageState = Literal["pending", "sending", "sent", "failed"]


class MessageQuery(NumberedListQuery):
    state: MessageState | None = None
    rule: Name | None = Field(None, description="Only messages of the rule with this name.")
    channel: Name | None = Field(None, description="Only messages to the channel with this name.")


class MessageOut(ResponseModel):
    """A message to one channel, and its delivery."""

    id: int
    created_at: datetime
    rule: str = Field(description="The rule's name when the message was made; `test` for a test message.")
    channel: str = Field(description="The channel's name when the message was made.")
    title: str
    body: str
    kind: str = Field(description="`alert`, `recovery` or `news`.")
    items: list[dict[str, Any]] = Field(description="The events that it tells of, as webhooks get them.")
    state: MessageState
    attempts: int
    next_attempt_at: datetime | None = Field(description="null: there is none.")
    sent_at: datetime | None
    error: str = Field(description="The reason why the last attempt failed; empty: it did not.")
