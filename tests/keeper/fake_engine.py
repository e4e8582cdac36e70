"""A fake container engine on a unix socket, which follows the documentation of the Docker Engine API."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

VERSIONED = re.compile(r"/v(\d+)\.(\d+)(?=/)")


def written(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


@dataclass
class FakeContainer:
    """A container."""

    id: str
    name: str
    body: dict[str, Any]
    state: str = "created"
    exit_code: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    starts: int = 0

    @property
    def labels(self) -> dict[str, str]:
        return self.body.get("Labels") or {}

    @property
    def environment(self) -> dict[str, str]:
        return dict(each.split("=", 1) for each in self.body.get("Env") or [])

    def end(self, code: int = 137) -> None:
        self.state, self.exit_code = "exited", code


@dataclass
class FakeEngine:
    """A fake engine. `fails` maps the start of a method and path to the status and message of a refusal.

    `oldest` and `newest` bound the API versions that it accepts, as Docker 29.0 does; `spoken` lists the versions of requests.
    """

    path: Path
    images: set[str] = field(default_factory=lambda: {"exit:1"})
    containers: dict[str, FakeContainer] = field(default_factory=dict)
    fails: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    spoken: list[str] = field(default_factory=list)
    oldest: tuple[int, int] = (1, 44)
    newest: tuple[int, int] = (1, 52)
    dies_at_once: bool = False
    _count: int = 0

    @property
    def address(self) -> str:
        return f"unix://{self.path}"

    def named(self, name: str) -> FakeContainer:
        return next(each for each in self.containers.values() if each.name == name)

    def running(self) -> list[str]:
        return sorted(each.name for each in self.containers.values() if each.state == "running")

    # -- what it answers -----------------------------------------------------------------------------------------------

    @web.middleware
    async def _serve(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(f"{request.method} {VERSIONED.sub('', request.path, count=1)}")
        refused = self._refuse_version(request.path)
        if refused:
            return web.json_response({"message": refused}, status=400)
        for start, (status, message) in self.fails.items():
            if self.asked[-1].startswith(start):
                return web.json_response({"message": message}, status=status)
        return await handler(request)

    def _refuse_version(self, path: str) -> str | None:
        found = VERSIONED.match(path)
        if found is None:
            return None
        version = (int(found[1]), int(found[2]))
        self.spoken.append(written(version))
        if version < self.oldest:
            return (
                f"client version {written(version)} is too old. Minimum supported API version is"
                f" {written(self.oldest)}, please upgrade your client to a newer version"
            )
        if version > self.newest:
            too_new = f"client version {written(version)} is too new."
            return f"{too_new} Maximum supported API version is {written(self.newest)}"
        return None

    def _find(self, request: web.Request) -> FakeContainer:
        ref = request.match_info["ref"]
        for each in self.containers.values():
            if ref in (each.id, each.name):
                return each
        message = json.dumps({"message": f"No such container: {ref}"})
        raise web.HTTPNotFound(text=message, content_type="application/json")

    async def _version(self, _: web.Request) -> web.Response:
        known = {"ApiVersion": written(self.newest), "MinAPIVersion": written(self.oldest)}
        return web.json_response({"Version": "0.0-stand-in", **known})

    async def _list(self, request: web.Request) -> web.Response:
        wanted = [each.split("=", 1) for each in json.loads(request.query["filters"])["label"]]
        found = [each for each in self.containers.values() if all(each.labels.get(k) == v for k, v in wanted)]
        return web.json_response(
            [
                {
                    "Id": each.id,
                    "Names": [f"/{each.name}"],
                    "State": each.state,
                    "Labels": each.labels,
                    "Status": f"Exited ({each.exit_code}) a second ago" if each.state == "exited" else "Up 2 seconds",
                }
                for each in found
            ]
        )

    async def _inspect(self, request: web.Request) -> web.Response:
        each = self._find(request)
        state = {"Status": each.state, "ExitCode": each.exit_code, "Error": ""}
        networks = {"bridge": {"IPAddress": "172.17.0.2"}}
        said = {"Id": each.id, "Name": f"/{each.name}", "State": state, "NetworkSettings": {"Networks": networks}}
        return web.json_response(said)

    async def _create(self, request: web.Request) -> web.Response:
        name, body = request.query["name"], await request.json()
        if any(each.name == name for each in self.containers.values()):
            return web.json_response(
                {"message": f'Conflict. The container name "/{name}" is already in use'}, status=409
            )
        if body["Image"] not in self.images:
            return web.json_response({"message": f"No such image: {body['Image']}"}, status=404)
        self._count += 1
        made = FakeContainer(f"{self._count:064x}", name, body)
        self.containers[made.id] = made
        return web.json_response({"Id": made.id, "Warnings": []}, status=201)

    async def _put(self, request: web.Request) -> web.Response:
        each = self._find(request)
        with tarfile.open(fileobj=io.BytesIO(await request.read())) as archive:
            for entry in archive.getmembers():
                held = archive.extractfile(entry)
                if held is not None:
                    each.files[f"/{entry.name}"] = held.read()
        return web.Response()

    async def _start(self, request: web.Request) -> web.Response:
        each = self._find(request)
        if each.state == "running":
            return web.Response(status=304)
        each.state, each.starts = "running", each.starts + 1
        if self.dies_at_once:
            each.end(1)
        return web.Response(status=204)

    async def _stop(self, request: web.Request) -> web.Response:
        each = self._find(request)
        if each.state != "running":
            return web.Response(status=304)
        each.end(143)
        return web.Response(status=204)

    async def _restart(self, request: web.Request) -> web.Response:
        each = self._find(request)
        each.state, each.starts = "running", each.starts + 1
        return web.Response(status=204)

    async def _remove(self, request: web.Request) -> web.Response:
        each = self._find(request)
        if each.state == "running" and request.query.get("force") != "true":
            return web.json_response({"message": "You cannot remove a running container"}, status=409)
        del self.containers[each.id]
        return web.Response(status=204)

    async def _logs(self, request: web.Request) -> web.Response:
        self._find(request)
        frames = [(1, b"one\n"), (2, b"two\n"), (1, b"three\n")][-int(request.query["tail"]) :]
        body = b"".join(bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text for stream, text in frames)
        return web.Response(body=body, content_type="application/vnd.docker.raw-stream")

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeEngine]:
        app = web.Application(middlewares=[self._serve], client_max_size=2**24)
        api = r"/v{version:\d+\.\d+}"
        one = f"{api}/containers/{{ref}}"
        app.add_routes(
            [
                web.get("/version", self._version),
                web.get(f"{api}/containers/json", self._list),
                web.post(f"{api}/containers/create", self._create),
                web.get(f"{one}/json", self._inspect),
                web.put(f"{one}/archive", self._put),
                web.post(f"{one}/start", self._start),
                web.post(f"{one}/stop", self._stop),
                web.post(f"{one}/restart", self._restart),
                web.delete(one, self._remove),
                web.get(f"{one}/logs", self._logs),
            ]
        )
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, str(self.path)).start()
        try:
            yield self
        finally:
            await runner.cleanup()
