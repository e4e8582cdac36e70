"""Logging in and out, and what operators change of their own credentials. None of it makes a revision; all of it is audited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from api.features.auth import second_factor
from api.features.auth.login_throttle import LoginThrottle
from api.features.auth.schemas import (
    KeyOfCaller,
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


async def log_in(context: ApiContext, wish: LoginIn, address: str) -> TokensOut:
    """Raises Problem: 401, or 429 after too many failures."""
    now, signer = context.clock(), await context.auth.signing_key.signer(context.database)
    guesses = LoginThrottle.of(signer, address, wish.name)
    async with context.database.session() as session:
        refusal = await guesses.attempt(session, now)
        is_name = as_id(wish.name) is None and as_reference(wish.name) is not None
        found = await operators.find_named(session, wish.name) if is_name and refusal is None else None
    if refusal is not None:
        raise refusal
    kept = found.password_hash if found else None
    verdict = await context.auth.passwords.check(wish.password, kept)
    async with context.database.session() as session:
        row = await operators.lock(session, found.id) if found else None
        reason = await _refuse(
            session, row, wish, now, right=verdict.right and row is not None and row.password_hash == kept
        )
        if row is not None and reason is None:
            if verdict.renewed is not None:
                row.password_hash = verdict.renewed
            await guesses.succeed(session, now)
            return await begin_session(session, signer, row, now, by="password")
        await append(session, Actor(), [failure(row, reason or "password")])
    if reason == "totp_missing":
        hint = "send `totp` too: what the second factor shows now"
        raise unauthenticated("totp_required", "this operator has a second factor", hint)
    raise unauthenticated("bad_login", "the name, the password or the code is not right", "try again, or ask an admin")


async def _refuse(
    session: AsyncSession, row: OperatorRow | None, wish: LoginIn, now: datetime, *, right: bool
) -> str | None:
    """Why it is no login, as the audit says it; None: it is."""
    if row is None or not right:
        return "password"
    if row.disabled:
        return "disabled"
    if row.totp_secret is None or not second_factor.is_enabled(row):
        return None
    if wish.totp is None:
        return "totp_missing"
    step = second_factor.step_of(row.totp_secret, wish.totp, now)
    if step is None or not await operators.use_totp_step(session, row.id, step):
        return "totp"
    return None


async def begin_session(
    session: AsyncSession, signer: TokenSigner, row: OperatorRow, now: datetime, *, by: str
) -> TokensOut:
    """A session of an operator who proved to be one, and its first tokens."""
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


def failure(row: OperatorRow | None, reason: str) -> AuditEntry:
    """An attempt that failed; whoever it was is not known to be the operator, and an unknown name is not repeated."""
    return AuditEntry("login_failed", _KIND, str(row.id) if row else None, detail={"reason": reason})


async def refresh(context: ApiContext, refresh_token: str) -> TokensOut:
    """New tokens for a refresh token. Raises Problem (401); one that was used before ends its session."""
    now, signer = context.clock(), await context.auth.signing_key.signer(context.database)
    try:
        session_id = signer.read_refresh(refresh_token)
    except BadToken as error:
        raise unauthenticated(
            "bad_refresh_token", "this is no refresh token of this control plane", "log in"
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
        raise unauthenticated("operator_disabled", "this operator is disabled", "ask an admin")
    message = "this refresh token was used before; in case it was stolen, its session has ended"
    raise unauthenticated("refresh_token_reused", message, "log in again")


async def log_out(context: ApiContext, caller: Caller, session_id: UUID) -> None:
    async with context.database.session() as session:
        if await logins.end_session(session, session_id):
            await _audit(session, caller, "logout", session=str(session_id))


async def show(context: ApiContext, caller: Caller) -> MeOut:
    async with context.database.session() as session:
        row = await _own(session, caller)
        key = await operators.find_key(session, caller.api_key_id) if caller.api_key_id else None
    return MeOut(
        id=row.id,
        name=row.name,
        role=caller.role,
        fleets=None if caller.fleets is None else sorted(caller.fleets),
        has_password=row.password_hash is not None,
        has_totp=second_factor.is_enabled(row),
        api_key=key and KeyOfCaller(id=key.id, name=key.name, scopes=key.scopes, expires_at=key.expires_at),
    )


async def change_password(context: ApiContext, caller: Caller, wish: PasswordIn, address: str) -> None:
    """Raises Problem: 403 for a wrong old one, 409 for who has none, 422 for a weak one, 429."""
    async with context.database.session() as session:
        row = await _own(session, caller)
    if row.password_hash is None:
        raise Problem(409, "no_password", "this operator has no password", hint="ask an admin to set one")
    refuse_weak(wish.new, row.name, "/new")
    await _demand_password(context, caller, wish.old, address)
    made = await context.auth.passwords.make(wish.new)

    async def change(session: AsyncSession, locked: OperatorRow) -> None:
        if locked.password_hash != row.password_hash:
            raise Problem(409, "changed_meanwhile", "the password was changed meanwhile", hint="try with the new one")
        locked.password_hash = made
        await logins.end_sessions(session, locked.id, but=caller.session_id)
        await _audit(session, caller, "password_changed")

    await _change(context, caller, change)


async def start_totp(context: ApiContext, caller: Caller) -> TotpOut:
    """A secret for a second factor, which counts once a code of it was sent. Raises Problem (409) when there is one."""
    secret = second_factor.new_secret()
    names: list[str] = []

    async def change(_: AsyncSession, row: OperatorRow) -> None:
        if second_factor.is_enabled(row):
            raise Problem(409, "totp_enabled", "there is a second factor", hint="remove it first: DELETE")
        row.totp_secret, row.totp_step = secret, None
        names.append(row.name)

    await _change(context, caller, change)
    return TotpOut(secret=secret, uri=second_factor.uri_of(secret, names[0]))


async def confirm_totp(context: ApiContext, caller: Caller, code: str) -> None:
    """From now on a login takes a code. Raises Problem: 403 for a wrong one, 409 when none was started."""
    now = context.clock()

    async def change(session: AsyncSession, row: OperatorRow) -> None:
        if row.totp_secret is None or row.totp_step is not None:
            raise Problem(409, "totp_not_started", "no second factor waits for this", hint="POST /api/v1/auth/totp")
        step = second_factor.step_of(row.totp_secret, code, now)
        if step is None:
            raise _bad_code()
        row.totp_step = step
        await _audit(session, caller, "totp_enabled")

    await _change(context, caller, change)


async def remove_totp(context: ApiContext, caller: Caller, wish: TotpRemovalIn, address: str) -> None:
    """Raises Problem: 403 for a wrong password or code, 409 when there is none, 429."""
    async with context.database.session() as session:
        row = await _own(session, caller)
    if row.totp_secret is None:
        raise Problem(409, "no_totp", "this operator has no second factor", hint="nothing is to be done")
    if wish.password is not None:
        await _demand_password(context, caller, wish.password, address)
    else:
        await _demand_code(context, caller, wish.code or "", address)

    async def change(session: AsyncSession, locked: OperatorRow) -> None:
        locked.totp_secret = locked.totp_step = None
        await _audit(session, caller, "totp_disabled")

    await _change(context, caller, change)


async def _demand_password(context: ApiContext, caller: Caller, password: str, address: str) -> None:
    """Raises Problem: 403 unless it is the caller's, 429 after too many failures."""
    row, guesses = await _guess(context, caller, address)
    verdict = await context.auth.passwords.check(password, row.password_hash)
    if not verdict.right:
        raise Problem(403, "bad_password", "the password is not right", hint="send the one that you log in with")
    await _succeed(context, guesses)


async def _demand_code(context: ApiContext, caller: Caller, code: str, address: str) -> None:
    """The same for a code of the second factor."""
    row, guesses = await _guess(context, caller, address)
    step = second_factor.step_of(row.totp_secret or "", code, context.clock())
    async with context.database.session() as session:
        good = step is not None and await operators.use_totp_step(session, row.id, step)
    if not good:
        raise _bad_code()
    await _succeed(context, guesses)


async def _guess(context: ApiContext, caller: Caller, address: str) -> tuple[OperatorRow, LoginThrottle]:
    signer = await context.auth.signing_key.signer(context.database)
    async with context.database.session() as session:
        row = await _own(session, caller)
        guesses = LoginThrottle.of(signer, address, row.name)
        refusal = await guesses.attempt(session, context.clock())
    if refusal is not None:
        raise refusal
    return row, guesses


async def _succeed(context: ApiContext, guesses: LoginThrottle) -> None:
    async with context.database.session() as session:
        await guesses.succeed(session, context.clock())


async def _change(
    context: ApiContext, caller: Caller, change: Callable[[AsyncSession, OperatorRow], Awaitable[None]]
) -> None:
    async with context.database.session() as session:
        row = await operators.lock(session, caller.operator_id)
        if row is None:
            raise _gone()
        await change(session, row)


async def _own(session: AsyncSession, caller: Caller) -> OperatorRow:
    row = await operators.find(session, caller.operator_id)
    if row is None:
        raise _gone()
    return row


async def _audit(session: AsyncSession, caller: Caller, action: str, /, **detail: str) -> None:
    await append(session, caller.actor, [AuditEntry(action, _KIND, str(caller.operator_id), detail=detail)])


def _tokens(signer: TokenSigner, access: AccessToken, refresh_token: str, now: datetime) -> TokensOut:
    return TokensOut(
        access_token=signer.issue_access(access, now),
        expires_in=int(ACCESS_LIFETIME.total_seconds()),
        refresh_token=refresh_token,
    )


def _gone() -> Problem:
    return unauthenticated("session_ended", "the operator was removed meanwhile", "ask an admin")


def _bad_code() -> Problem:
    return Problem(403, "bad_code", "the code is not right, or was used before", hint="send the one that is shown now")
