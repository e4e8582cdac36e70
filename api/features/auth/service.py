"""Login, logout, and the operators' own credentials. None of it makes a revision; all of it is audited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from api.features.auth import second_factor
from api.features.auth.login_throttle import LoginThrottle
from api.features.auth.schemas import (
    CallerApiKeyOut,
    LoginIn,
    MeOut,
    PasswordIn,
    TokensOut,
    TotpOut,
    TotpRemovalIn,
)
from api.http.field_types import as_id, as_reference
from api.http.problems import Problem
from api.kernel.caller import Caller, unauthenticated
from api.kernel.context import ApiContext
from api.runtime.passwords import refuse_weak
from api.runtime.tokens import ACCESS_LIFETIME, SESSION_LIFETIME, AccessToken, BadToken, TokenSigner, digest_of
from model.audit_log import Actor, AuditEntry, append
from model.repositories import logins, operators
from model.tables import OperatorRow, SessionRow

_KIND = "operator"


async def log_in(context: ApiContext, body: LoginIn, address: str) -> TokensOut:
    """Log in with a password. Raises Problem: 401, or 429 after too many failures."""
    now, signer = context.clock(), await context.auth_state.signing_key.get_signer(context.database)
    throttle = LoginThrottle.of(signer, address, body.name)
    async with context.database.session() as session:
        refusal = await throttle.attempt(session, now)
        is_name = as_id(body.name) is None and as_reference(body.name) is not None
        found = await operators.find_named(session, body.name) if is_name and refusal is None else None
    if refusal is not None:
        raise refusal
    kept = found.password_hash if found else None
    verdict = await context.auth_state.password_hasher.check(body.password, kept)
    async with context.database.session() as session:
        row = await operators.lock(session, found.id) if found else None
        reason = await _refusal_reason(
            session, row, body, now, right=verdict.is_correct and row is not None and row.password_hash == kept
        )
        if row is not None and reason is None:
            if verdict.rehashed is not None:
                row.password_hash = verdict.rehashed
            await throttle.succeed(session, now)
            return await begin_session(session, signer, row, now, by="password")
        await append(session, Actor(), [login_failure(row, reason or "password")])
    if reason == "totp_missing":
        hint = "send `totp` too: the code that the second factor shows now"
        raise unauthenticated("totp_required", "this operator has a second factor", hint)
    raise unauthenticated("bad_login", "the name, the password or the code is wrong", "try again, or ask an admin")


async def _refusal_reason(
    session: AsyncSession, row: OperatorRow | None, body: LoginIn, now: datetime, *, right: bool
) -> str | None:
    """Return the audit's word for a refused login; None when the login succeeds."""
    if row is None or not right:
        return "password"
    if row.disabled:
        return "disabled"
    if row.totp_secret is None or not second_factor.is_enabled(row):
        return None
    if body.totp is None:
        return "totp_missing"
    step = second_factor.step_of(row.totp_secret, body.totp, now)
    if step is None or not await operators.use_totp_step(session, row.id, step):
        return "totp"
    return None


async def begin_session(
    session: AsyncSession, signer: TokenSigner, row: OperatorRow, now: datetime, *, by: str
) -> TokensOut:
    """Begin a session of an authenticated operator, and return its first tokens."""
    session_id = uuid4()
    refresh_token = signer.new_refresh(session_id)
    row.last_login_at = now
    await logins.start_session(
        session,
        SessionRow(
            id=session_id,
            operator_id=row.id,
            refresh_digest=digest_of(refresh_token),
            created_at=now,
            expires_at=now + SESSION_LIFETIME,
        ),
    )
    entry = AuditEntry("login", _KIND, str(row.id), detail={"session": str(session_id), "by": by})
    await append(session, Actor(row.id), [entry])
    return _tokens(signer, AccessToken(row.id, session_id), refresh_token, now)


def login_failure(row: OperatorRow | None, reason: str) -> AuditEntry:
    """Return the audit entry of a failed login. It has no actor, and does not repeat an unknown name."""
    return AuditEntry("login_failed", _KIND, str(row.id) if row else None, detail={"reason": reason})


async def refresh(context: ApiContext, refresh_token: str) -> TokensOut:
    """Exchange a refresh token for new tokens. A token used before ends its session. Raises Problem (401)."""
    now, signer = context.clock(), await context.auth_state.signing_key.get_signer(context.database)
    try:
        session_id = signer.read_refresh(refresh_token)
    except BadToken as error:
        raise unauthenticated(
            "bad_refresh_token", "this is not a refresh token of this control plane", "log in"
        ) from error
    async with context.database.session() as session:
        row = await logins.lock_session(session, session_id)
        owner = await operators.find(session, row.operator_id) if row else None
        if row is None or owner is None or row.expires_at <= now:
            raise unauthenticated("session_ended", "the session of this refresh token has ended", "log in again")
        if row.refresh_digest == digest_of(refresh_token) and not owner.disabled:
            renewed = signer.new_refresh(session_id)
            row.refresh_digest = digest_of(renewed)
            return _tokens(signer, AccessToken(owner.id, session_id), renewed, now)
        await logins.end_session(session, session_id)
        if not owner.disabled:
            entry = AuditEntry("refresh_reused", _KIND, str(owner.id), detail={"session": str(session_id)})
            await append(session, Actor(), [entry])
    if owner.disabled:
        raise unauthenticated("operator_disabled", "this operator is disabled", "ask an admin to enable it")
    message = "this refresh token was used before; it may be stolen, so its session has ended"
    raise unauthenticated("refresh_token_reused", message, "log in again")


async def log_out(context: ApiContext, caller: Caller, session_id: UUID) -> None:
    async with context.database.session() as session:
        if await logins.end_session(session, session_id):
            await _audit(session, caller, "logout", session=str(session_id))


async def show(context: ApiContext, caller: Caller) -> MeOut:
    async with context.database.session() as session:
        row = await _find_operator(session, caller)
        key = await operators.find_key(session, caller.api_key_id) if caller.api_key_id else None
    return MeOut(
        id=row.id,
        name=row.name,
        role=caller.role,
        fleets=None if caller.fleets is None else sorted(caller.fleets),
        has_password=row.password_hash is not None,
        has_totp=second_factor.is_enabled(row),
        api_key=key and CallerApiKeyOut(id=key.id, name=key.name, scopes=key.scopes, expires_at=key.expires_at),
    )


async def change_password(context: ApiContext, caller: Caller, body: PasswordIn, address: str) -> None:
    """Change the password. Raises Problem: 403 for a wrong old one, 409 without an old one, 422 for a weak one, 429."""
    async with context.database.session() as session:
        row = await _find_operator(session, caller)
    if row.password_hash is None:
        raise Problem(409, "no_password", "this operator has no password", hint="ask an admin to set one")
    refuse_weak(body.new, row.name, "/new")
    await _check_password(context, caller, body.old, address)
    made = await context.auth_state.password_hasher.hash(body.new)

    async def change(session: AsyncSession, locked: OperatorRow) -> None:
        if locked.password_hash != row.password_hash:
            raise Problem(
                409, "changed_meanwhile", "the password was changed meanwhile", hint="send the new password as `old`"
            )
        locked.password_hash = made
        await logins.end_sessions(session, locked.id, but=caller.session_id)
        await _audit(session, caller, "password_changed")

    await _change(context, caller, change)


async def start_totp(context: ApiContext, caller: Caller) -> TotpOut:
    """Store a secret that takes effect once confirmed by a code.

    Raises Problem (409) when a second factor is enabled.
    """
    secret = second_factor.new_secret()
    names: list[str] = []

    async def change(_: AsyncSession, row: OperatorRow) -> None:
        if second_factor.is_enabled(row):
            raise Problem(
                409,
                "totp_enabled",
                "this operator has a second factor already",
                hint="remove it first: DELETE /api/v1/auth/totp",
            )
        row.totp_secret, row.totp_step = secret, None
        names.append(row.name)

    await _change(context, caller, change)
    return TotpOut(secret=secret, uri=second_factor.uri_of(secret, names[0]))


async def confirm_totp(context: ApiContext, caller: Caller, code: str) -> None:
    """Enable the second factor that was started. Raises Problem: 403 for a wrong code, 409 when none was started."""
    now = context.clock()

    async def change(session: AsyncSession, row: OperatorRow) -> None:
        if row.totp_secret is None or row.totp_step is not None:
            raise Problem(
                409,
                "totp_not_started",
                "no second factor waits for a confirmation",
                hint="start one: POST /api/v1/auth/totp",
            )
        step = second_factor.step_of(row.totp_secret, code, now)
        if step is None:
            raise _bad_code()
        row.totp_step = step
        await _audit(session, caller, "totp_enabled")

    await _change(context, caller, change)


async def remove_totp(context: ApiContext, caller: Caller, body: TotpRemovalIn, address: str) -> None:
    """Remove the second factor. Raises Problem: 403 for a wrong password or code, 409 when there is none, 429."""
    async with context.database.session() as session:
        row = await _find_operator(session, caller)
    if row.totp_secret is None:
        raise Problem(409, "no_totp", "this operator has no second factor", hint="there is nothing to remove")
    if body.password is not None:
        await _check_password(context, caller, body.password, address)
    else:
        await _check_code(context, caller, body.code or "", address)

    async def change(session: AsyncSession, locked: OperatorRow) -> None:
        locked.totp_secret = locked.totp_step = None
        await _audit(session, caller, "totp_disabled")

    await _change(context, caller, change)


async def _check_password(context: ApiContext, caller: Caller, password: str, address: str) -> None:
    """Check the caller's password. Raises Problem: 403 if it is wrong, 429 after too many failures."""
    row, throttle = await _count_attempt(context, caller, address)
    verdict = await context.auth_state.password_hasher.check(password, row.password_hash)
    if not verdict.is_correct:
        raise Problem(403, "bad_password", "the password is wrong", hint="send the password that you log in with")
    await _succeed(context, throttle)


async def _check_code(context: ApiContext, caller: Caller, code: str, address: str) -> None:
    """Check a code of the second factor. Raises Problem: 403 if it is wrong, 429 after too many failures."""
    row, throttle = await _count_attempt(context, caller, address)
    step = second_factor.step_of(row.totp_secret or "", code, context.clock())
    async with context.database.session() as session:
        good = step is not None and await operators.use_totp_step(session, row.id, step)
    if not good:
        raise _bad_code()
    await _succeed(context, throttle)


async def _count_attempt(context: ApiContext, caller: Caller, address: str) -> tuple[OperatorRow, LoginThrottle]:
    signer = await context.auth_state.signing_key.get_signer(context.database)
    async with context.database.session() as session:
        row = await _find_operator(session, caller)
        throttle = LoginThrottle.of(signer, address, row.name)
        refusal = await throttle.attempt(session, context.clock())
    if refusal is not None:
        raise refusal
    return row, throttle


async def _succeed(context: ApiContext, throttle: LoginThrottle) -> None:
    async with context.database.session() as session:
        await throttle.succeed(session, context.clock())


async def _change(
    context: ApiContext, caller: Caller, change: Callable[[AsyncSession, OperatorRow], Awaitable[None]]
) -> None:
    async with context.database.session() as session:
        row = await operators.lock(session, caller.operator_id)
        if row is None:
            raise _operator_removed()
        await change(session, row)


async def _find_operator(session: AsyncSession, caller: Caller) -> OperatorRow:
    row = await operators.find(session, caller.operator_id)
    if row is None:
        raise _operator_removed()
    return row


async def _audit(session: AsyncSession, caller: Caller, action: str, /, **detail: str) -> None:
    await append(session, caller.actor, [AuditEntry(action, _KIND, str(caller.operator_id), detail=detail)])


def _tokens(signer: TokenSigner, access: AccessToken, refresh_token: str, now: datetime) -> TokensOut:
    return TokensOut(
        access_token=signer.issue_access(access, now),
        expires_in=int(ACCESS_LIFETIME.total_seconds()),
        refresh_token=refresh_token,
    )


def _operator_removed() -> Problem:
    return unauthenticated("session_ended", "the operator was removed meanwhile", "ask an admin")


def _bad_code() -> Problem:
    return Problem(403, "bad_code", "the code is wrong, or was used before", hint="send the code that is shown now")
