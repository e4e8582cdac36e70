"""Who calls, and what they may: roles, the fleets that they are for, and an API key's scopes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import Depends, Request

from api.http.problems import Problem
from api.kernel.roles import OperatorRole
from model.audit_log import Actor

_RANK: Final[Mapping[OperatorRole, int]] = {
    OperatorRole.VIEWER: 0,
    OperatorRole.OPERATOR: 1,
    OperatorRole.ADMIN: 2,
}
STATE_KEY: Final = "exitplane.caller"
"""Where in an ASGI scope the guard leaves the caller."""
_OF_ADMINS = frozenset({"operators", "audit-events"})
"""Collections that only admins of all fleets see."""
_OF_EVERYBODY = frozenset({"api-keys"})
"""Collections in which a caller may write what is their own."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An operator who proved to be one, maybe by way of an API key, which may have less rights than its owner."""

    operator_id: UUID
    role: OperatorRole
    fleets: frozenset[UUID] | None = None
    """The fleets that the caller is for; None: all."""
    api_key_id: UUID | None = None
    scopes: frozenset[str] | None = None
    """`collection:read` and `collection:write`; None: all that the role may."""
    session_id: UUID | None = None
    """The login; None for API keys."""
    expires_at: datetime | None = None
    """When the API key expires; None: never, or there is none."""

    @property
    def actor(self) -> Actor:
        return Actor(self.operator_id, self.api_key_id)

    @property
    def is_global_admin(self) -> bool:
        return self.role is OperatorRole.ADMIN and self.fleets is None

    def sees(self, fleet_id: UUID) -> bool:
        """Whether a fleet and what is in it exist for the caller."""
        return self.fleets is None or fleet_id in self.fleets

    def refusal(self, collection: str, *, write: bool) -> Problem | None:
        """Why the caller may not read a collection (or write to it); None: they may."""
        scope = f"{collection}:{'write' if write else 'read'}"
        if self.scopes is not None and scope not in self.scopes:
            return Problem(403, "out_of_scope", f"the API key has no scope {scope}", hint="use a key that has it")
        if collection in _OF_ADMINS and not self.is_global_admin:
            return Problem(403, "not_allowed", f"only admins of all fleets see {collection}", hint="ask an admin")
        if write and collection not in _OF_EVERYBODY and self.role is OperatorRole.VIEWER:
            return Problem(403, "not_allowed", "a viewer changes nothing", hint="ask an admin for the role operator")
        return None

    def demand_all_fleets(self, what: str) -> None:
        """Raises Problem (403) when the caller is for some fleets only."""
        if self.fleets is not None:
            raise Problem(403, "not_allowed", f"{what} takes an operator of all fleets", hint="ask an admin")


def lesser(one: OperatorRole, other: OperatorRole) -> OperatorRole:
    """The role of two that may less."""
    return min(one, other, key=_RANK.__getitem__)


async def authenticate(request: Request) -> Caller:
    """The caller, whom the guard let in. Raises Problem (401) where it lets everybody in."""
    caller: Caller | None = request.scope.get(STATE_KEY)
    if caller is None:
        raise unauthenticated("not_authenticated", "this is for operators", "send Authorization: Bearer and a token")
    return caller


def unauthenticated(code: str, message: str, hint: str, *, error: str | None = None) -> Problem:
    """401, with the challenge that RFC 6750 (section 3) asks for; `error` is its word for a credential that is no good."""
    challenge = 'Bearer realm="exitplane"' + (f', error="{error}"' if error else "")
    return Problem(401, code, message, hint=hint, headers={"WWW-Authenticate": challenge})


class Permission:
    """A dependency that gives the caller if they may read a collection, or write to it."""

    def __init__(self, collection: str, *, write: bool = False) -> None:
        self._collection = collection
        self._write = write

    async def __call__(self, caller: Authenticated) -> Caller:
        problem = caller.refusal(self._collection, write=self._write)
        if problem is not None:
            raise problem
        return caller


Authenticated = Annotated[Caller, Depends(authenticate)]


async def _logged_in(caller: Authenticated) -> Caller:
    if caller.session_id is None:
        raise Problem(403, "needs_login", "an API key cannot do this", hint="log in: POST /api/v1/auth/login")
    return caller


LoggedIn = Annotated[Caller, Depends(_logged_in)]
"""A caller who logged in, and is no program with an API key."""
