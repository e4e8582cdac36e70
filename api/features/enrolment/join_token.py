"""The right to register: a join token, the key that owns a name, or a token that lets another key take the name over.

See docs/decisions/0037-a-name-belongs-to-its-key.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.http.field_errors import FieldError
from api.http.problems import Problem
from model import request_signature
from model.entities import Role
from model.repositories import enrolment, join_tokens
from model.request_signature import BadSignature
from model.tables import JoinTokenRow, ProxyRow

_NEW_ONE: Final = "ask an operator for a new one: `exitplane token create`"
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="join token"'}


class TokenRefused(Problem):
    """The refusal of a registration with a token that exists, which the audit should have."""

    def __init__(self, token: JoinTokenRow, status: int, code: str, error: FieldError) -> None:
        super().__init__(status, code, error.message, errors=[error], headers=_CHALLENGE if status == 401 else None)
        self.token_id = id_of(token)
        self.fleet_id = token.fleet_id


class Claim(Enum):
    """The reason for which a registration may have the name that it states."""

    FREE = auto()
    """No key has the name yet."""
    OWN = auto()
    """The request is signed with a key that has the name."""
    TAKEOVER = auto()
    """The token lets another key take over the name."""


@dataclass(frozen=True, slots=True)
class RegistrationRequest:
    """The parts of a request that its signature covers, and its sender's IP address."""

    path: str
    body: bytes
    authorization: str | None
    peer: str

    def signed_at(self, public_key_pem: str, now: datetime) -> datetime | None:
        """Return the time of a recent signature of this key, made as for a heartbeat; None if the request carries none."""
        try:
            claim = request_signature.read(self.authorization)
            return request_signature.verify(claim, public_key_pem, self.path, self.body, now)
        except (BadSignature, TypeError, ValueError, OverflowError, RecursionError):
            return None


async def check_token(session: AsyncSession, secret: str, role: Role, name: str, now: datetime) -> JoinTokenRow:
    """Find the token of a registration.

    Raises Problem: 401 for one that is unknown, expired or revoked, 403 for one of another role or name. Uses are counted
    later, by `join_tokens.use`.
    """
    token = await join_tokens.find(session, secret)
    if token is None:
        message = "the join token is unknown"
        raise Problem(
            401, "bad_join_token", message, errors=[FieldError("/join_token", message, _NEW_ONE)], headers=_CHALLENGE
        )
    if token.revoked_at is not None:
        error = FieldError("/join_token", "the join token was revoked", _NEW_ONE)
        raise TokenRefused(token, 401, "join_token_revoked", error)
    if token.expires_at <= now:
        error = FieldError("/join_token", "the join token has expired", _NEW_ONE)
        raise TokenRefused(token, 401, "join_token_expired", error)
    if token.role != role:
        message = f"the join token is for the role {token.role}, not {role}"
        hint = f"ask an operator for a token for the role {role}"
        raise TokenRefused(token, 403, "join_token_of_another_role", FieldError("/join_token", message, hint))
    if token.proxy_name not in (None, name):
        message = f"the join token is for a proxy of another name, not {name}"
        error = FieldError("/name", message, "use the name that the token was created for", name)
        raise TokenRefused(token, 403, "join_token_of_another_name", error)
    return token


async def claim_name(
    session: AsyncSession, token: JoinTokenRow, proxy: ProxyRow | None, request: RegistrationRequest, now: datetime
) -> Claim:
    """Decide whether a registration may have the name of `proxy`, which is locked; None: nobody has the name.

    Raises Problem (409) when another key has it, and the token does not take it over.
    """
    keys = [] if proxy is None else await enrolment.public_keys_of(session, proxy)
    if proxy is None or not keys:
        return Claim.FREE
    if any(request.signed_at(key, now) for key in keys):
        return Claim.OWN
    if token.takes_over:
        return Claim.TAKEOVER
    message = f"{proxy.role} {proxy.name} is enrolled with another key"
    hint = (
        f"if {proxy.name} was installed anew, an operator runs `exitplane token create --role {proxy.role} --fleet FLEET "
        f"--takes-over {proxy.name}`, and the new agent registers with that token; otherwise choose another --name"
    )
    raise TokenRefused(token, 409, "name_in_use", FieldError("/name", message, hint, proxy.name))


async def use_token(session: AsyncSession, token: JoinTokenRow, proxy_name: str, now: datetime) -> None:
    """Count a registration. Raises Problem (409) when the token has no use left."""
    if not await join_tokens.use(session, id_of(token), proxy_name, now):
        error = FieldError("/join_token", "the join token is used up", _NEW_ONE)
        raise TokenRefused(token, 409, "join_token_used_up", error)


def id_of(token: JoinTokenRow) -> UUID:
    """Return the id of a token that `join_tokens.find` or `join_tokens.create` returned."""
    assert token.id is not None, "only tokens of release 0.1.0 have none, and they are never found"
    return token.id
