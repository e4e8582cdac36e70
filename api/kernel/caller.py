"""The caller of a request and their permissions: role, fleets and the scopes of an API key."""

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
"""The key of the caller in an ASGI scope, which the middleware sets."""
_ADMIN_COLLECTIONS = frozenset({"operators", "audit-events"})
"""Collections that only admins of all fleets see."""
_ALL_FLEETS_COLLECTIONS = frozenset({"channels", "message-rules", "messages"})
"""Collections that belong to the installation: messages tell of all fleets, and channels let the control plane dial addresses."""
_OWN_COLLECTIONS = frozenset({"api-keys"})
"""Collections in which every caller may write their own items."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated operator. An API key may have fewer permissions than its owner."""

    operator_id: UUID
    role: OperatorRole
    fleets: frozenset[UUID] | None = None
    """The fleets that the caller is limited to; None: all fleets."""
    api_key_id: UUID | None = None
    scopes: frozenset[str] | None = None
    """`collection:read` and `collection:write`; None: all that the role allows."""
    session_id: UUID | None = None
    """The login; None for API keys."""
    expires_at: datetime | None = None
    """The expiry of the API key; None: it never expires, or there is no key."""

    @property
    def actor(self) -> Actor:
        return Actor(self.operator_id, self.api_key_id)

    @property
    def is_global_admin(self) -> bool:
        return self.role is OperatorRole.ADMIN and self.fleets is None

    def sees(self, fleet_id: UUID) -> bool:
        """Check if the caller sees a fleet and its contents."""
        return self.fleets is None or fleet_id in self.fleets

    def refusal(self, collection: str, *, write: bool) -> Problem | None:
        """Check the permission to read or write a collection; None: the caller has it."""
        scope = f"{collection}:{'write' if write else 'read'}"
        if self.scopes is not None and scope not in self.scopes:
            return Problem(403, "out_of_scope", f"the API key has no scope {scope}", hint="use a key that has it")
        if collection in _ADMIN_COLLECTIONS and not self.is_global_admin:
            return Problem(403, "not_allowed", f"only admins of all fleets see {collection}", hint="ask an admin")
        if collection in _ALL_FLEETS_COLLECTIONS and self.fleets is not None:
            return Problem(403, "not_allowed", f"only operators of all fleets see {collection}", hint="ask an admin")
        if write and collection not in _OWN_COLLECTIONS and self.role is OperatorRole.VIEWER:
            return Problem(403, "not_allowed", "a viewer may change nothing", hint="ask an admin for the role operator")
        return None

    def demand_all_fleets(self, what: str) -> None:
        """Raise Problem (403) when the caller is limited to some fleets."""
        if self.fleets is not None:
            raise Problem(403, "not_allowed", f"{what} requires an operator of all fleets", hint="ask an admin")


def lesser(one: OperatorRole, other: OperatorRole) -> OperatorRole:
    """Return the role with fewer permissions."""
    return min(one, other, key=_RANK.__getitem__)


async def authenticate(request: Request) -> Caller:
    """Get the caller, whom the middleware has authenticated. Raises Problem (401) on public routes."""
    caller: Caller | None = request.scope.get(STATE_KEY)
    if caller is None:
        raise unauthenticated("not_authenticated", "this is for operators", "send Authorization: Bearer with a token")
    return caller


def unauthenticated(code: str, message: str, hint: str, *, error: str | None = None) -> Problem:
    """Make a 401 with the challenge of RFC 6750, section 3. `error` is the RFC's code for a credential that is not valid."""
    challenge = 'Bearer realm="exitplane"' + (f', error="{error}"' if error else "")
    return Problem(401, code, message, hint=hint, headers={"WWW-Authenticate": challenge})


class Permission:
    """A dependency that returns the caller if they may read (or write) a collection."""

    def __init__(self, collection: str, *, write: bool = False) -> None:
        self._collection = collection
        self._write = write

    async def __call__(self, caller: Authenticated) -> Caller:
        problem = caller.refusal(self._collection, write=self._write)
        if problem is not None:
            raise problem
        return caller


Authenticated = Annotated[Caller, Depends(authenticate)]


async def _require_login(caller: Authenticated) -> Caller:
    if caller.session_id is None:
        raise Problem(
            403, "needs_login", "this requires a login, and not an API key", hint="log in: POST /api/v1/auth/login"
        )
    return caller


LoggedIn = Annotated[Caller, Depends(_require_login)]
"""A caller who logged in. API keys are refused."""
