"""What gateways answer to wishes that lead nowhere: status and text. Bounded, for Envoy refuses bodies above 4 KiB."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from xds.translate import names

_MOST_LISTED: Final = 50
_LONGEST_LIST: Final = 2_000
_LONGEST_BYTES: Final = 4_000


@dataclass(frozen=True, slots=True)
class DirectResponse:
    """A status and a text."""

    status: int
    text: str


def no_country_served(served: Iterable[str]) -> DirectResponse:
    return DirectResponse(404, f"exitplane: no pool serves the country asked for; served are: {_listed(served)}\n")


def nothing_asked(served: Iterable[str]) -> DirectResponse:
    return DirectResponse(
        400,
        "exitplane: no country was asked for; say it in the user name (NAME-country-de) "
        f"or in the header {names.COUNTRY_HEADER}; served are: {_listed(served)}\n",
    )


def no_such_pool(served: Iterable[str]) -> DirectResponse:
    return DirectResponse(404, f"exitplane: there is no pool of the name asked for; there are: {_listed(served)}\n")


def no_city_served(served: Iterable[str], country: str) -> DirectResponse:
    """Of a country of which some city is served."""
    return DirectResponse(
        404, f"exitplane: no pool serves the city asked for; served in {country} are: {_listed(served)}\n"
    )


def no_city_of_country(served: Iterable[str]) -> DirectResponse:
    """Of a country of which no city is served; `served` are countries of which some is."""
    return DirectResponse(
        404,
        "exitplane: no pool serves a city of the country asked for; "
        f"cities are served in: {_listed(served, nothing='no country')}\n",
    )


CITY_ALONE: Final = DirectResponse(
    400,
    "exitplane: a city was asked for without its country; say both in the user name (NAME-country-de-city-berlin) "
    f"or in the headers {names.COUNTRY_HEADER} and {names.CITY_HEADER}\n",
)


def pools_are_gone(route: str) -> DirectResponse:
    return DirectResponse(503, f"exitplane: the pools that route {route} leads to are gone\n")


def denied(status: int, text: str) -> DirectResponse:
    """In an operator's own words."""
    return DirectResponse(status, text.encode()[:_LONGEST_BYTES].decode(errors="ignore"))


NOT_MATCHED_AGAIN: Final = DirectResponse(503, "exitplane: the gateway did not look the wish up again\n")
"""Where a route allowed a wish and the filter that knows of it failed."""


def _listed(served: Iterable[str], nothing: str = "none yet") -> str:
    """Some of them, in order."""
    known = sorted(served)
    some, length = known[:_MOST_LISTED], 0
    for index, each in enumerate(some):
        length += len(each) + 2
        if length > _LONGEST_LIST:
            some = some[:index]
            break
    more = len(known) - len(some)
    return (", ".join(some) + (f" and {more} more" if more else "")) or nothing
