"""Logging in and out: /auth."""

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
_FROM_PROVIDER = 2_000
Said = Annotated[Text | None, Query(max_length=_FROM_PROVIDER)]


@router.post("/login", responses=document_errors(401, 429, *_BODY))
async def log_in(wish: LoginIn, request: Request, response: Response, context: Context) -> TokensOut:
    """Log in by name and password, with a code if there is a second factor.

    After five failures each further one makes the next attempt wait, twice as long each time.
    """
    _keep_out_of_caches(response)
    return await service.log_in(context, wish, _address(request))


@router.post("/refresh", responses=document_errors(401, *_BODY))
async def refresh(wish: RefreshIn, response: Response, context: Context) -> TokensOut:
    """New tokens for a refresh token, which is used up; one that is sent twice ends its session."""
    _keep_out_of_caches(response)
    return await service.refresh(context, wish.refresh_token)


@router.post("/logout", status_code=204, responses=document_operator_errors())
async def log_out(context: Context, caller: LoggedIn) -> None:
    """End this session."""
    assert caller.session_id is not None
    await service.log_out(context, caller, caller.session_id)


@router.get("/me", responses=document_operator_errors())
async def read_me(context: Context, caller: Authenticated) -> MeOut:
    """Who calls, and what they may."""
    return await service.show(context, caller)


@router.post("/password", status_code=204, responses=document_write_errors(409, 429))
async def change_password(wish: PasswordIn, request: Request, context: Context, caller: LoggedIn) -> None:
    """Change one's own password. All other sessions end."""
    await service.change_password(context, caller, wish, _address(request))


@router.post("/totp", responses=document_operator_errors(409))
async def start_totp(response: Response, context: Context, caller: LoggedIn) -> TotpOut:
    """Begin to set up a second factor; it counts once `confirm` was sent a code of it."""
    _keep_out_of_caches(response)
    return await service.start_totp(context, caller)


@router.post("/totp/confirm", status_code=204, responses=document_write_errors(409))
async def confirm_totp(wish: TotpIn, context: Context, caller: LoggedIn) -> None:
    """From now on a login takes a code."""
    await service.confirm_totp(context, caller, wish.code)


@router.delete("/totp", status_code=204, responses=document_write_errors(409, 429))
async def remove_totp(wish: TotpRemovalIn, request: Request, context: Context, caller: LoggedIn) -> None:
    """Remove the second factor, by the password or a code."""
    await service.remove_totp(context, caller, wish, _address(request))


@router.get("/oidc/login", status_code=302, response_class=RedirectResponse, responses=document_errors(404))
async def begin_oidc(request: Request, context: Context) -> Response:
    """Send the browser to the OIDC provider."""
    address, cookie = await oidc_login.begin(context, _callback(request))
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
    _keep_out_of_caches(response)
    return response


@router.get(_CALLBACK, responses=document_errors(401, 403, 404, 409, 422, 429))
async def finish_oidc(
    request: Request,
    response: Response,
    context: Context,
    state: Said = None,
    code: Said = None,
    error: Said = None,
    iss: Said = None,
    login: Annotated[str | None, Cookie(alias=COOKIE, include_in_schema=False)] = None,
) -> TokensOut:
    """Where the OIDC provider sends the browser back: the same tokens as for a password."""
    said = {"state": state, "code": code, "error": error, "iss": iss}
    query = {name: value for name, value in said.items() if value is not None}
    tokens = await oidc_login.finish(context, query, login, _callback(request), _address(request))
    response.delete_cookie(COOKIE, path=f"{BASE_PATH}/auth/oidc")
    _keep_out_of_caches(response)
    return tokens


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _callback(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}{BASE_PATH}/auth{_CALLBACK}"


def _keep_out_of_caches(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"  # RFC 6749, section 5.1
