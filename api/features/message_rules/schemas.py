"""Requests and responses of /message-rules."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field

from api.http.field_types import Name, Reference, RequestModel, ResponseModel, absent
from api.http.validators import bad_value
from api.kernel.collections.schemas import ListQuery, Pattern
from model.message_events import COOLDOWN_MIN_S, MessageEvent

_DAY_S = 86_400
_EXAMPLE: dict[str, Any] = {"name": "lost", "events": ["exit_lost", "exit_leaking"], "channels": ["ops"], "for_s": 60}


def _check_unique(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise bad_value("twice", "a value occurs twice", "send it once")
    return values


def _check_names(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9*-]{1,63}", value):
        raise bad_value("bad_pattern", "this matches no name", "send a name, in which * stands for anything")
    return value


_EVENT_NAMES = sorted(event.value for event in MessageEvent)


def _check_event(value: str) -> str:
    if value not in _EVENT_NAMES:
        raise bad_value("bad_event", "there is no such event", f"send one of {', '.join(_EVENT_NAMES)}")
    return value


Event = Annotated[str, AfterValidator(_check_event), Field(json_schema_extra={"enum": _EVENT_NAMES})]
Events = Annotated[list[Event], Field(min_length=1, max_length=50), AfterValidator(_check_unique)]
Channels = Annotated[
    list[Reference], Field(min_length=1, max_length=20, description="By name or id."), AfterValidator(_check_unique)
]
NamePattern = Annotated[
    str, Field(max_length=63, description="A name, in which `*` stands for anything."), AfterValidator(_check_names)
]
Threshold = Annotated[int, Field(ge=1, le=1_000, description="Tell after so many beginnings within `within_s`.")]
Within = Annotated[int, Field(ge=60, le=7 * _DAY_S)]
For = Annotated[int, Field(ge=0, le=7 * _DAY_S, description="Tell when it has lasted so long (seconds).")]
Cooldown = Annotated[
    int,
    Field(ge=COOLDOWN_MIN_S, le=7 * _DAY_S, description="The pause after each message about one subject (seconds)."),
]


class MessageRuleIn(RequestModel):
    """The events that become messages, the conditions for that, and the channels that get them."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Name
    enabled: bool = True
    events: Events
    fleet: NamePattern | None = None
    pool: NamePattern | None = None
    exit: NamePattern | None = None
    threshold: Threshold = 1
    within_s: Within = 3_600
    for_s: For = 0
    cooldown_s: Cooldown = 300
    recovery: bool = Field(True, description="Tell when all is over.")
    channels: Channels


class MessageRulePatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"cooldown_s": 900}]})

    name: Name = Field(default_factory=absent)
    enabled: bool = Field(default_factory=absent)
    events: Events = Field(default_factory=absent)
    fleet: NamePattern | None = Field(default_factory=absent)
    pool: NamePattern | None = Field(default_factory=absent)
    exit: NamePattern | None = Field(default_factory=absent)
    threshold: Threshold = Field(default_factory=absent)
    within_s: Within = Field(default_factory=absent)
    for_s: For = Field(default_factory=absent)
    cooldown_s: Cooldown = Field(default_factory=absent)
    recovery: bool = Field(default_factory=absent)
    channels: Channels = Field(default_factory=absent)


class MessageRuleQuery(ListQuery):
    name: Pattern | None = None
    enabled: bool | None = None


class MessageRuleOut(ResponseModel):
    id: UUID
    name: str
    enabled: bool
    events: list[str]
    fleet: str | None
    pool: str | None
    exit: str | None
    threshold: int
    within_s: int
    for_s: int
    cooldown_s: int
    recovery: bool
    channels: list[str] = Field(description="Names, in alphabetical order.")
    created_at: datetime
