"""Bounded, strict reading of request bodies: JSON of at most 1 MiB, or 16 MiB for documents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute

from api.http.problems import Problem

BODY_MAX_BYTES = 1024 * 1024
LONG_BODY_MAX_BYTES = 16 * BODY_MAX_BYTES
"""The limit for a document with the whole declared state."""
BODY_TIMEOUT_S = 60.0
"""The time for the body of an authenticated caller. Strangers have less; see model/connection_table.py."""


class JsonRequest(Request):
    """A request that bounds its body while it is received, and parses JSON strictly."""

    max_bytes = BODY_MAX_BYTES

    async def body(self) -> bytes:
        """Read the body. Raises Problem: 415 for another type than JSON, 413 above `max_bytes`, 400 when it is empty."""
        self._check_type()
        if not await self.content():
            raise _not_json("the body is empty")
        return self._body

    async def content(self) -> bytes:
        """Read the body, which may be empty. Raises Problem: 413, 408 when it takes longer than BODY_TIMEOUT_S."""
        if not hasattr(self, "_body"):
            self._body = await self._read()
        return self._body

    async def json(self) -> Any:
        """Parse the body. Raises Problem (400) when it is not JSON."""
        try:
            return json.loads((await self.body()).decode(), parse_constant=_refuse_constant)
        except RecursionError as error:
            raise _not_json("the body is nested too deeply") from error
        except json.JSONDecodeError as error:
            raise _not_json(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
        except ValueError as error:  # bytes that are not UTF-8, or numbers of thousands of digits
            raise _not_json("the body contains bytes that are not UTF-8, or a number that is too long") from error

    def _check_type(self) -> None:
        sent = self.headers.get("content-type", "")
        parsed = Message()
        parsed["content-type"] = sent
        if parsed.get_content_type() != "application/json" or parsed.get_content_charset("utf-8") != "utf-8":
            message = f"the body's content type is {sent[:100] or 'missing'!r}"
            raise Problem(415, "not_json_type", message, hint="send Content-Type: application/json")

    async def _read(self) -> bytes:
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and len(declared) < 20 and int(declared) > self.max_bytes:
            raise _too_large(self.max_bytes)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for chunk in self.stream():
                    body += chunk
                    if len(body) > self.max_bytes:
                        raise _too_large(self.max_bytes)
        except TimeoutError as error:
            raise _too_slow(len(body)) from error
        return bytes(body)


class LongJsonRequest(JsonRequest):
    max_bytes = LONG_BODY_MAX_BYTES


class JsonRoute(APIRoute):
    """A route whose requests are JsonRequests."""

    request: type[JsonRequest] = JsonRequest

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(self.request(request.scope, request.receive))

        return handle


class LongJsonRoute(JsonRoute):
    request = LongJsonRequest


def _not_json(reason: str) -> Problem:
    return Problem(400, "not_json", f"the body is not JSON: {reason}", hint="send one JSON object in UTF-8")


def _too_large(max_bytes: int) -> Problem:
    # the unread rest of the body stays in the connection, so no other request can follow
    headers = {"Connection": "close"}
    message = f"the body is larger than {max_bytes} bytes"
    return Problem(413, "too_large", message, hint="send less in one request", headers=headers)


def _too_slow(received: int) -> Problem:
    message = f"only {received} bytes of the body came within {BODY_TIMEOUT_S:g} s"
    return Problem(408, "slow_body", message, hint="send it faster, or in parts", headers={"Connection": "close"})


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)
