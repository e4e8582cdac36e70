"""The credentials of commands: an API key from the environment, or the tokens of `exitplane login`."""

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
"""A token that expires within this time is renewed before it is used."""
T = TypeVar("T")


class BadCredentials(ExitplaneError):
    code = "bad_credentials"


@dataclass(frozen=True, slots=True)
class Login:
    """The tokens for one API; `expires_at` is in seconds since the epoch."""

    access_token: str
    refresh_token: str
    expires_at: float

    @classmethod
    def of(cls, tokens: TokensOut) -> Login:
        return cls(tokens.access_token, tokens.refresh_token, time.time() + tokens.expires_in)


def authorization(api: str) -> str | None:
    """Return the value of the Authorization header for an API; None without any credential.

    EXITPLANE_API_KEY wins over the file of EXITPLANE_API_KEY_FILE, and that over the login, whose tokens go only to the API
    that issued them. Raises BadCredentials, ApiUnreachable.
    """
    key = os.environ.get("EXITPLANE_API_KEY")
    if key:
        return f"Bearer {key}"
    file = os.environ.get("EXITPLANE_API_KEY_FILE")
    if file:
        return f"Bearer {_read_key(Path(file))}"
    return authorization_of_login(api)


def authorization_of_login(api: str) -> str | None:
    """Return the value of the Authorization header from `exitplane login`, renewed if needed; None without a login."""
    login = _read().get(normalize_url(api))
    if login is None:
        return None
    if login.expires_at - _EARLY_S > time.time():
        return f"Bearer {login.access_token}"
    renewed = _renew(api)
    return f"Bearer {renewed.access_token}" if renewed else None


def store_login(api: str, login: Login | None) -> None:
    """Store the tokens for an API, or remove them for None."""
    with _locked():
        _write(api, login)


def read_login(api: str) -> Login | None:
    """Return the stored tokens for an API, expired or not."""
    return _read().get(normalize_url(api))


def call_api(api: str, do: Callable[[Client], Awaitable[T]], authorization: str | None = None) -> T:
    """Run a coroutine with a client of an API, with this Authorization header or none. Raises ApiUnreachable, ApiRefused."""
    import asyncio

    from client import Client

    async def call() -> T:
        async with Client(normalize_url(api), authorization, ca=api_ca()) as client:
            return await do(client)

    return asyncio.run(call())


def api_ca() -> Path | None:
    """Return the file of EXITPLANE_API_CA, with the authority of the API's certificate; None: the system's."""
    file = os.environ.get("EXITPLANE_API_CA")
    return Path(file) if file else None


def normalize_url(api: str) -> str:
    """Return the URL of an API in the form that is the key of its stored tokens."""
    return api.rstrip("/")


def _renew(api: str) -> Login | None:
    """Renew the tokens for an API. Commands take turns, because a refresh token is valid once."""
    from api.features.auth.schemas import RefreshIn

    with _locked():
        login = _read().get(normalize_url(api))
        if login is None or login.expires_at - _EARLY_S > time.time():
            return login
        try:
            token = RefreshIn(refresh_token=login.refresh_token)
            renewed = Login.of(call_api(api, lambda client: client.auth.refresh(token)))
        except ApiRefused:
            _write(api, None)
            return None
        _write(api, renewed)
        return renewed


def _read_key(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadCredentials(
            f"{path} cannot be read ({error})", hint="set EXITPLANE_API_KEY_FILE to a readable file"
        ) from error


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
        raise BadCredentials(f"{_file()} cannot be read ({error})", hint="remove the file, and log in again") from error


def _write(api: str, login: Login | None) -> None:
    logins = _read()
    logins.pop(normalize_url(api), None)
    if login is not None:
        logins[normalize_url(api)] = login
    partial = _folder() / f".credentials.{os.getpid()}"
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({url: asdict(stored) for url, stored in logins.items()}, file)
    partial.replace(_file())


@contextmanager
def _locked() -> Iterator[None]:
    _folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    with (_folder() / "credentials.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
