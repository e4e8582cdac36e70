"""Where an address is that no source was asked from: in the Geo-IP file, or asked of a service for addresses."""

from __future__ import annotations

import structlog
from yarl import URL

from agent.egress.geo_file import GeoFile
from agent.egress.http_sources import EgressPath, ask
from agent.egress.types import Location, SeenAddress

log = structlog.get_logger()


class Geolocator:
    """The file first; then the service, which answers `URL/ADDRESS` in the format of a source, asked by the tunnel's way."""

    def __init__(self, file: GeoFile | None, service: URL | None, way: EgressPath) -> None:
        self._file = file
        self._service = service
        self.way = way

    def in_file(self, address: str) -> Location | None:
        return None if self._file is None else self._file.find(address)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    async def find(self, address: str) -> Location | None:
        """None if nobody knows."""
        place = self.in_file(address)
        if place is not None or self._service is None:
            return place
        async with self.way.session() as session:
            said = await ask(session, self._service / address)
        if isinstance(said, SeenAddress) and said.address == address:
            return said.place
        log.warning(
            "observation.not_located", address=address, reason=said if isinstance(said, str) else "another address"
        )
        return None
