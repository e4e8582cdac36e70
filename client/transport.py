"""Requests and replies of the API: credentials, retries and errors."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeAlias, TypeVar
from urllib.parse import quote, urlencode
from uuid import uuid4

from api.http.paths import PROXIES_HEADER, REVISION_HEADER
from client.errors import ApiRefused, ApiUnreachable
from client.http import (
    BadAuthority,
    BadHeader,
    BadUrl,
    ConnectionBroken,
    HttpOrigin,
    HttpResponse,
    NotConnected,
    NotTrusted,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

    from api.kernel.dry_run import DryRunOut

T = TypeVar("T")
QueryValue: TypeAlias = object
Body: TypeAlias = "BaseModel | Mapping[str, Any]"
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """An operation of the OpenAPI document, by its id.

    `body` and `response` are the schemas of the request's and the reply's content, or None for no content. With a subclass of
    `dict` as `response`, each JSON object of the reply becomes one, without a schema; with `bytes` the content is returned as it is.
    """

    id: str
    method: str
    path: str
    body: type[BaseModel] | None
    response: type[T] | None
    takes_idempotency_key: bool = False
    """True if the operation takes an Idempotency-Key, which makes repeated requests take effect once."""
    repeatable: bool = True
    """True if a request may be sent again when its outcome is unknown."""


@dataclass(frozen=True, slots=True)
class ConvergenceTally:
    """The answers to a write: how many of the connected proxies acknowledged, rejected or did not answer in time."""

    acknowledged: int
    rejected: int
    pending: int


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """The reply to a request: the value of its body, and its headers."""

    value: T
    headers: Mapping[str, str] = field(repr=False)

    @property
    def etag(self) -> str | None:
        """The value for `if_match`."""
        return self.headers.get("ETag")

    @property
    def revision(self) -> int | None:
        """The revision of a write, or the current one if the write changed nothing."""
        found = self.headers.get(REVISION_HEADER)
        return None if found is None else int(found)

    @property
    def proxies(self) -> ConvergenceTally | None:
        """The answers of the proxies; None for a write without `wait_s`."""
        found = self.headers.get(PROXIES_HEADER)
        if found is None:
            return None
        counts = dict(part.strip().split("=") for part in found.split(","))
        return ConvergenceTally(**{name: int(counts[name]) for name in ("acknowledged", "rejected", "pending")})


class Transport:
    """The connections and the credential for one API. Use it as a context manager.

    A repeatable request is sent again, five times at most, after a 503 with Retry-After and after a broken connection. A POST
    has an Idempotency-Key, so that it takes effect once.
    """

    def __init__(
        self,
        url: str,
        authorization: str | None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        ca: Path | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._authorization = authorization
        self._sleep = sleep
        self._ca = ca
        self._origin: HttpOrigin | None = None

    async def __aenter__(self) -> Self:
        self._origin = HttpOrigin(self.url, self._ca)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._origin is not None:
            await self._origin.close()

    async def send(
        self,
        operation: Operation[T],
        *path_args: str,
        query: Mapping[str, QueryValue] | None = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply[T]:
        """Send the request of an operation; `path_args` fill the braces of its path. Raises ApiRefused, ApiUnreachable."""
        content, found = await self._exchange(operation, path_args, query, body, headers)
        value: Any = None if operation.response is None else self._read(operation.response, content)
        return Reply(value, found)

    async def dry_run(
        self,
        operation: Operation[Any],
        *path_args: str,
        query: Mapping[str, QueryValue] | None = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> DryRunOut:
        """Return what an operation would do, without doing it. Raises ApiRefused, ApiUnreachable."""
        from api.kernel.dry_run import DryRunOut

        content, _ = await self._exchange(operation, path_args, {**(query or {}), "dry_run": True}, body, headers)
        return self._read(DryRunOut, content)

    @asynccontextmanager
    async def stream(
        self, operation: Operation[Any], query: Mapping[str, QueryValue] | None, headers: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the lines of an endless reply. Raises ApiRefused, ApiUnreachable."""
        async with self._open(operation, (), query, b"", headers) as response:
            if response.status >= 400:
                raise self._error_of(response.status, await response.read())
            yield response.lines()

    async def redirection(self, operation: Operation[Any]) -> str:
        """Return the URL to which an operation redirects a browser. Raises ApiRefused, ApiUnreachable."""
        async with self._open(operation, (), None, b"", {}) as response:
            if response.status >= 400:
                raise self._error_of(response.status, await response.read())
            return response.headers["Location"]

    async def _exchange(
        self,
        operation: Operation[Any],
        path_args: tuple[str, ...],
        query: Mapping[str, QueryValue] | None,
        body: Body | None,
        headers: Mapping[str, str] | None,
    ) -> tuple[bytes, Mapping[str, str]]:
        sent = dict(headers or {})
        content = b""
        if body is not None:
            content = _as_json(body).encode()
            sent["Content-Type"] = "application/json"
        if operation.takes_idempotency_key:
            sent["Idempotency-Key"] = str(uuid4())
        for remaining in reversed(range(_ATTEMPTS)):
            pause_s = min(_PAUSE_S * 2 ** (_ATTEMPTS - 1 - remaining), _LONGEST_PAUSE_S)
            try:
                async with self._open(operation, path_args, query, content, sent) as response:
                    reply = await response.read()
                    if response.status < 400:
                        return reply, response.headers
                    wait_s = _retry_after_s(response)
                    if wait_s is None or not remaining:
                        raise self._error_of(response.status, reply)
                    pause_s = max(pause_s, wait_s)
            except _OutcomeUnknown:
                if not operation.repeatable or not remaining:
                    raise
            # jitter, so that clients do not all retry at the same moment
            await self._sleep(min(pause_s, _LONGEST_PAUSE_S) * random.uniform(1, 1.25))  # noqa: S311 - no secret
        raise AssertionError("the last attempt returns or raises")

    @asynccontextmanager
    async def _open(
        self,
        operation: Operation[Any],
        path_args: tuple[str, ...],
        query: Mapping[str, QueryValue] | None,
        content: bytes,
        headers: Mapping[str, str],
    ) -> AsyncIterator[HttpResponse]:
        assert self._origin is not None, "the client is used as a context: `async with Client(…) as api`"
        sent = dict(headers)
        if self._authorization is not None:
            sent["Authorization"] = self._authorization
        parameters = {name: _format_value(value) for name, value in (query or {}).items() if value is not None}
        target = _path(operation.path, path_args) + (f"?{urlencode(parameters)}" if parameters else "")
        try:
            async with self._origin.request(operation.method, target, sent, content) as response:
                yield response
        except BadUrl as error:
            raise ApiUnreachable(
                f"{self.url} is not the URL of an API", hint="give --api as http://HOST:PORT"
            ) from error
        except BadHeader as error:
            raise ApiUnreachable(
                "the credential has characters that HTTP cannot carry", hint="correct the API key"
            ) from error
        except NotTrusted as error:
            raise ApiUnreachable(
                f"the certificate of the API at {self.url} is not trusted ({error})",
                hint="use a host name of the certificate, and set EXITPLANE_API_CA (`ca`) to the file of its authority (`exitplane ca`)",
            ) from error
        except BadAuthority as error:
            raise ApiUnreachable(
                f"the authority's file {error}", hint="set EXITPLANE_API_CA (`ca`) to the output of `exitplane ca`"
            ) from error
        except NotConnected as error:
            raise ApiUnreachable(f"the API at {self.url} does not answer ({error})", hint=_HINT) from error
        except ConnectionBroken as error:
            raise _OutcomeUnknown(f"the connection to the API at {self.url} broke ({error})", hint=_HINT) from error

    def _read(self, kind: type[T], content: bytes) -> T:
        try:
            value: T = _validate(kind, content)
        except (ValueError, TypeError) as error:  # pydantic's ValidationError is one
            message = f"the server at {self.url} is not an Exitplane that this version understands"
            raise ApiUnreachable(message, hint="correct --api, or use the same version on both sides") from error
        return value

    def _error_of(self, status: int, content: bytes) -> ApiRefused | ApiUnreachable:
        try:
            refused = ApiRefused.of(status, json.loads(content))
        except ValueError:
            refused = None
        return refused or ApiUnreachable(
            f"the server at {self.url} is not an Exitplane (it answered {status})", hint="correct --api"
        )


class _OutcomeUnknown(ApiUnreachable):
    """The connection broke, and it is unknown whether the request took effect."""


_HINT: Final = "start the control plane, or give its URL with --api"


def _validate(kind: Any, content: bytes) -> Any:
    if kind is bytes:
        return content
    if isinstance(kind, type) and issubclass(kind, dict):
        found = json.loads(content, object_hook=kind)
        if not isinstance(found, kind):
            raise TypeError("no JSON object")
        return found
    from pydantic import BaseModel, TypeAdapter

    # a model validates itself; an adapter of it would cost as much again
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_validate_json(content)
    return TypeAdapter(kind).validate_json(content)


def _as_json(body: Body) -> str:
    return json.dumps(body) if isinstance(body, Mapping) else body.model_dump_json(by_alias=True, exclude_unset=True)


def _path(template: str, path_args: tuple[str, ...]) -> str:
    parts = iter(path_args)
    return "/".join(quote(next(parts), safe="") if part.startswith("{") else part for part in template.split("/"))


def _format_value(value: QueryValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _retry_after_s(response: HttpResponse) -> float | None:
    """Return the seconds of Retry-After in a 503; None for another reply."""
    found = response.headers.get("Retry-After", "")
    return float(found) if response.status == 503 and found.isdecimal() else None
