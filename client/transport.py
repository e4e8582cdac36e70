"""Requests and replies: credentials, retries, and what a refusal says."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeAlias, TypeVar
from urllib.parse import quote, urlencode
from uuid import uuid4

from api.http.paths import PROXIES_HEADER, REVISION_HEADER
from client.errors import ApiRefused, ApiUnreachable
from client.http import BadHeader, BadUrl, ConnectionBroken, HttpOrigin, HttpResponse, NotConnected, NotTrusted

if TYPE_CHECKING:
    from pydantic import BaseModel

    from api.kernel.dry_run import DryRunOut

T = TypeVar("T")
Value: TypeAlias = object
Body: TypeAlias = "BaseModel | Mapping[str, Any]"
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """One of the operations of the OpenAPI document, by its id. None: without a body, or without content in the reply.

    An answer of a type of `dict` is an object of JSON, and so are those within; no schema is imported for that.
    """

    id: str
    method: str
    path: str
    body: type[BaseModel] | None
    answer: type[T] | None
    keyed: bool = False
    """Whether it takes an Idempotency-Key."""
    repeatable: bool = True
    """Whether it may be sent again when nobody knows what became of it."""


@dataclass(frozen=True, slots=True)
class ConvergenceTally:
    """Of the connected proxies that a write concerns: how many have it, refused it, or did not answer in time."""

    acknowledged: int
    rejected: int
    pending: int


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """What came back: the value, and what the headers say of it."""

    value: T
    headers: Mapping[str, str] = field(repr=False)

    @property
    def etag(self) -> str | None:
        """What `if_match` takes."""
        return self.headers.get("ETag")

    @property
    def revision(self) -> int | None:
        """The revision that a write made, or that held when it had nothing to do."""
        found = self.headers.get(REVISION_HEADER)
        return None if found is None else int(found)

    @property
    def proxies(self) -> ConvergenceTally | None:
        """Of a write that waited: what the proxies made of it."""
        found = self.headers.get(PROXIES_HEADER)
        if found is None:
            return None
        counts = dict(part.strip().split("=") for part in found.split(","))
        return ConvergenceTally(**{name: int(counts[name]) for name in ("acknowledged", "rejected", "pending")})


class Transport:
    """One API, and on whose behalf it is asked. Use it as a context: it holds connections.

    A request that may be sent twice is, when the API says that it is away for a while (503 with Retry-After) or when the
    connection breaks: five times at most. A POST has an Idempotency-Key, so that it is done once.
    """

    def __init__(
        self, url: str, authorization: str | None, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.url = url.rstrip("/")
        self._authorization = authorization
        self._sleep = sleep
        self._origin: HttpOrigin | None = None

    async def __aenter__(self) -> Self:
        self._origin = HttpOrigin(self.url)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._origin is not None:
            await self._origin.close()

    async def send(
        self,
        operation: Operation[T],
        *place: str,
        query: Mapping[str, Value] | None = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply[T]:
        """Ask for an operation; `place` fills its path. Raises ApiRefused, ApiUnreachable."""
        content, found = await self._exchange(operation, place, query, body, headers)
        value: Any = None if operation.answer is None else self._read(operation.answer, content)
        return Reply(value, found)

    async def dry_run(
        self,
        operation: Operation[Any],
        *place: str,
        query: Mapping[str, Value] | None = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> DryRunOut:
        """What an operation would do, without doing it. Raises ApiRefused, ApiUnreachable."""
        from api.kernel.dry_run import DryRunOut

        content, _ = await self._exchange(operation, place, {**(query or {}), "dry_run": True}, body, headers)
        return self._read(DryRunOut, content)

    @asynccontextmanager
    async def stream(
        self, operation: Operation[Any], query: Mapping[str, Value] | None, headers: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a reply that does not end by itself. Raises ApiRefused, ApiUnreachable."""
        async with self._open(operation, (), query, b"", headers) as response:
            if response.status >= 400:
                raise self._refusal(response.status, await response.read())
            yield response.lines()

    async def redirection(self, operation: Operation[Any]) -> str:
        """Where an operation sends a browser. Raises ApiRefused, ApiUnreachable."""
        async with self._open(operation, (), None, b"", {}) as response:
            if response.status >= 400:
                raise self._refusal(response.status, await response.read())
            return response.headers["Location"]

    async def _exchange(
        self,
        operation: Operation[Any],
        place: tuple[str, ...],
        query: Mapping[str, Value] | None,
        body: Body | None,
        headers: Mapping[str, str] | None,
    ) -> tuple[bytes, Mapping[str, str]]:
        sent = dict(headers or {})
        content = b""
        if body is not None:
            content = _as_json(body).encode()
            sent["Content-Type"] = "application/json"
        if operation.keyed:
            sent["Idempotency-Key"] = str(uuid4())
        for left in reversed(range(_ATTEMPTS)):
            pause_s = min(_PAUSE_S * 2 ** (_ATTEMPTS - 1 - left), _LONGEST_PAUSE_S)
            try:
                async with self._open(operation, place, query, content, sent) as response:
                    answer = await response.read()
                    if response.status < 400:
                        return answer, response.headers
                    wait_s = _retry_after_s(response)
                    if wait_s is None or not left:
                        raise self._refusal(response.status, answer)
                    pause_s = max(pause_s, wait_s)
            except _Broken:
                if not operation.repeatable or not left:
                    raise
            # not all at the same moment
            await self._sleep(min(pause_s, _LONGEST_PAUSE_S) * random.uniform(1, 1.25))  # noqa: S311 - no secret
        raise AssertionError("the last attempt returns or raises")

    @asynccontextmanager
    async def _open(
        self,
        operation: Operation[Any],
        place: tuple[str, ...],
        query: Mapping[str, Value] | None,
        content: bytes,
        headers: Mapping[str, str],
    ) -> AsyncIterator[HttpResponse]:
        assert self._origin is not None, "the client is used as a context: `async with Client(…) as api`"
        sent = dict(headers)
        if self._authorization is not None:
            sent["Authorization"] = self._authorization
        asked = {name: _plain(value) for name, value in (query or {}).items() if value is not None}
        target = _path(operation.path, place) + (f"?{urlencode(asked)}" if asked else "")
        try:
            async with self._origin.request(operation.method, target, sent, content) as response:
                yield response
        except BadUrl as error:
            raise ApiUnreachable(
                f"{self.url} is no address of an API", hint="give --api as http://HOST:PORT"
            ) from error
        except BadHeader as error:
            raise ApiUnreachable("the credential is none that can be sent", hint="correct the API key") from error
        except NotTrusted as error:
            raise ApiUnreachable(
                f"the certificate of the API at {self.url} is not trusted ({error})",
                hint="use the name that it is for, or set SSL_CERT_FILE to the file of the authority that signed it",
            ) from error
        except NotConnected as error:
            raise ApiUnreachable(f"the API at {self.url} does not answer ({error})", hint=_MEND) from error
        except ConnectionBroken as error:
            raise _Broken(f"the connection to the API at {self.url} broke ({error})", hint=_MEND) from error

    def _read(self, kind: type[T], content: bytes) -> T:
        try:
            value: T = _validate(kind, content)
        except (ValueError, TypeError) as error:  # pydantic's ValidationError is one
            message = f"what answers at {self.url} is no Exitplane that this version understands"
            raise ApiUnreachable(message, hint="correct --api, or use the same version on both sides") from error
        return value

    def _refusal(self, status: int, content: bytes) -> ApiRefused | ApiUnreachable:
        try:
            refused = ApiRefused.of(status, json.loads(content))
        except ValueError:
            refused = None
        return refused or ApiUnreachable(
            f"what answers at {self.url} is no Exitplane (it said {status})", hint="correct --api"
        )


class _Broken(ApiUnreachable):
    """Nobody knows whether it was done."""


_MEND: Final = "start it, or give --api"


def _validate(kind: Any, content: bytes) -> Any:
    if isinstance(kind, type) and issubclass(kind, dict):
        found = json.loads(content, object_hook=kind)
        if not isinstance(found, kind):
            raise TypeError("no JSON object")
        return found
    from pydantic import BaseModel, TypeAdapter

    # a model is its own validator; making an adapter of one costs as much again
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_validate_json(content)
    return TypeAdapter(kind).validate_json(content)


def _as_json(body: Body) -> str:
    return json.dumps(body) if isinstance(body, Mapping) else body.model_dump_json(by_alias=True, exclude_unset=True)


def _path(template: str, place: tuple[str, ...]) -> str:
    parts = iter(place)
    return "/".join(quote(next(parts), safe="") if part.startswith("{") else part for part in template.split("/"))


def _plain(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _retry_after_s(response: HttpResponse) -> float | None:
    """How long the API says that it is away; None when it does not, or is not."""
    found = response.headers.get("Retry-After", "")
    return float(found) if response.status == 503 and found.isdecimal() else None
