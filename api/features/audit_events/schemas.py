"""Queries and responses of /audit-events."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, Field

from api.http.field_types import Moment, Reference, ResponseModel, Text
from api.http.validators import bad_value
from api.kernel.collections.schemas import ListQuery

SEQUENCE_MAX = 2**63 - 1


def _check_cursor(value: str) -> str:
    """Refuse a cursor with a number beyond a bigint, which PostgreSQL would not accept."""
    try:
        numbers = [int(part) for part in json.loads(urlsafe_b64decode(value + "=" * (-len(value) % 4)))[1:]]
    except (ValueError, TypeError, RecursionError):
        return value  # the listing refuses it with its own error
    if any(abs(number) > SEQUENCE_MAX for number in numbers):
        raise bad_value("bad_cursor", "this is not a cursor of this list", "send `next` of the previous page")
    return value


class AuditQuery(ListQuery):
    cursor: Annotated[str, AfterValidator(_check_cursor)] | None = Field(
        None, max_length=1_000, description="`next` of the previous page."
    )
    kind: Annotated[Text, Field(max_length=50, description="The kind of object: `pool`, `operator`, …")] | None = None
    action: Annotated[Text, Field(max_length=50, description="The action: `created`, `login_failed`, …")] | None = None
    object_id: Annotated[Text, Field(max_length=200)] | None = None
    actor: UUID | None = Field(None, description="The id of the operator who acted.")
    fleet: Reference | None = Field(
        None, description="The fleet concerned, by name or id. A deleted fleet is found by its id."
    )
    since: Moment | None = Field(None, description="Only events at or after this time.")
    until: Moment | None = Field(None, description="Only events before this time.")


class AuditEventOut(ResponseModel):
    """One audited action. `exitplane audit verify` checks the chain of hashes."""

    sequence: int
    at: datetime
    actor_id: UUID | None = Field(
        description="The operator who acted; null: an unknown caller, or the control plane itself."
    )
    api_key_id: UUID | None
    action: str
    kind: str
    object_id: str | None
    fleet_id: UUID | None
    detail: dict[str, Any]
    previous: str = Field(description="The hash of the previous event.")
    hash: str
