"""An offline Geo-IP file (MaxMind DB): where an address is, without asking anybody."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import maxminddb
import structlog

from agent.config.option_parsing import BadSetting
from agent.egress.types import Location, read_country, read_text

log = structlog.get_logger()

_LOOKED_THROUGH: Final = 200
"""Records that are looked through for a country, to tell a file of another kind."""
_BROKEN: Final = (
    maxminddb.InvalidDatabaseError,
    OSError,
    ValueError,
    TypeError,
    RecursionError,
)
"""What the reader raises on bytes that are not what they should be."""


class GeoFile:
    """Looks addresses up, and follows a file that is replaced. Read in place, so that a large one takes no memory.

    Raises BadSetting, which names `--geoip`, for a file that is of no use. One that is of no use when it replaces another is
    told of in the log, and the other one's word counts on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark = _mark_of(path)
        self._reader = _open(path)

    def find(self, address: str) -> Location | None:
        """Where an address is; None if the file does not know."""
        self._follow()
        try:
            record = self._reader.get(address)
        except _BROKEN as error:
            log.warning("geoip.unreadable", path=str(self._path), reason=str(error))
            return None
        return _place_of(record)

    def close(self) -> None:
        self._reader.close()

    def _follow(self) -> None:
        mark = _mark_of(self._path)
        if mark == self._mark:
            return
        self._mark = mark
        try:
            reader = _open(self._path)
        except BadSetting as error:
            log.warning("geoip.not_replaced", reason=str(error))
            return
        self._reader.close()
        self._reader = reader
        log.info("geoip.replaced", path=str(self._path))


def _mark_of(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file does."""
    try:
        found = os.stat(path)  # noqa: PTH116 - the same
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _open(path: Path) -> maxminddb.Reader:
    hint = "name a MaxMind DB (.mmdb) file that knows countries, whole and readable"
    try:
        reader = maxminddb.open_database(path, maxminddb.MODE_FILE)
    except OSError as error:
        if error.errno == errno.EINVAL:  # there is nothing in it to be read
            raise BadSetting(f"--geoip {path} is empty", hint=hint) from error
        raise BadSetting(f"--geoip {path} cannot be read ({error.strerror})", hint=hint) from error
    except _BROKEN as error:
        raise BadSetting(f"--geoip {path} is truncated or no MaxMind DB", hint=hint) from error
    try:
        known = any(_place_of(record) for _, record in islice(reader, _LOOKED_THROUGH))
    except _BROKEN as error:
        reader.close()
        raise BadSetting(f"--geoip {path} is damaged ({read_text(str(error)) or 'unreadable'})", hint=hint) from error
    if not known:
        kind = read_text(str(reader.metadata().database_type)) or "unknown"
        reader.close()
        raise BadSetting(f"--geoip {path} names no countries: its kind is {kind}", hint=hint)
    return reader


def _place_of(record: Any) -> Location | None:
    """The place in a record as MaxMind writes it (`country.iso_code`), or flat (`country_code`, `country`)."""
    if not isinstance(record, Mapping):
        return None
    of_country = record.get("country")
    code = of_country.get("iso_code") if isinstance(of_country, Mapping) else record.get("country_code", of_country)
    country = read_country(code)
    if country is None:
        return None
    network = record.get("autonomous_system_organization", record.get("as_name"))
    time_zone = record.get("location")
    return Location(
        country=country,
        city=read_text(_name_of(record.get("city"))),
        network=read_text(network),
        time_zone=read_text(time_zone.get("time_zone") if isinstance(time_zone, Mapping) else record.get("timezone")),
    )


def _name_of(city: Any) -> Any:
    names = city.get("names") if isinstance(city, Mapping) else None
    return names.get("en") if isinstance(names, Mapping) else city
