"""A service that tells callers their address and country, as ipinfo, ip-api and Cloudflare's trace do; and, told to, lies.

/ipinfo, /ip-api, /trace         where the caller is; with /ADDRESS behind it, where that is
PUT /ipinfo/ADDRESS, …           from now on the address is in that country, by all of them
PUT /ipinfo, /ip-api, /trace     from now on `html`, `silent`, a country to name for everybody, or, empty, the truth
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web

from demo.geo_map import GeoMap

PATHS: Final = ("/ipinfo", "/ip-api", "/trace")
HTML: Final = "html"
SILENT: Final = "silent"
_SILENCE_S: Final = 30.0
Answer = Mapping[str, Any] | str


class Geolocation:
    """The service with its moods, one for each format."""

    def __init__(self, atlas: GeoMap, source_of: Callable[[web.Request], str]) -> None:
        self._places = dict(atlas.places)
        self._source_of = source_of
        self._moods = dict.fromkeys(PATHS, "")

    def add_to(self, app: web.Application) -> None:
        for path, answer in zip(PATHS, (_ipinfo, _ip_api, _trace), strict=True):
            for shape in (path, path + "/{address}"):
                app.router.add_get(shape, self._answering(path, answer))
            app.router.add_put(path, self._take_mood)
            app.router.add_put(path + "/{address}", self._take_place)

    def _answering(self, path: str, answer: Callable[[str, str | None], Answer]) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            address = request.match_info.get("address") or self._source_of(request)
            mood, country = self._moods[path], self._places.get(address)
            if mood == SILENT:
                await asyncio.sleep(_SILENCE_S)
            if mood == HTML:
                return web.Response(text="<html>Please solve this riddle</html>", content_type="text/html")
            said = answer(address, mood or country)
            return web.Response(text=said) if isinstance(said, str) else web.json_response(said)

        return handle

    async def _take_mood(self, request: web.Request) -> web.StreamResponse:
        self._moods[request.path] = (await request.text()).strip()
        return web.Response(status=204)

    async def _take_place(self, request: web.Request) -> web.StreamResponse:
        self._places[request.match_info["address"]] = (await request.text()).strip()
        return web.Response(status=204)


def _ipinfo(address: str, country: str | None) -> Answer:
    if country is None:
        return {"ip": address, "bogon": True}
    return {"ip": address, "country": country.upper(), **_details(country, "org")}


def _ip_api(address: str, country: str | None) -> Answer:
    if country is None:
        return {"status": "fail", "message": "reserved range", "query": address}
    return {"status": "success", "query": address, "countryCode": country.upper(), **_details(country, "isp")}


def _trace(address: str, country: str | None) -> Answer:
    return f"fl=1\nip={address}\nloc={(country or 'xx').upper()}\ncolo=TST\n"


def _details(country: str, network: str) -> dict[str, str]:
    return {"city": f"{country.upper()} City", network: f"AS64500 {country.upper()} Network", "timezone": "Etc/UTC"}
