"""Tests of the demo's internet."""

import asyncio
from io import BytesIO

import pytest
from aiohttp import ClientSession, WSServerHandshakeError
from aiohttp.test_utils import TestServer

from demo.internet import create_app


@pytest.fixture
async def page():
    server = TestServer(create_app(), host="127.0.0.1")
    async with server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
async def visitor():
    async with ClientSession() as session:
        yield session


async def test_page_returns_the_request(page, visitor):
    async with visitor.get(f"{page}/any/path?x=1", headers={"X-One": "a", "Exit-Country": "jp"}) as response:
        saw = await response.json()
    assert saw["source"] == "127.0.0.1"
    assert (saw["method"], saw["path"]) == ("GET", "/any/path?x=1")
    assert ["X-One", "a"] in saw["headers"]
    assert ["Exit-Country", "jp"] in saw["headers"]


async def test_upload_is_read_and_counted(page, visitor):
    async with visitor.put(f"{page}/upload", data=BytesIO(bytes(3_000_000))) as response:
        assert (await response.json())["received_bytes"] == 3_000_000


async def test_speed_test_url_serves_downloads_and_uploads(page, visitor):
    url = f"{page}/bytes?n=70000"
    async with visitor.get(url) as given, visitor.post(url, data=bytes(70_000)) as taken:
        assert len(await given.read()) == 70_000
        assert (await taken.json())["received_bytes"] == 70_000


async def test_requests_are_counted_except_those_for_the_count(page, visitor):
    for path in ("/", "/x", "/seen", "/seen"):
        async with visitor.get(f"{page}{path}") as response:
            count = await response.json()
    assert count == {"127.0.0.1": 2}


async def test_echo_returns_text_and_bytes(page, visitor):
    async with visitor.ws_connect(f"{page}/echo") as stream:
        await stream.send_str("word")
        assert await stream.receive_str() == "word"
        await stream.send_bytes(bytes(200_000))
        assert await stream.receive_bytes() == bytes(200_000)


async def test_echo_requires_a_websocket(page, visitor):
    async with visitor.get(f"{page}/echo") as response:
        assert response.status == 426
    with pytest.raises(WSServerHandshakeError):
        await visitor.ws_connect(f"{page}/bytes?n=1")


@pytest.mark.parametrize("length", [0, 1, 65_536, 1_000_001])
async def test_download_has_the_requested_length(page, visitor, length):
    async with visitor.get(f"{page}/bytes?n={length}") as response:
        assert len(await response.read()) == length


async def test_download_keeps_the_requested_rate(page, visitor):
    started = asyncio.get_running_loop().time()
    async with visitor.get(f"{page}/bytes?n=100000&bps=200000") as response:
        assert len(await response.read()) == 100_000
    assert asyncio.get_running_loop().time() - started > 0.4


@pytest.mark.parametrize("query", ["", "?n=x", "?n=-1", "?n=1&bps=-1", "?n=1&bps=fast"])
async def test_download_without_a_valid_length_is_refused(page, visitor, query):
    async with visitor.get(f"{page}/bytes{query}") as response:
        assert response.status == 400
        assert "/bytes?n=" in await response.text()


async def test_stalled_upload_is_never_read(page):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(page.rpartition(":")[2]))
    writer.write(b"POST /stall HTTP/1.1\r\nhost: page\r\ncontent-length: 1000000000\r\n\r\n")
    assert b" 200 " in await reader.readline()
    sent = 0

    async def flood():
        nonlocal sent
        while True:
            writer.write(bytes(65_536))
            await asyncio.wait_for(writer.drain(), 1)
            sent += 65_536

    with pytest.raises(TimeoutError):
        await flood()
    # no more than fits into the buffers of two sockets
    assert sent < 64_000_000
    writer.transport.abort()
