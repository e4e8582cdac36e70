"""The audit as the API shows it."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, Field

from api.features.api_keys.schemas import Moment
from api.http.field_types import Reference, ResponseModel, Text
from api.http.validators import bad_value
from api.kernel.collections.schemas import ListQuery

SEQUENCE_MAX = 2**63 - 1


def _check_cursor(value: str) -> str:
    """What no sequence can be is no cursor; PostgreSQL would not take it."""
    try:
        numbers = [int(part) for part in json.loads(urlsafe_b64decode(value + "=" * (-len(value) % 4)))[1:]]
    except (ValueError, TypeError, RecursionError):
        return value  # whoever reads it says what is wrong
    if any(abs(number) > SEQUENCE_MAX for number in numbers):
        raise bad_value("bad_cursor", "this is no cursor of this list", "send `next` of the page before")
    return value


class AuditQuery(ListQuery):
    cursor: Annotated[str, AfterValidator(_check_cursor)] | None = Field(
        None, max_length=1_000, description="`next` of the page before."
    )
    kind: Annotated[Text, Field(max_length=50, description="Of what: `pool`, `operator`, …")] | None = None
    action: Annotated[Text, Field(max_length=50, description="`created`, `login_failed`, …")] | None = None
    object_id: Annotated[Text, Field(max_length=200)] | None = None
    actor: UUID | None = Field(None, description="The id of the operator who did it.")
    fleet: Reference | None = Field(None, description="The fleet that it was done in, by name, or by id if it is gone.")
    since: Moment | None = Field(None, description="From then on.")
    until: Moment | None = Field(None, description="Before then.")


class AuditEventOut(ResponseModel):
    """Who did what. The chain of hashes is checked by `exitplane audit verify`."""

    sequence: int
    at: datetime
    actor_id: UUID | None = Field(description="The operator; null: nobody that is known, or the control plane itself.")
    api_key_id: UUID | None
    action: str
    kind: str
    object_id: str | None
    fleet_id: UUID | None
    detail: dict[str, Any]
    previous: str = Field(description="The hash of the entry before.")
    hash: str
