"""Logging in by OIDC: an account of the provider's becomes a session of the operator that it is bound to."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from hmac import compare_digest
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from api.features.auth.login_throttle import LoginThrottle
from api.features.auth.schemas import TokensOut
from api.features.auth.service import begin_session, failure
from api.http.problems import RETRY_AFTER_S, Problem, clashes
from api.kernel.caller import unauthenticated
from api.kernel.context import ApiContext
from api.runtime.oauth import LoginRefused, ProviderUnavailable
from api.runtime.oidc import OidcAccount, OidcProvider
from api.runtime.tokens import BadToken, TokenExpired, TokenSigner
from model.audit_log import Actor, AuditEntry, append
from model.repositories import operators
from model.tables import OperatorRow

COOKIE: Final = "exitplane_login"
log = structlog.get_logger()


async def begin(context: ApiContext, here: str) -> tuple[str, str]:
    """Where the browser has to go, and the cookie that it has to come back with. Raises Problem: 404, 503."""
    provider, signer = await _provider(context)
    state = signer.issue_state(context.clock())
    try:
        address = await provider.build_login_url(signer, state, provider.settings.redirect_uri or here, context.clock())
    except ProviderUnavailable as error:
        raise _unavailable(error) from error
    return address, signer.derive("oidc cookie", state)


async def finish(
    context: ApiContext, query: Mapping[str, str], cookie: str | None, here: str, address: str
) -> TokensOut:
    """What the provider sent the browser back with. Raises Problem: 401, 403 for an account of no operator, 404, 429, 503."""
    provider, signer = await _provider(context)
    now = context.clock()
    guesses = LoginThrottle.of(signer, address)
    async with context.database.session() as session:
        refusal = await guesses.attempt(session, now)
    if refusal is not None:
        raise refusal
    try:
        state, code = _read(provider, signer, query, cookie, now)
        account = await provider.fetch_account(signer, state, code, provider.settings.redirect_uri or here, now)
    except LoginRefused as error:
        log.info("auth.oidc_refused", reason=str(error))
        async with context.database.session() as session:
            await append(session, Actor(), [failure(None, "oidc")])
        raise unauthenticated("oidc_refused", str(error), "begin again: GET /api/v1/auth/oidc/login") from error
    except ProviderUnavailable as error:
        raise _unavailable(error) from error
    async with context.database.session() as session:
        row = await operators.find_by_subject(session, account.subject) or await _provision(session, account, now)
        if row is not None and not row.disabled:
            await guesses.succeed(session, now)
            return await begin_session(session, signer, row, now, by="oidc")
        await append(session, Actor(), [failure(row, "disabled" if row else "not_bound")])
    if row is not None:
        raise unauthenticated("operator_disabled", "this operator is disabled", "ask an admin")
    message = f"the account {account.subject} is no operator's"
    raise Problem(403, "account_not_bound", message, hint="ask an admin to set it as an operator's oidc_subject")


def _read(
    provider: OidcProvider, signer: TokenSigner, query: Mapping[str, str], cookie: str | None, now: datetime
) -> tuple[str, str]:
    """The state and the code. Raises LoginRefused unless this browser began the login here, and the provider agreed."""
    state, code = query.get("state", ""), query.get("code", "")
    try:
        signer.check_state(state, now)
    except BadToken as error:
        raise LoginRefused("this login did not begin here") from error
    except TokenExpired as error:
        raise LoginRefused("this login began too long ago") from error
    if not compare_digest((cookie or "").encode(), signer.derive("oidc cookie", state).encode()):
        # whoever leads a browser here with a login of their own would have it act as them
        raise LoginRefused("this login began in another browser")
    if query.get("iss", provider.settings.issuer) != provider.settings.issuer:
        raise LoginRefused("another provider answered")  # RFC 9207
    if "error" in query or not code:
        raise LoginRefused(f"the provider refused it ({query.get('error', 'no code')[:100]})")
    return state, code


async def _provision(session: AsyncSession, account: OidcAccount, now: datetime) -> OperatorRow | None:
    """An operator for an account whose claims are mapped to a role; None for others."""
    if account.role is None:
        return None
    name = account.name
    if await operators.find_named(session, name):
        name = f"{name}-{secrets.token_hex(3)}"
    row = OperatorRow(name=name, role=account.role, oidc_subject=account.subject, created_at=now)
    taken = Problem(409, "changed_meanwhile", "somebody else was made an operator meanwhile", hint="log in again")
    with clashes({"uq_operator_name": taken, "uq_operator_oidc_subject": taken}):
        await operators.save(session, row)
    entry = AuditEntry(
        "created", "operator", str(row.id), detail={"fields": ["name", "oidc_subject", "role"], "by": "oidc"}
    )
    await append(session, Actor(), [entry])
    return row


async def _provider(context: ApiContext) -> tuple[OidcProvider, TokenSigner]:
    provider = context.auth_state.oidc_provider
    if provider is None:
        message = "operators log in by password here"
        raise Problem(404, "oidc_not_configured", message, hint="POST /api/v1/auth/login, or set EXITPLANE_OIDC_ISSUER")
    return provider, await context.auth_state.signing_key.get_signer(context.database)


def _unavailable(error: ProviderUnavailable) -> Problem:
    log.warning("auth.oidc_unavailable", reason=str(error))
    return Problem(
        503,
        "oidc_unavailable",
        "the OIDC provider does not answer as one does",
        hint="try again, or look at the control plane's log",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
