"""A client of the Docker Engine API, for the calls that containers of exits need. podman speaks it too.

The client agrees with the engine on an API version before the first request, and again when the engine refuses that version (it may
have been replaced). Every call has a time limit and a size limit, and raises an EngineError of `keeper.containers.errors`.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import aiohttp
from yarl import URL

from keeper.containers.api_version import ApiVersion, EngineVersion, choose_api_version
from keeper.containers.engine_responses import (
    InspectedContainer,
    ListedContainer,
    read_id,
    read_inspected,
    read_list,
    read_logs,
    read_message,
    read_version,
)
from keeper.containers.errors import (
    BadEngineResponse,
    EngineForbidden,
    EngineUnreachable,
    NoSuchContainer,
    VersionRefused,
    refusal,
)

TIMEOUT_S: Final = 20.0
BODY_MAX_BYTES: Final = 4 * 2**20
LOG_MAX_BYTES: Final = 2**20
_CONNECTIONS: Final = 8
_REFUSED: Final = 400
_CHUNK: Final = 65_536


class Engine:
    """One engine, at unix:///path or tcp://host:port. Use it as an async context manager."""

    def __init__(self, address: str, *, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(address)
        self.address = address
        self._path = parts.path if parts.scheme == "unix" else None
        self._base = "http://engine" if self._path else f"http://{parts.netloc}"
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._api: ApiVersion | None = None

    async def __aenter__(self) -> Self:
        connector: aiohttp.BaseConnector = (
            aiohttp.UnixConnector(self._path, limit=_CONNECTIONS, force_close=True)
            if self._path
            else aiohttp.TCPConnector(limit=_CONNECTIONS, force_close=True)
        )
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(self, *failure: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def version(self) -> EngineVersion:
        """Return the versions of the engine and of its API. The request itself needs no API version."""
        return read_version(await self._request("GET", "version"))

    async def list(self, labels: Mapping[str, str]) -> list[ListedContainer]:
        """Return the containers that have all these labels, running or not."""
        filters = json.dumps({"label": [f"{name}={value}" for name, value in labels.items()]})
        return read_list(await self._call("GET", "containers/json", query={"all": "true", "filters": filters}))

    async def inspect(self, ref: str) -> InspectedContainer:
        """Return one container, by its id or name."""
        return read_inspected(await self._call("GET", f"containers/{quote(ref, safe='')}/json"))

    async def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Create a container and return its id; it does not run yet. Raises NoSuchImage, NameTaken."""
        return read_id(await self._call("POST", "containers/create", query={"name": name}, body=body, creating=True))

    async def put_file(self, ref: str, path: str, content: bytes) -> None:
        """Write a file into a container, readable by every user in it. Missing folders are created."""
        archive = _archive(path, content)
        await self._call("PUT", f"containers/{quote(ref, safe='')}/archive", query={"path": "/"}, content=archive)

    async def start(self, ref: str) -> None:
        """Start a container. A running one stays as it is."""
        await self._call("POST", f"containers/{quote(ref, safe='')}/start")

    async def stop(self, ref: str, within_s: int) -> None:
        """Stop a container, and kill it after `within_s`. A stopped one stays as it is."""
        await self._post(ref, "stop", within_s)

    async def restart(self, ref: str, within_s: int) -> None:
        """Stop a container as `stop` does, and start it again."""
        await self._post(ref, "restart", within_s)

    async def remove(self, ref: str) -> None:
        """Remove a container with its volumes, even if it runs. A missing one is no error."""
        with suppress(NoSuchContainer):
            await self._call("DELETE", f"containers/{quote(ref, safe='')}", query={"force": "true", "v": "true"})

    async def logs(self, ref: str, lines: int) -> str:
        """Return the last lines that a container wrote, as plain text."""
        query = {"stdout": "true", "stderr": "true", "tail": str(lines)}
        body = await self._call("GET", f"containers/{quote(ref, safe='')}/logs", query=query, limit=LOG_MAX_BYTES)
        return read_logs(body)

    async def _post(self, ref: str, verb: str, within_s: int) -> None:
        path = f"containers/{quote(ref, safe='')}/{verb}"
        await self._call("POST", path, query={"t": str(within_s)}, timeout_s=self._timeout_s + within_s)

    async def _call(self, method: str, path: str, **more: Any) -> bytes:
        """Send a request in the agreed API version and return the body of the response. Raises EngineError."""
        try:
            return await self._request(method, await self._versioned(path), **more)
        except VersionRefused:  # the engine did nothing, so the request may be repeated
            self._api = None
        return await self._request(method, await self._versioned(path), **more)

    async def _versioned(self, path: str) -> str:
        if self._api is None:
            self._api = choose_api_version(await self.version())
        return f"v{self._api}/{path}"

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        creating: bool = False,
        limit: int = BODY_MAX_BYTES,
        timeout_s: float | None = None,
    ) -> bytes:
        assert self._session is not None, "use the engine as an async context manager"
        url = URL(f"{self._base}/{path}", encoded=True).with_query(query or {})
        more: dict[str, Any] = {"json": body} if content is None else {"data": content}
        timeout = aiohttp.ClientTimeout(total=timeout_s or self._timeout_s)
        try:
            async with self._session.request(method, url, timeout=timeout, allow_redirects=False, **more) as reply:
                body_read = await _read(reply, limit)
        except PermissionError as error:
            raise self._forbidden() from error
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, PermissionError):
                raise self._forbidden() from error
            raise self._unreachable(error.os_error.strerror or str(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(str(error) or f"no response within {timeout.total:g} s") from error
        if reply.status >= _REFUSED:
            raise refusal(reply.status, read_message(body_read), creating=creating)
        return body_read

    def _unreachable(self, reason: str) -> EngineUnreachable:
        return EngineUnreachable(
            f"no container engine answers at {self.address} ({reason})",
            hint="start it, or correct EXITPLANE_CONTAINER_ENGINE",
        )

    def _forbidden(self) -> EngineForbidden:
        return EngineForbidden(
            f"the control plane may not use the container engine at {self.address}",
            hint="run it as a user who may, or give it a socket that it may use: see docs/containers.md",
        )


async def _read(reply: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read the body. Raises BadEngineResponse when it is longer than `limit` bytes."""
    pieces, size = [], 0
    async for piece in reply.content.iter_chunked(_CHUNK):
        size += len(piece)
        if size > limit:
            raise BadEngineResponse(f"the container engine sent more than {limit} bytes", hint="request less")
        pieces.append(piece)
    return b"".join(pieces)


def _archive(path: str, content: bytes) -> bytes:
    """Return a tar archive of one file, to be unpacked at the root."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        folders = path.strip("/").split("/")[:-1]
        for depth in range(len(folders)):
            folder = tarfile.TarInfo("/".join(folders[: depth + 1]))
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        entry = tarfile.TarInfo(path.strip("/"))
        entry.size, entry.mode = len(content), 0o444
        archive.addfile(entry, io.BytesIO(content))
    return written.getvalue()
