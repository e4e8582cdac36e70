"""A small HTTP client that connects directly or through a gateway, and ignores proxies of the environment."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The answer to a request. `by_proxy` is True if a gateway refused a CONNECT, so that the target received nothing."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    by_proxy: bool = False

    @property
    def text(self) -> str:
        """The body as text, without the final line break."""
        return self.body.decode(errors="replace").strip()

    def json(self) -> Any:
        """Parse the body as JSON. Raises ValueError."""
        return json.loads(self.body)


def fetch(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout_s: float = TIMEOUT_S,
) -> HttpAnswer:
    """Send a request directly to the server of `url`. Raises OSError if it cannot be reached or does not answer in time."""
    host, port, path = _split(url)
    return _exchange(http.client.HTTPConnection(host, port, timeout=timeout_s), method, path, headers, body)


def fetch_through(
    gateway: str,
    url: str,
    *,
    tunnel: bool,
    proxy_headers: Mapping[str, str],
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    body: bytes | None = None,
    timeout_s: float = TIMEOUT_S,
) -> HttpAnswer:
    """Request `url` through `gateway` (`host:port`): by CONNECT if `tunnel`, else as a plain proxy request.

    `proxy_headers` are for the gateway and `headers` for the target; a plain request has a single head with both.
    Raises OSError.
    """
    host, port = gateway.rsplit(":", 1)
    if not tunnel:
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
        return _exchange(connection, method, url, {**(headers or {}), **proxy_headers}, body)
    target, target_port, path = _split(url)
    with socket.create_connection((host, int(port)), timeout=timeout_s) as stream:
        name = f"[{target}]" if ":" in target else target
        refusal = _connect(stream, f"{name}:{target_port}", proxy_headers)
        if refusal is not None:
            return refusal
        inner = http.client.HTTPConnection(target, target_port, timeout=timeout_s)
        inner.sock = stream
        inner.auto_open = 0  # a direct connection to the target would look like a working gateway
        return _exchange(inner, method, path, headers, body)


def user_headers(name: str, secret: str = "x") -> dict[str, str]:  # noqa: S107 - the demo's users have no secrets
    """Build the headers that `curl -x http://name:secret@…` sends to the gateway."""
    return {"Proxy-Authorization": "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()}


def _connect(stream: socket.socket, authority: str, headers: Mapping[str, str]) -> HttpAnswer | None:
    """Request a tunnel to `authority` on `stream`. Return the gateway's answer if it refuses, else None."""
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", *(f"{name}: {headers[name]}" for name in headers)]
    stream.sendall("\r\n".join((*lines, "", "")).encode("latin-1"))
    response = http.client.HTTPResponse(stream, method="CONNECT")
    try:
        response.begin()
        if response.status // 100 == 2:
            return None
        return HttpAnswer(response.status, tuple(response.getheaders()), response.read(), by_proxy=True)
    except http.client.HTTPException as error:
        raise OSError(f"invalid answer to CONNECT: {error!r}") from error


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    headers: Mapping[str, str] | None,
    body: bytes | None,
) -> HttpAnswer:
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        return HttpAnswer(response.status, tuple(response.getheaders()), response.read())
    except http.client.HTTPException as error:
        raise OSError(f"invalid answer: {error!r}") from error
    finally:
        connection.close()


def _split(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url)
    path = parts.path or "/"
    return parts.hostname or "", parts.port or 80, f"{path}?{parts.query}" if parts.query else path
