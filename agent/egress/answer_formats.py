"""The formats in which geolocation services tell a caller its own address."""

from __future__ import annotations

import json
from typing import Any, Final

from agent.egress.types import Location, SeenAddress, UnusableAnswer, parse_address, parse_country, parse_text

_TRACE_LINES_MAX: Final = 100


def parse_answer(body: bytes) -> SeenAddress:
    """Parse ipinfo's JSON (`ip`, `country`), ip-api's (`query`, `countryCode`) or Cloudflare's trace (`ip=`, `loc=`).

    Raises UnusableAnswer without a valid address. An invalid country becomes None, because another source may know it.
    """
    if (trace := _parse_trace(body)) is not None:
        return SeenAddress(parse_address(trace["ip"]), Location(country=parse_country(trace.get("loc"))))
    answer = _parse_object(body)
    location = Location(
        country=parse_country(answer.get("countryCode", answer.get("country"))),
        city=parse_text(answer.get("city")),
        network=parse_text(answer.get("org", answer.get("isp"))),
        time_zone=parse_text(answer.get("timezone")),
    )
    return SeenAddress(parse_address(answer.get("ip", answer.get("query"))), location)


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnusableAnswer("its answer is not JSON") from error
    if not isinstance(answer, dict):
        raise UnusableAnswer("its answer is not a JSON object")
    if answer.get("status", "success") != "success":
        raise UnusableAnswer(f"it failed: {parse_text(answer.get('message')) or 'no reason given'}")
    return answer


def _parse_trace(body: bytes) -> dict[str, str] | None:
    """Parse a body that consists of `key=value` lines with an `ip` among them; None for any other body."""
    try:
        lines = body.decode().split("\n", _TRACE_LINES_MAX)
    except UnicodeDecodeError:
        return None
    pairs = [line.partition("=") for line in lines if line.strip()]
    if not all(key.isidentifier() and equals for key, equals, _ in pairs):
        return None
    trace = {key: value.strip() for key, _, value in pairs}
    return trace if "ip" in trace else None
