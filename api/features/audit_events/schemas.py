"""Queries and responses of /audit-events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from api.http.field_types import Moment, Reference, ResponseModel, Text
from api.kernel.collections.schemas import NumberedListQuery


class AuditQuery(NumberedListQuery):
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
