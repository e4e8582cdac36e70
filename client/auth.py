"""Authentication of operators: login, logout, passwords and second factors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from api.features.auth.schemas import LoginIn, MeOut, PasswordIn, RefreshIn, TokensOut, TotpIn, TotpOut, TotpRemovalIn
from api.http.paths import BASE_PATH
from client.transport import Operation, Transport

_PATH = f"{BASE_PATH}/auth"
_LOG_IN = Operation("log_in", "POST", f"{_PATH}/login", LoginIn, TokensOut, repeatable=False)
_REFRESH = Operation("refresh", "POST", f"{_PATH}/refresh", RefreshIn, TokensOut, repeatable=False)
_LOG_OUT: Operation[None] = Operation("log_out", "POST", f"{_PATH}/logout", None, None, repeatable=False)
_ME = Operation("read_me", "GET", f"{_PATH}/me", None, MeOut)
_PASSWORD: Operation[None] = Operation(
    "change_password", "POST", f"{_PATH}/password", PasswordIn, None, repeatable=False
)
_START_TOTP = Operation("start_totp", "POST", f"{_PATH}/totp", None, TotpOut, repeatable=False)
_CONFIRM_TOTP: Operation[None] = Operation(
    "confirm_totp", "POST", f"{_PATH}/totp/confirm", TotpIn, None, repeatable=False
)
_REMOVE_TOTP: Operation[None] = Operation(
    "remove_totp", "DELETE", f"{_PATH}/totp", TotpRemovalIn, None, repeatable=False
)
_BEGIN_OIDC: Operation[None] = Operation("begin_oidc", "GET", f"{_PATH}/oidc/login", None, None)
_FINISH_OIDC = Operation("finish_oidc", "GET", f"{_PATH}/oidc/callback", None, TokensOut, repeatable=False)


class AuthClient:
    """An operator's own account. Apart from `me` and `begin_oidc`, no request is sent twice: codes and tokens are valid once."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def operations(self) -> Iterator[Operation[Any]]:
        yield from (_LOG_IN, _REFRESH, _LOG_OUT, _ME, _PASSWORD)
        yield from (_START_TOTP, _CONFIRM_TOTP, _REMOVE_TOTP, _BEGIN_OIDC, _FINISH_OIDC)

    async def log_in(self, login: LoginIn) -> TokensOut:
        """Log in with name and password, and return tokens. This client keeps the credential that it was created with."""
        return (await self._transport.send(_LOG_IN, body=login)).value

    async def refresh(self, token: RefreshIn) -> TokensOut:
        """Exchange a refresh token, which is valid once, for new tokens."""
        return (await self._transport.send(_REFRESH, body=token)).value

    async def log_out(self) -> None:
        """End the session of this client's token."""
        await self._transport.send(_LOG_OUT)

    async def me(self) -> MeOut:
        """Read the caller's name, role and fleets."""
        return (await self._transport.send(_ME)).value

    async def change_password(self, passwords: PasswordIn) -> None:
        """Change the caller's password."""
        await self._transport.send(_PASSWORD, body=passwords)

    async def start_totp(self) -> TotpOut:
        """Create the secret of a second factor; `confirm_totp` activates it."""
        return (await self._transport.send(_START_TOTP)).value

    async def confirm_totp(self, code: TotpIn) -> None:
        """Activate the second factor: from now on, a login needs a code."""
        await self._transport.send(_CONFIRM_TOTP, body=code)

    async def remove_totp(self, proof: TotpRemovalIn) -> None:
        """Remove the second factor."""
        await self._transport.send(_REMOVE_TOTP, body=proof)

    async def begin_oidc(self) -> str:
        """Return the URL where a browser logs in. This client keeps the cookie that `finish_oidc` needs."""
        return await self._transport.redirection(_BEGIN_OIDC)

    async def finish_oidc(self, **query: str) -> TokensOut:
        """Return tokens for the query with which the provider redirected the browser."""
        return (await self._transport.send(_FINISH_OIDC, query=query)).value
