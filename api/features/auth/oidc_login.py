"""Login by OIDC: an account at the provider begins a session of the operator that it is bound to."""

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
from api.features.auth.service import begin_session, login_failure
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


async def begin(context: ApiContext, callback_url: str) -> tuple[str, str]:
    """Return the provider's login URL, and the cookie that the browser has to bring back. Raises Problem: 404, 503."""
    provider, signer = await _provider(context)
    state = signer.issue_state(context.clock())
    try:
        address = await provider.build_login_url(
            signer, state, provider.settings.redirect_uri or callback_url, context.clock()
        )
    except ProviderUnavailable as error:
        raise _unavailable(error) from error
    return address, signer.derive("oidc cookie", state)


async def finish(
    context: ApiContext, query: Mapping[str, str], cookie: str | None, callback_url: str, address: str
) -> TokensOut:
    """Exchange the callback's query for tokens.

    Raises Problem: 401, 403 for an account without operator, 404, 429, 503.
    """
    provider, signer = await _provider(context)
    now = context.clock()
    throttle = LoginThrottle.of(signer, address)
    async with context.database.session() as session:
        refusal = await throttle.attempt(session, now)
    if refusal is not None:
        raise refusal
    try:
        state, code = _read(provider, signer, query, cookie, now)
        account = await provider.fetch_account(signer, state, code, provider.settings.redirect_uri or callback_url, now)
    except LoginRefused as error:
        log.info("auth.oidc_refused", reason=str(error))
        async with context.database.session() as session:
            await append(session, Actor(), [login_failure(None, "oidc")])
        raise unauthenticated("oidc_refused", str(error), "begin again: GET /api/v1/auth/oidc/login") from error
    except ProviderUnavailable as error:
        raise _unavailable(error) from error
    async with context.database.session() as session:
        row = await operators.find_by_subject(session, account.subject) or await _provision(session, account, now)
        if row is not None and not row.disabled:
            await throttle.succeed(session, now)
            return await begin_session(session, signer, row, now, by="oidc")
        await append(session, Actor(), [login_failure(row, "disabled" if row else "not_bound")])
    if row is not None:
        raise unauthenticated("operator_disabled", "this operator is disabled", "ask an admin to enable it")
    message = f"the account {account.subject} is bound to no operator"
    raise Problem(403, "account_not_bound", message, hint="ask an admin to set it as an operator's oidc_subject")


def _read(
    provider: OidcProvider, signer: TokenSigner, query: Mapping[str, str], cookie: str | None, now: datetime
) -> tuple[str, str]:
    """Return state and code. Raises LoginRefused unless this browser began the login and the provider accepted it."""
    state, code = query.get("state", ""), query.get("code", "")
    try:
        signer.check_state(state, now)
    except BadToken as error:
        raise LoginRefused("the login was not begun at this control plane") from error
    except TokenExpired as error:
        raise LoginRefused("the login was begun too long ago") from error
    if not compare_digest((cookie or "").encode(), signer.derive("oidc cookie", state).encode()):
        # login CSRF: an attacker could finish a login of their own in the victim's browser
        raise LoginRefused("the login was begun in another browser")
    if query.get("iss", provider.settings.issuer) != provider.settings.issuer:
        raise LoginRefused(f"the answer is from another provider, {query['iss'][:100]}")  # RFC 9207
    if "error" in query or not code:
        raise LoginRefused(f"the provider refused the login ({query.get('error', 'no code')[:100]})")
    return state, code


async def _provision(session: AsyncSession, account: OidcAccount, now: datetime) -> OperatorRow | None:
    """Create an operator for an account whose claims map to a role; None for other accounts."""
    if account.role is None:
        return None
    name = account.name
    if await operators.find_named(session, name):
        name = f"{name}-{secrets.token_hex(3)}"
    row = OperatorRow(name=name, role=account.role, oidc_subject=account.subject, created_at=now)
    taken = Problem(
        409,
        "changed_meanwhile",
        "another operator with this name or account was created meanwhile",
        hint="log in again",
    )
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
        message = "OIDC is not configured here: operators log in with a password"
        raise Problem(
            404, "oidc_not_configured", message, hint="use POST /api/v1/auth/login, or set EXITPLANE_OIDC_ISSUER"
        )
    return provider, await context.auth_state.signing_key.get_signer(context.database)


def _unavailable(error: ProviderUnavailable) -> Problem:
    log.warning("auth.oidc_unavailable", reason=str(error))
    return Problem(
        503,
        "oidc_unavailable",
        "the OIDC provider does not answer, or not as the protocol demands",
        hint="try again, or read the control plane's log",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
