"""The parent proxy of an exit: its credentials, and a probe that sends it a CONNECT."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from yarl import URL

from agent.config.credentials import basic_authorization
from agent.config.settings import ParentProxy
from model.endpoint import Endpoint

TIMEOUT_S: Final = 2.0
UNREACHABLE_TARGET: Final = Endpoint("127.0.0.1", 1)
"""The CONNECT target where none is configured. Nothing listens there, so the proxy refuses at once."""
_HEAD_MAX_BYTES: Final = 8192
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\r?\n)")


def build_request_options(parent: ParentProxy | None, url: URL, headers: Mapping[str, str]) -> dict[str, Any]:
    """Build aiohttp's arguments for a request for `url` through the parent, if there is one.

    For `https` the credentials go with the CONNECT, because the target alone reads the request. For `http` they are in the request.
    """
    if parent is None:
        return {"headers": headers}
    proxy = f"http://{parent.endpoint}"
    credentials = parent.current_credentials()
    authorization = {} if credentials is None else {"Proxy-Authorization": basic_authorization(credentials)}
    if url.scheme == "https":
        return {"proxy": proxy, "proxy_headers": authorization, "headers": headers}
    return {"proxy": proxy, "headers": {**headers, **authorization}}


async def probe_parent(parent: ParentProxy, target: Endpoint | None) -> str | None:
    """Send a CONNECT to `target`, if there is one; return why the parent cannot serve the exit, or None if it can."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status = await _connect(parent, target or UNREACHABLE_TARGET)
    except TimeoutError:
        return f"the parent proxy {parent.endpoint} does not answer in time"
    except OSError:
        return f"the parent proxy {parent.endpoint} cannot be reached"
    if status is None:
        return f"the parent proxy {parent.endpoint} answers something that is not HTTP"
    if status == 407:
        refuses = "refuses the exit's credentials" if parent.credentials else "asks for credentials"
        return f"the parent proxy {parent.endpoint} {refuses}"
    if target is not None and not 200 <= status < 300:
        return f"{target} cannot be reached through the parent proxy {parent.endpoint} (it answers {status})"
    return None


async def _connect(parent: ParentProxy, target: Endpoint) -> int | None:
    """Return the status of the answer to a CONNECT; None for an answer that is not HTTP. Raises OSError."""
    reader, writer = await asyncio.open_connection(parent.endpoint.host, parent.endpoint.port, limit=_HEAD_MAX_BYTES)
    try:
        writer.write(_build_request(parent, target))
        await writer.drain()
        with suppress(ValueError):  # a line longer than the limit
            found = _STATUS.match(await reader.readline())
            return int(found[1]) if found else None
        return None
    finally:
        writer.transport.abort()


def _build_request(parent: ParentProxy, target: Endpoint) -> bytes:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if (credentials := parent.current_credentials()) is not None:
        lines.append(f"Proxy-Authorization: {basic_authorization(credentials)}")
    return "\r\n".join([*lines, "", ""]).encode()
