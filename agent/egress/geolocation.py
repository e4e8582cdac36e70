"""The lookup of an address's location: in the Geo-IP file, or at a geolocation service."""

from __future__ import annotations

import structlog
from yarl import URL

from agent.egress.geo_file import GeoFile
from agent.egress.http_sources import EgressPath, query_source
from agent.egress.types import Location, SeenAddress

log = structlog.get_logger()


class Geolocator:
    """Looks an address up in the file first, then at the service.

    The service answers `URL/ADDRESS` in the format of a source. It is queried over `path`.
    """

    def __init__(self, file: GeoFile | None, service: URL | None, path: EgressPath) -> None:
        self._file = file
        self._service = service
        self.path = path

    def find_in_file(self, address: str) -> Location | None:
        return None if self._file is None else self._file.find(address)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    async def find(self, address: str) -> Location | None:
        """Return the location of an address, or None if neither file nor service knows it."""
        location = self.find_in_file(address)
        if location is not None or self._service is None:
            return location
        async with self.path.open_session() as session:
            answer = await query_source(session, self._service / address)
        if isinstance(answer, SeenAddress) and answer.address == address:
            return answer.location
        log.warning(
            "observation.not_located", address=address, reason=answer if isinstance(answer, str) else "another address"
        )
        return None
