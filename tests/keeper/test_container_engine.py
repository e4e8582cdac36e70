"""The client of container engines, against the fake engine and against podman."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from keeper.containers.api_version import NEWEST, OLDEST, ApiVersion
from keeper.containers.engine import Engine
from keeper.containers.engine_responses import ContainerState, read_inspected, read_list, read_logs, read_version
from keeper.containers.errors import (
    BadEngineResponse,
    EngineError,
    EngineForbidden,
    EngineUnreachable,
    NameTaken,
    NoCommonVersion,
    NoSuchContainer,
    NoSuchImage,
    OutOfDisk,
    VersionRefused,
)
from tests.keeper.fake_engine import FakeEngine
from tests.keeper.podman import IMAGE, imported, podman, with_libraries

LABEL = "exitplane.instance"
VERSION = b'{"Version": "29.0.0", "ApiVersion": "1.52", "MinAPIVersion": "1.44"}'


@pytest.fixture
async def fake_engine(tmp_path) -> AsyncIterator[FakeEngine]:
    async with FakeEngine(tmp_path / "engine.sock").serving() as serving:
        yield serving


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """An image with a shell only."""
    shell = Path("/bin/sh").resolve()
    tools = [Path("/bin/sleep").resolve(), Path("/bin/cat").resolve()]
    content = with_libraries([shell, *tools]) | {"/bin/sh": shell, "/bin/sleep": tools[0], "/bin/cat": tools[1]}
    with imported(f"{IMAGE}:shell", content) as name:
        yield name


async def live_through(engine: Engine, image: str, command: list[str], until) -> str:
    """Run a container through its life cycle, and return its logs."""
    name, labels = f"h4-{uuid4().hex[:12]}", {LABEL: uuid4().hex, "other": "x"}
    body = {"Image": image, "Cmd": command, "Labels": labels, "HostConfig": {"NetworkMode": "none"}}
    wanted = {LABEL: labels[LABEL]}
    assert (await engine.version()).newest >= OLDEST
    assert await engine.list(wanted) == []
    made = await engine.create(name, body)
    try:
        (seen,) = await engine.list(wanted)
        assert (seen.id, seen.name, seen.state) == (made, name, ContainerState.CREATED)
        assert seen.labels.items() >= labels.items()
        with pytest.raises(NameTaken):
            await engine.create(name, body)
        await engine.put_file(made, "/run/exitplane/token", b"a word\n")
        await engine.start(made)
        await engine.start(made)
        inspected = await engine.inspect(name)
        assert (inspected.id, inspected.name, inspected.state) == (made, name, ContainerState.RUNNING)

        async def both_lines() -> str | None:
            found = await engine.logs(made, 2)
            return found if len(found.splitlines()) == 2 else None

        written = await until(both_lines)
        await engine.restart(made, 1)
        assert (await engine.inspect(made)).state is ContainerState.RUNNING
        await engine.stop(made, 1)
        await engine.stop(made, 1)
        assert [each.state for each in await engine.list(wanted)] == [ContainerState.ENDED]
    finally:
        await engine.remove(made)
    await engine.remove(made)
    assert await engine.list(wanted) == []
    with pytest.raises(NoSuchContainer):
        await engine.start(made)
    with pytest.raises(NoSuchImage) as refused:
        await engine.create(name, body | {"Image": "localhost/nowhere:1"})
    assert refused.value.hint
    return written


async def test_container_life_cycle_with_the_fake_engine(fake_engine, until):
    async with Engine(fake_engine.address) as engine:
        assert await live_through(engine, "exit:1", [], until) == "two\nthree\n"


@pytest.mark.containers
@pytest.mark.slow
async def test_container_life_cycle_with_podman(tmp_path, request, until):
    async with podman(tmp_path, until) as address, Engine(address) as engine:
        script = "cat /run/exitplane/token; echo next >&2; sleep 100"
        written = await live_through(engine, request.getfixturevalue("image"), ["/bin/sh", "-c", script], until)
        assert sorted(written.splitlines()) == ["a word", "next"]
        body = {"Image": f"{IMAGE}:shell", "Cmd": ["/bin/sh"], "HostConfig": {"NetworkMode": "nowhere"}}
        with pytest.raises(EngineError, match="network"):
            await engine.create(f"h4-{uuid4().hex[:12]}", body)


async def test_engine_over_tcp(tmp_path):
    async with FakeEngine(tmp_path / "engine.sock").serving() as fake_engine:

        async def pipe(reader, writer):
            while chunk := await reader.read(65_536):
                writer.write(chunk)
            writer.close()

        async def forward(reader, writer):
            to_reader, to_writer = await asyncio.open_unix_connection(str(fake_engine.path))
            await asyncio.gather(pipe(reader, to_writer), pipe(to_reader, writer))

        server = await asyncio.start_server(forward, "127.0.0.1", 0)
        async with server, Engine(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}") as engine:
            assert (await engine.version()).engine == "0.0-stand-in"


# -- the version of the API --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("oldest", "newest", "spoken"),
    [
        ((1, 24), (1, 41), "1.41"),  # podman 4
        ((1, 44), (1, 52), "1.52"),  # Docker 29.0
        ((1, 9), (1, 47), "1.47"),
        ((1, 24), (1, 40), str(OLDEST)),
        ((1, 40), (1, 99), str(NEWEST)),
        ((1, 56), (2, 0), str(NEWEST)),
    ],
)
async def test_newest_common_api_version_is_used(fake_engine, oldest, newest, spoken):
    fake_engine.oldest, fake_engine.newest = oldest, newest
    async with Engine(fake_engine.address) as engine:
        for _ in range(3):
            await engine.list({})
    assert fake_engine.spoken == [spoken] * 3
    assert fake_engine.asked == ["GET /version", *["GET /containers/json"] * 3]


@pytest.mark.parametrize(
    ("oldest", "newest", "hint"),
    [
        ((1, 24), (1, 39), "update the engine"),
        ((1, 57), (1, 70), "update Exitplane"),
        ((2, 0), (2, 1), "update Exitplane"),
    ],
)
async def test_engine_without_a_common_version_is_refused(fake_engine, oldest, newest, hint):
    fake_engine.oldest, fake_engine.newest = oldest, newest
    async with Engine(fake_engine.address) as engine:
        with pytest.raises(NoCommonVersion, match=f"{oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}") as refused:
            await engine.list({})
    assert hint in refused.value.hint
    assert fake_engine.spoken == []


async def test_api_version_is_agreed_again_after_the_engine_was_replaced(fake_engine):
    fake_engine.oldest, fake_engine.newest = (1, 40), (1, 43)
    async with Engine(fake_engine.address) as engine:
        await engine.list({})
        fake_engine.oldest, fake_engine.newest = (1, 44), (1, 52)
        await engine.create("us-1", {"Image": "exit:1"})
        fake_engine.oldest, fake_engine.newest = (1, 40), (1, 45)
        assert [each.name for each in await engine.list({})] == ["us-1"]
    assert fake_engine.spoken == ["1.43", "1.43", "1.52", "1.52", "1.45"]


@pytest.mark.parametrize(
    "words", ["old. Minimum supported API version is 1.53", "new. Maximum supported API version is 1.44"]
)
async def test_request_is_repeated_once_after_a_refused_version(fake_engine, words):
    fake_engine.fails["GET /containers"] = (400, f"client version 1.52 is too {words}")
    async with Engine(fake_engine.address) as engine:
        with pytest.raises(VersionRefused, match=words) as refused:
            await engine.list({})
    assert refused.value.hint
    assert fake_engine.asked == ["GET /version", "GET /containers/json"] * 2


async def test_other_bad_requests_are_not_repeated(fake_engine):
    fake_engine.fails["POST /containers/create"] = (400, "invalid reference format")
    async with Engine(fake_engine.address) as engine:
        with pytest.raises(EngineError, match="invalid reference format") as refused:
            await engine.create("us-1", {"Image": "exit:1"})
    assert not isinstance(refused.value, NoCommonVersion)
    assert fake_engine.asked == ["GET /version", "POST /containers/create"]


@pytest.mark.parametrize(
    ("body", "oldest"),
    [
        (VERSION, ApiVersion(1, 44)),
        (b'{"Version": "5.7.0", "ApiVersion": "1.52.0", "MinAPIVersion": "1.24.0"}', ApiVersion(1, 24)),
        (b'{"ApiVersion": "1.52"}', ApiVersion(1, 52)),
    ],
)
def test_api_versions_have_two_or_three_parts(body, oldest):
    read = read_version(body)
    assert (read.oldest, read.newest) == (oldest, ApiVersion(1, 52))


@pytest.mark.parametrize(
    "body",
    [
        *(b"[1]", b"{}", b'{"ApiVersion": null}', b'{"ApiVersion": 1.4}', b'{"ApiVersion": ""}'),
        *(
            b'{"ApiVersion": "latest"}',
            b'{"ApiVersion": "1.44/../.."}',
            b'{"ApiVersion": "1.44", "MinAPIVersion": "x"}',
        ),
    ],
)
def test_malformed_api_version_is_a_bad_response(body):
    with pytest.raises(BadEngineResponse) as refused:
        read_version(body)
    assert "EXITPLANE_CONTAINER_ENGINE" in refused.value.hint


def test_addresses_are_read_from_the_networks_only():
    networks = '{"exits": {"IPAddress": "10.89.0.2"}, "none": {"IPAddress": ""}, "odd": {}}'
    settings = f'{{"IPAddress": "172.17.0.2", "Networks": {networks}}}'
    body = f'{{"Id": "a", "Name": "/us-1", "State": {{"Status": "running"}}, "NetworkSettings": {settings}}}'
    assert read_inspected(body.encode()).addresses == {"exits": "10.89.0.2", "none": "", "odd": ""}


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_missing_engine_is_unreachable(tmp_path):
    async with Engine(f"unix://{tmp_path}/none.sock") as engine:
        with pytest.raises(EngineUnreachable, match=r"none\.sock") as refused:
            await engine.list({})
    assert "EXITPLANE_CONTAINER_ENGINE" in refused.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_socket_without_permission_is_forbidden(fake_engine, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", refuse)
    async with Engine(fake_engine.address) as engine:
        with pytest.raises(EngineForbidden):
            await engine.version()


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (500, "write /var/lib/docker: no space left on device", OutOfDisk),
        (403, "Forbidden by the proxy's rules", EngineForbidden),
        (404, "No such image: exit:1", NoSuchImage),
        (500, "creating container storage: the name is already in use", NameTaken),
        (409, "Conflict", NameTaken),
        (500, "the daemon has other worries", EngineError),
    ],
)
async def test_refusals_map_to_errors_with_the_engines_message(fake_engine, status, message, kind):
    fake_engine.fails["POST /containers/create"] = (status, message)
    async with Engine(fake_engine.address) as engine:
        with pytest.raises(EngineError) as refused:
            await engine.create("us-1", {"Image": "exit:1"})
    assert type(refused.value) is kind
    assert (message in str(refused.value), bool(refused.value.hint)) == (True, True)


@asynccontextmanager
async def answering(path: Path, reply: bytes, version: bytes | None = None):
    """Serve `reply` for every request (empty: no response), and `version` for GET /version."""
    writers = []

    async def answer(reader, writer):
        writers.append(writer)
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(reply if version is None or not asked.startswith(b"GET /version ") else version)
        if reply:
            writer.close()

    server = await asyncio.start_unix_server(answer, str(path))
    try:
        yield
    finally:
        server.close()
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>", BadEngineResponse),
        (b"[1]", BadEngineResponse),
        (b'{"message": 3}', BadEngineResponse),
        (b'[{"Id": "a", "Names": [], "State": "running"}]', BadEngineResponse),
        (b"\xff\xfe", BadEngineResponse),
        (b" " * (5 * 2**20), BadEngineResponse),
    ],
)
async def test_response_of_something_else_is_a_bad_response(tmp_path, body, kind):
    def whole(content):
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content

    path = tmp_path / "odd.sock"
    async with answering(path, whole(body), whole(VERSION)), Engine(f"unix://{path}") as engine:
        with pytest.raises(kind):
            await engine.list({})
        with pytest.raises(kind):
            await engine.inspect("us-1")
    path.unlink(missing_ok=True)
    async with answering(path, whole(body)), Engine(f"unix://{path}") as engine:
        with pytest.raises(kind):
            await engine.list({})


async def test_hanging_engine_times_out(tmp_path):
    async with (
        answering(tmp_path / "mute.sock", b""),
        Engine(f"unix://{tmp_path}/mute.sock", timeout_s=0.2) as engine,
    ):
        with pytest.raises(EngineUnreachable, match=r"within 0\.2 s"):
            await engine.version()


async def test_server_without_http_is_unreachable(tmp_path):
    async with (
        answering(tmp_path / "odd.sock", b"SSH-2.0-OpenSSH\r\n"),
        Engine(f"unix://{tmp_path}/odd.sock") as engine,
    ):
        with pytest.raises(EngineUnreachable):
            await engine.version()


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "state"),
    [
        *(("created", ContainerState.CREATED), ("configured", ContainerState.CREATED)),
        *(
            ("running", ContainerState.RUNNING),
            ("Running", ContainerState.RUNNING),
            ("paused", ContainerState.RUNNING),
        ),
        *(
            ("exited", ContainerState.ENDED),
            ("dead", ContainerState.ENDED),
            ("removing", ContainerState.ENDED),
            ("something new", ContainerState.ENDED),
        ),
    ],
)
def test_engine_states_map_to_three_states(said, state):
    listed = read_list(f'[{{"Id": "a", "Names": ["/us-1"], "State": "{said}", "Labels": null}}]'.encode())
    assert [(each.name, each.state) for each in listed] == [("us-1", state)]
    shown = read_inspected(f'{{"Id": "a", "Name": "/us-1", "State": {{"Status": "{said}"}}}}'.encode())
    assert shown.state is state


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", ""),
        (b"plain\n", "plain\n"),
        (b"\x01\0\0\0\0\0\0\x03one", "one"),
        (b"\x01\0\0\0\0\0\0\x02ab\x02\0\0\0\0\0\0\x01c", "abc"),
        (b"\x01\0\0\0\0\0\0\x09cut", "cut"),
        (b"\x02\0\0\0\0\0\0\x01\xff", "\ufffd"),
    ],
)
def test_logs_are_read_with_frames_and_without(body, text):
    assert read_logs(body) == text


def test_removed_engine_leaves_no_listening_port():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]

    async def ask():
        async with Engine(f"tcp://127.0.0.1:{port}") as engine:
            await engine.version()

    with pytest.raises(EngineUnreachable):
        asyncio.run(ask())
