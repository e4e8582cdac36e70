"""Requests and responses of /join-tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from api.http.field_types import Name, Reference, RequestModel, ResponseModel
from api.http.validators import bad_value
from api.kernel.collections.schemas import FleetListQuery
from model.entities import Role
from model.token_rights import LIFETIME, LIFETIME_MAX, USES_MAX

TokenState = Literal["valid", "used-up", "expired", "revoked"]
_EXAMPLE: dict[str, Any] = {"name": "berlin-rack-2", "fleet": "demo", "role": "exit", "uses": 4, "expires_in_s": 7200}


class JoinTokenIn(RequestModel):
    """The right to register proxies of one role in one fleet: one proxy within an hour, unless more is asked for."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Name | None = Field(None, description="A name for lists and the audit; null: that of the proxy, or the role.")
    fleet: Reference
    role: Literal["exit", "gateway"]
    proxy: Name | None = Field(None, description="The only name that may register; null: any free name.")
    takes_over: bool = Field(
        default=False,
        description="The registration may take over `proxy`'s name from another key, which ends that key's certificates at once. "
        "Such a token is good for one registration.",
    )
    uses: Annotated[int, Field(ge=1, le=USES_MAX)] | None = Field(
        1, description="The number of registrations; null: any number until the token expires."
    )
    expires_in_s: Annotated[int, Field(ge=1, le=int(LIFETIME_MAX.total_seconds()))] = Field(
        int(LIFETIME.total_seconds()), description="The lifetime in seconds, 30 days at most."
    )

    @model_validator(mode="after")
    def _check_takeover(self) -> Self:
        if self.takes_over and self.proxy is None:
            raise bad_value("takeover_without_proxy", "a takeover needs a name", "send `proxy`, the name to take over")
        if self.takes_over and self.uses != 1:
            raise bad_value("takeover_of_many_uses", "a takeover is one registration", "leave `uses` out")
        return self


class JoinTokenPatch(RequestModel):
    """Tokens are not changed."""


class JoinTokenQuery(FleetListQuery):
    role: Role | None = None


class JoinTokenOut(ResponseModel):
    id: UUID
    name: str
    fleet: str
    fleet_id: UUID
    role: Role
    proxy: str | None = Field(description="The only name that may register; null: any free name.")
    takes_over: bool
    state: TokenState = Field(description="Only a valid token lets a proxy register.")
    uses: int | None = Field(description="The number of registrations; null: any number.")
    uses_left: int | None = Field(description="The registrations that are left; null: any number.")
    expires_at: datetime
    revoked_at: datetime | None
    created_at: datetime
    created_by: UUID | None = Field(description="The operator; null: the control plane, for a container.")
    last_used_at: datetime | None
    last_used_by: str | None = Field(description="The name of the proxy that registered last.")
    token: str | None = Field(
        None,
        description="The token, for `exitplane agent --token-file`. Only in the reply that creates it; null later, and in replies "
        "repeated under an Idempotency-Key.",
    )
