"""The authentication of callers by the Authorization header, with at most one statement."""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from api.http.problems import Problem
from api.kernel.caller import Caller, lesser, unauthenticated
from api.kernel.context import ApiContext
from api.kernel.roles import OperatorRole
from api.runtime.tokens import KEY_PREFIX, BadToken, TokenExpired, digest_of
from model.database import DatabaseUnreachable
from model.repositories import operators
from model.repositories.operators import ApiKeyRights, OperatorRights

_BEARER: Final = re.compile(r"bearer +(?P<token>[\x21-\x7e]{1,4096}) *", re.IGNORECASE)
_LOG_IN: Final = "log in (POST /api/v1/auth/login, `exitplane login`), or send an API key, as Authorization: Bearer"
_INIT: Final = "create the first admin with `exitplane init`"
_INVALID: Final = "invalid_token"


async def identify(context: ApiContext, authorization: str | None) -> Caller:
    """Identify the operator of an Authorization header. Raises Problem (401), DatabaseUnreachable."""
    found = _BEARER.fullmatch(authorization or "")
    if found is None:
        raise await _explain_missing(context)
    token = found["token"]
    return await (
        _identify_by_key(context, token) if token.startswith(KEY_PREFIX) else _identify_by_token(context, token)
    )


async def _explain_missing(context: ApiContext) -> Problem:
    try:
        hint = _LOG_IN if await context.auth_state.has_operators(context.database) else _INIT
    except DatabaseUnreachable:
        hint = _LOG_IN
    return unauthenticated("not_authenticated", "this is for operators, and the request has no credential", hint)


async def _identify_by_token(context: ApiContext, token: str) -> Caller:
    now = context.clock()
    signer = await context.auth_state.signing_key.get_signer(context.database)
    try:
        access = signer.read_access(token, now)
    except BadToken as error:
        raise _refused("bad_token", "this is not an access token of this control plane", _LOG_IN) from error
    except TokenExpired as error:
        hint = "get a new one with the refresh token: POST /api/v1/auth/refresh"
        raise _refused("token_expired", "the access token has expired", hint) from error
    rights = await operators.rights_in_session(context.database, access.session_id, access.operator_id, now)
    if rights is None:
        raise _refused("session_ended", "the session of this access token has ended", "log in again")
    role, fleets = _check_rights(rights)
    return Caller(rights.operator_id, role, fleets, session_id=access.session_id)


async def _identify_by_key(context: ApiContext, key: str) -> Caller:
    now = context.clock()
    rights = await operators.rights_of_key(context.database, digest_of(key), now)
    if rights is None:
        raise _refused("bad_api_key", "there is no such API key", "make one: POST /api/v1/api-keys")
    if rights.expires_at is not None and rights.expires_at <= now:
        raise _refused("api_key_expired", "the API key has expired", "make a new one: POST /api/v1/api-keys")
    return _limit_to_key(rights)


def _limit_to_key(key: ApiKeyRights) -> Caller:
    """Make a caller who may do only what both the key and its owner may do now."""
    role, fleets = _check_rights(key.owner)
    if key.fleets is not None:
        fleets = key.fleets if fleets is None else fleets & key.fleets
    return Caller(
        key.owner.operator_id,
        lesser(role, OperatorRole(key.role)),
        fleets,
        api_key_id=key.key_id,
        scopes=key.scopes,
        expires_at=key.expires_at,
    )


def _check_rights(rights: OperatorRights) -> tuple[OperatorRole, frozenset[UUID] | None]:
    if rights.disabled:
        raise _refused("operator_disabled", "this operator is disabled", "ask an admin")
    return OperatorRole(rights.role), rights.fleets


def _refused(code: str, message: str, hint: str) -> Problem:
    return unauthenticated(code, message, hint, error=_INVALID)
