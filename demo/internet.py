"""A small internet: `python -m demo.internet HOST:PORT [GEO_MAP]` serves a page that shows each client its own request.

With a GeoMap (JSON) it also serves geolocation (`demo.geolocation`) and names (`demo.name_servers`).

any path            JSON: source, port, method, path, headers ([name, value] pairs as received), received_bytes
/seen               JSON: the number of requests from each source, without those to /seen and to geolocation
/echo               a WebSocket that returns each message, text or bytes
/bytes?n=N          N zero bytes; with &bps=R at most R bytes per second
/stall              answers at once and never reads the request's body, so that an upload stalls
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import AsyncIterator

from aiohttp import WSMsgType, web
from aiohttp.typedefs import Handler

from demo.geo_map import GeoMap
from demo.geolocation import PATHS, Geolocation
from demo.name_servers import serve_names

_CHUNK = bytes(64 * 1024)
_BYTES_USAGE = "write /bytes?n=1000000, with &bps=250000 for a rate limit\n"
_NOT_COUNTED = ("/seen", *PATHS)
_REQUESTS: web.AppKey[Counter[str]] = web.AppKey("requests", Counter)


def create_app(geo_map: GeoMap | None = None) -> web.Application:
    """Create the application, with empty counts."""
    geo_map = geo_map or GeoMap()

    async def names(_app: web.Application) -> AsyncIterator[None]:
        async with serve_names(geo_map):
            yield

    app = web.Application(middlewares=[_count])
    app[_REQUESTS] = Counter()
    app.cleanup_ctx.append(names)
    Geolocation(geo_map, lambda request: _source(request)[0]).add_to(app)
    app.router.add_get("/seen", _show_requests)
    app.router.add_get("/echo", _echo)
    app.router.add_get("/bytes", _bytes)
    app.router.add_route("*", "/stall", _stall)
    app.router.add_route("*", "/{path:.*}", _page)
    return app


@web.middleware
async def _count(request: web.Request, handler: Handler) -> web.StreamResponse:
    if not request.path.startswith(_NOT_COUNTED):
        request.app[_REQUESTS][_source(request)[0]] += 1
    return await handler(request)


async def _page(request: web.Request) -> web.StreamResponse:
    received_bytes = 0
    async for chunk in request.content.iter_any():
        received_bytes += len(chunk)
    source, port = _source(request)
    return web.json_response(
        {
            "source": source,
            "port": port,
            "method": request.method,
            "path": request.path_qs,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers],
            "received_bytes": received_bytes,
        }
    )


async def _show_requests(request: web.Request) -> web.StreamResponse:
    return web.json_response(request.app[_REQUESTS])


async def _echo(request: web.Request) -> web.StreamResponse:
    if request.headers.get("upgrade", "").lower() != "websocket":
        raise web.HTTPUpgradeRequired(text="this is a WebSocket: connect with ws://\n")
    stream = web.WebSocketResponse(max_msg_size=16 * 1024 * 1024)
    await stream.prepare(request)
    async for message in stream:
        if message.type is WSMsgType.TEXT:
            await stream.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await stream.send_bytes(message.data)
    return stream


async def _bytes(request: web.Request) -> web.StreamResponse:
    try:
        remaining, bps = int(request.query["n"]), float(request.query.get("bps", 0))
    except (KeyError, ValueError):
        raise web.HTTPBadRequest(text=_BYTES_USAGE) from None
    if remaining < 0 or bps < 0:
        raise web.HTTPBadRequest(text=_BYTES_USAGE)
    response = web.StreamResponse(headers={"content-type": "application/octet-stream"})
    response.content_length = remaining
    await response.prepare(request)
    # a rate-limited download is sent in tenths of a second, so that it is steady
    size = min(len(_CHUNK), max(1, int(bps / 10))) if bps else len(_CHUNK)
    while remaining > 0:
        await response.write(_CHUNK[: min(size, remaining)])
        remaining -= size
        if bps:
            await asyncio.sleep(size / bps)
    return response


async def _stall(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/plain"})
    await response.prepare(request)
    # a dot now and then, because only a write detects that the client of an unread upload has disconnected
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b".")
            await asyncio.sleep(0.5)
    return response


def _source(request: web.Request) -> tuple[str, int]:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return (str(peer[0]), int(peer[1])) if peer else ("unknown", 0)


def main(address: str, geo_map: str | None = None) -> None:
    """Serve on `HOST:PORT` until SIGTERM; `geo_map` is a GeoMap as JSON."""
    host, _, port = address.rpartition(":")
    app = create_app(None if geo_map is None else GeoMap.from_json(geo_map))
    web.run_app(app, host=host, port=int(port), print=None, access_log=None, shutdown_timeout=1)


if __name__ == "__main__":
    main(*sys.argv[1:3])
