"""The formats in which services tell a caller its own address."""

from __future__ import annotations

import json
from typing import Any, Final

from agent.egress.types import Location, SeenAddress, UnusableAnswer, read_address, read_country, read_text

_TRACE_LINES_MAX: Final = 100


def read_answer(body: bytes) -> SeenAddress:
    """What a source says: ipinfo's JSON (`ip`, `country`), ip-api's (`query`, `countryCode`) or a trace (`ip=`, `loc=`).

    Raises Useless unless it names an address. A country that is none is none: somebody else may know it.
    """
    if (trace := _read_trace(body)) is not None:
        return SeenAddress(read_address(trace["ip"]), Location(country=read_country(trace.get("loc"))))
    said = _read_object(body)
    place = Location(
        country=read_country(said.get("countryCode", said.get("country"))),
        city=read_text(said.get("city")),
        network=read_text(said.get("org", said.get("isp"))),
        time_zone=read_text(said.get("timezone")),
    )
    return SeenAddress(read_address(said.get("ip", said.get("query"))), place)


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnusableAnswer("it answers what is no JSON") from error
    if not isinstance(said, dict):
        raise UnusableAnswer("it answers no JSON object")
    if said.get("status", "success") != "success":
        raise UnusableAnswer(f"it failed: {read_text(said.get('message')) or 'it does not say why'}")
    return said


def _read_trace(body: bytes) -> dict[str, str] | None:
    """The `key=value` lines of a body that is nothing else and has an `ip`; None for any other body."""
    try:
        lines = body.decode().split("\n", _TRACE_LINES_MAX)
    except UnicodeDecodeError:
        return None
    pairs = [line.partition("=") for line in lines if line.strip()]
    if not all(key.isidentifier() and equals for key, equals, _ in pairs):
        return None
    found = {key: value.strip() for key, _, value in pairs}
    return found if "ip" in found else None
