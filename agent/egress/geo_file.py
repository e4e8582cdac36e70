"""An offline Geo-IP file (MaxMind DB) that maps addresses to locations."""

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
from agent.egress.types import Location, parse_country, parse_text

log = structlog.get_logger()

_SAMPLED_RECORDS: Final = 200
"""Records that are searched for a country, to refuse a database of another kind."""
_READ_ERRORS: Final = (
    maxminddb.InvalidDatabaseError,
    OSError,
    ValueError,
    TypeError,
    RecursionError,
)
"""The exceptions that maxminddb raises for damaged bytes."""


class GeoFile:
    """A Geo-IP file that is reloaded when it is replaced. It is read in place, so a large file takes no memory.

    Raises BadSetting, which names `--geoip`, if the file is unusable at the start. A later replacement that is unusable is logged,
    and the previous file stays in use.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signature = _read_signature(path)
        self._reader = _open(path)

    def find(self, address: str) -> Location | None:
        """Look up an address; None if the file does not know it."""
        self._reload_if_replaced()
        try:
            record = self._reader.get(address)
        except _READ_ERRORS as error:
            log.warning("geoip.unreadable", path=str(self._path), reason=str(error))
            return None
        return _parse_location(record)

    def close(self) -> None:
        self._reader.close()

    def _reload_if_replaced(self) -> None:
        signature = _read_signature(self._path)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            reader = _open(self._path)
        except BadSetting as error:
            log.warning("geoip.not_replaced", reason=str(error))
            return
        self._reader.close()
        self._reader = reader
        log.info("geoip.replaced", path=str(self._path))


def _read_signature(path: Path) -> tuple[int, int, int] | None:
    """Return inode, size and modification time, which differ after a replacement."""
    try:
        found = os.stat(path)  # noqa: PTH116 - the same
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _open(path: Path) -> maxminddb.Reader:
    hint = "name a complete and readable MaxMind DB (.mmdb) file that has countries"
    try:
        reader = maxminddb.open_database(path, maxminddb.MODE_FILE)
    except OSError as error:
        if error.errno == errno.EINVAL:  # the reader seeks to before the start of an empty file
            raise BadSetting(f"--geoip {path} is empty", hint=hint) from error
        raise BadSetting(f"--geoip {path} cannot be read ({error.strerror})", hint=hint) from error
    except _READ_ERRORS as error:
        raise BadSetting(f"--geoip {path} is truncated or no MaxMind DB", hint=hint) from error
    try:
        known = any(_parse_location(record) for _, record in islice(reader, _SAMPLED_RECORDS))
    except _READ_ERRORS as error:
        reader.close()
        raise BadSetting(f"--geoip {path} is damaged ({parse_text(str(error)) or 'unreadable'})", hint=hint) from error
    if not known:
        kind = parse_text(str(reader.metadata().database_type)) or "unknown"
        reader.close()
        raise BadSetting(f"--geoip {path} names no countries: its type is {kind}", hint=hint)
    return reader


def _parse_location(record: Any) -> Location | None:
    """Parse a record in MaxMind's nested form (`country.iso_code`) or in a flat form (`country_code`, `country`)."""
    if not isinstance(record, Mapping):
        return None
    of_country = record.get("country")
    code = of_country.get("iso_code") if isinstance(of_country, Mapping) else record.get("country_code", of_country)
    country = parse_country(code)
    if country is None:
        return None
    network = record.get("autonomous_system_organization", record.get("as_name"))
    time_zone = record.get("location")
    return Location(
        country=country,
        city=parse_text(_read_city_name(record.get("city"))),
        network=parse_text(network),
        time_zone=parse_text(time_zone.get("time_zone") if isinstance(time_zone, Mapping) else record.get("timezone")),
    )


def _read_city_name(city: Any) -> Any:
    names = city.get("names") if isinstance(city, Mapping) else None
    return names.get("en") if isinstance(names, Mapping) else city
