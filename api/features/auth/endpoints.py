"""The /auth endpoints: login, logout, password, second factor and OIDC."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Cookie, Query, Request, Response
from fastapi.responses import RedirectResponse

from api.features.auth import oidc_login, service
from api.features.auth.oidc_login import COOKIE
from api.features.auth.schemas import LoginIn, MeOut, PasswordIn, RefreshIn, TokensOut, TotpIn, TotpOut, TotpRemovalIn
from api.http.field_types import Text
from api.http.openapi import document_errors, document_operator_errors, document_write_errors
from api.http.paths import BASE_PATH
from api.http.request_body import JsonRoute
from api.kernel.caller import Authenticated, LoggedIn
from api.kernel.context import Context
from api.runtime.tokens import STATE_LIFETIME

router = APIRouter(prefix="/auth", tags=["auth"], route_class=JsonRoute)
_BODY = (400, 413, 415, 422)
_CALLBACK = "/oidc/callback"
_CALLBACK_PARAMETER_MAX = 2_000
CallbackParameter = Annotated[Text | None, Query(max_length=_CALLBACK_PARAMETER_MAX)]


@router.post("/login", responses=document_errors(401, 429, *_BODY))
async def log_in(body: LoginIn, request: Request, response: Response, context: Context) -> TokensOut:
    """Log in with name and password, and with a code if the operator has a second factor.

    After five failures, each further failure doubles the time until the next attempt is allowed.
    """
    _forbid_caching(response)
    return await service.log_in(context, body, _client_address(request))


@router.post("/refresh", responses=document_errors(401, *_BODY))
async def refresh(body: RefreshIn, response: Response, context: Context) -> TokensOut:
    """Exchange a refresh token for new tokens. A refresh token works once; sending it twice ends its session."""
    _forbid_caching(response)
    return await service.refresh(context, body.refresh_token)


@router.post("/logout", status_code=204, responses=document_operator_errors())
async def log_out(context: Context, caller: LoggedIn) -> None:
    """End the session of this access token."""
    assert caller.session_id is not None
    await service.log_out(context, caller, caller.session_id)


@router.get("/me", responses=document_operator_errors())
async def read_me(context: Context, caller: Authenticated) -> MeOut:
    """Show the caller and the rights of this credential."""
    return await service.show(context, caller)


@router.post("/password", status_code=204, responses=document_write_errors(409, 429))
async def change_password(body: PasswordIn, request: Request, context: Context, caller: LoggedIn) -> None:
    """Change the caller's own password. All other sessions of the caller end."""
    await service.change_password(context, caller, body, _client_address(request))


@router.post("/totp", responses=document_operator_errors(409))
async def start_totp(response: Response, context: Context, caller: LoggedIn) -> TotpOut:
    """Create the secret of a second factor. It takes effect after `POST /auth/totp/confirm` with a code."""
    _forbid_caching(response)
    return await service.start_totp(context, caller)


@router.post("/totp/confirm", status_code=204, responses=document_write_errors(409))
async def confirm_totp(body: TotpIn, context: Context, caller: LoggedIn) -> None:
    """Enable the second factor that was started. From now on a login needs a code."""
    await service.confirm_totp(context, caller, body.code)


@router.delete("/totp", status_code=204, responses=document_write_errors(409, 429))
async def remove_totp(body: TotpRemovalIn, request: Request, context: Context, caller: LoggedIn) -> None:
    """Remove the second factor. Needs the password or a current code."""
    await service.remove_totp(context, caller, body, _client_address(request))


@router.get("/oidc/login", status_code=302, response_class=RedirectResponse, responses=document_errors(404))
async def begin_oidc(request: Request, context: Context) -> Response:
    """Redirect the browser to the OIDC provider."""
    address, cookie = await oidc_login.begin(context, _callback_url(request))
    response = RedirectResponse(address, 302)
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=int(STATE_LIFETIME.total_seconds()),
        path=f"{BASE_PATH}/auth/oidc",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
    _forbid_caching(response)
    return response


@router.get(_CALLBACK, responses=document_errors(401, 403, 404, 409, 422, 429))
async def finish_oidc(
    request: Request,
    response: Response,
    context: Context,
    state: CallbackParameter = None,
    code: CallbackParameter = None,
    error: CallbackParameter = None,
    iss: CallbackParameter = None,
    login: Annotated[str | None, Cookie(alias=COOKIE, include_in_schema=False)] = None,
) -> TokensOut:
    """Complete a login by OIDC: the provider redirects the browser here. Replies with the same tokens as a login."""
    sent = {"state": state, "code": code, "error": error, "iss": iss}
    query = {name: value for name, value in sent.items() if value is not None}
    tokens = await oidc_login.finish(context, query, login, _callback_url(request), _client_address(request))
    response.delete_cookie(COOKIE, path=f"{BASE_PATH}/auth/oidc")
    _forbid_caching(response)
    return tokens


def _client_address(request: Request) -> str:
    return request.client.host if request.client else ""


def _callback_url(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}{BASE_PATH}/auth{_CALLBACK}"


def _forbid_caching(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"  # RFC 6749, section 5.1
