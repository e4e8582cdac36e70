"""What the commands show to the API: an API key of the environment, or the tokens of `exitplane login`."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from model.errors import ExitplaneError

_EARLY_S: Final = 30
"""How long before its end a token is not used any more."""
_TIMEOUT_S: Final = 30


class ApiUnreachable(ExitplaneError):
    code = "api_unreachable"


class ApiRefused(ExitplaneError):
    """The API said no: its own words, with its `code` as `problem`."""

    code = "api_refused"

    def __init__(self, status: int, problem: str, message: str, *, mend: str = "") -> None:
        super().__init__(message, mend=mend)
        self.status = status
        self.problem = problem


class BadCredentials(ExitplaneError):
    code = "bad_credentials"


@dataclass(frozen=True, slots=True)
class Login:
    """The tokens of one API; `expires_at` in seconds since the epoch."""

    access_token: str
    refresh_token: str
    expires_at: float

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Login:
        return cls(answer["access_token"], answer["refresh_token"], time.time() + answer["expires_in"])


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


def call(api: str, method: str, path: str, body: object = None, *, authorization: str | None = None) -> Any:
    """The JSON that the API answers to a request. Raises ApiUnreachable, ApiRefused."""
    headers = {"Authorization": authorization} if authorization else {}
    try:
        # trust_env: what is meant for this API goes through no proxy of the environment
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as client:
            response = client.request(method, f"{normal(api)}/api/v1{path}", json=body, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ApiUnreachable(f"the API at {api} does not answer ({error})", mend="start it, or give --api") from error
    try:
        answer = response.json() if response.content else None
    except ValueError as error:
        raise ApiUnreachable(f"what answers at {api} is no Exitplane", mend="correct --api") from error
    if response.status_code >= 400:
        problem = answer if isinstance(answer, dict) else {}
        detail, mend = problem.get("detail", f"{response.status_code}"), problem.get("mend", "")
        raise ApiRefused(response.status_code, problem.get("code", ""), detail, mend=mend)
    return answer


def normal(api: str) -> str:
    """The URL of an API as tokens are kept by it."""
    return api.rstrip("/")


def _renew(api: str) -> Login | None:
    """New tokens. Two commands at once take turns, for a refresh token is good once."""
    with _locked():
        login = _read().get(normal(api))
        if login is None or login.expires_at - _EARLY_S > time.time():
            return login
        try:
            renewed = Login.of(call(api, "POST", "/auth/refresh", {"refresh_token": login.refresh_token}))
        except ApiRefused:
            _write(api, None)
            return None
        _write(api, renewed)
        return renewed


def _read_key(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadCredentials(f"{path} cannot be read ({error})", mend="correct EXITPLANE_API_KEY_FILE") from error


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
        raise BadCredentials(f"{_file()} cannot be read ({error})", mend="remove it, and log in again") from error


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
