"""A geolocation service in the formats of ipinfo, ip-api and Cloudflare's trace, which can be made to lie or fail.

/ipinfo, /ip-api, /trace         the caller's address and country; with /ADDRESS, those of that address
PUT /ipinfo/ADDRESS, …           move the address to the country in the body, in all formats
PUT /ipinfo, /ip-api, /trace     make the format answer `html`, be `silent`, state one country for everybody, or (empty) be correct
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
    """The service, with an override for each format."""

    def __init__(self, geo_map: GeoMap, source_of: Callable[[web.Request], str]) -> None:
        self._countries = dict(geo_map.countries)
        self._source_of = source_of
        self._overrides = dict.fromkeys(PATHS, "")

    def add_to(self, app: web.Application) -> None:
        for path, answer in zip(PATHS, (_ipinfo, _ip_api, _trace), strict=True):
            for shape in (path, path + "/{address}"):
                app.router.add_get(shape, self._make_handler(path, answer))
            app.router.add_put(path, self._put_override)
            app.router.add_put(path + "/{address}", self._put_country)

    def _make_handler(self, path: str, answer: Callable[[str, str | None], Answer]) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            address = request.match_info.get("address") or self._source_of(request)
            override, country = self._overrides[path], self._countries.get(address)
            if override == SILENT:
                await asyncio.sleep(_SILENCE_S)
            if override == HTML:
                return web.Response(text="<html>Please solve this captcha</html>", content_type="text/html")
            content = answer(address, override or country)
            return web.Response(text=content) if isinstance(content, str) else web.json_response(content)

        return handle

    async def _put_override(self, request: web.Request) -> web.StreamResponse:
        self._overrides[request.path] = (await request.text()).strip()
        return web.Response(status=204)

    async def _put_country(self, request: web.Request) -> web.StreamResponse:
        self._countries[request.match_info["address"]] = (await request.text()).strip()
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
