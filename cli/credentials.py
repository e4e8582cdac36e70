"""What the commands show to the API: an API key of the environment, or the tokens of `exitplane login`."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from client.errors import ApiRefused
from model.errors import ExitplaneError

if TYPE_CHECKING:
    from api.features.auth.schemas import TokensOut
    from client import Client

_EARLY_S: Final = 30
"""How long before its end a token is not used any more."""
T = TypeVar("T")


class BadCredentials(ExitplaneError):
    code = "bad_credentials"


@dataclass(frozen=True, slots=True)
class Login:
    """The tokens of one API; `expires_at` in seconds since the epoch."""

    access_token: str
    refresh_token: str
    expires_at: float

    @classmethod
    def of(cls, tokens: TokensOut) -> Login:
        return cls(tokens.access_token, tokens.refresh_token, time.time() + tokens.expires_in)


def authorization(api: str) -> str | None:
    """The Authorization header for an API; None when nobody logged in to it.

    EXITPLANE_API_KEY comes first, then the file of EXITPLANE_API_KEY_FILE, then what `exitplane login` kept for this API alone.
    Raises BadCredentials, ApiUnreachable.
    """
    key = os.environ.get("EXITPLANE_API_KEY")
    if key:
        return f"Bearer {key}"
    file = os.environ.get("EXITPLANE_API_KEY_FILE")
    if file:
        return f"Bearer {_read_key(Path(file))}"
    return authorization_of_login(api)


def authorization_of_login(api: str) -> str | None:
    """The same by `exitplane login` alone."""
    login = _read().get(normal(api))
    if login is None:
        return None
    if login.expires_at - _EARLY_S > time.time():
        return f"Bearer {login.access_token}"
    renewed = _renew(api)
    return f"Bearer {renewed.access_token}" if renewed else None


def keep(api: str, login: Login | None) -> None:
    """Keep the tokens of an API, or forget them."""
    with _locked():
        _write(api, login)


def kept(api: str) -> Login | None:
    """The tokens of an API, as they were kept."""
    return _read().get(normal(api))


def ask(api: str, do: Callable[[Client], Awaitable[T]], authorization: str | None = None) -> T:
    """Ask an API for something on behalf of nobody, or of whom the Authorization header is. Raises ApiUnreachable, ApiRefused."""
    import asyncio

    from client import Client

    async def asked() -> T:
        async with Client(normal(api), authorization) as client:
            return await do(client)

    return asyncio.run(asked())


def normal(api: str) -> str:
    """The URL of an API as tokens are kept by it."""
    return api.rstrip("/")


def _renew(api: str) -> Login | None:
    """New tokens. Two commands at once take turns, for a refresh token is good once."""
    from api.features.auth.schemas import RefreshIn

    with _locked():
        login = _read().get(normal(api))
        if login is None or login.expires_at - _EARLY_S > time.time():
            return login
        try:
            token = RefreshIn(refresh_token=login.refresh_token)
            renewed = Login.of(ask(api, lambda client: client.auth.refresh(token)))
        except ApiRefused:
            _write(api, None)
            return None
        _write(api, renewed)
        return renewed


def _read_key(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadCredentials(f"{path} cannot be read ({error})", hint="correct EXITPLANE_API_KEY_FILE") from error


def _folder() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "exitplane"


def _file() -> Path:
    return _folder() / "credentials.json"


def _read() -> dict[str, Login]:
    try:
        return {api: Login(**login) for api, login in json.loads(_file().read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadCredentials(f"{_file()} cannot be read ({error})", hint="remove it, and log in again") from error


def _write(api: str, login: Login | None) -> None:
    logins = _read()
    logins.pop(normal(api), None)
    if login is not None:
        logins[normal(api)] = login
    partial = _folder() / f".credentials.{os.getpid()}"
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({each: asdict(kept) for each, kept in logins.items()}, file)
    partial.replace(_file())


@contextmanager
def _locked() -> Iterator[None]:
    _folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    with (_folder() / "credentials.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
