"""The direct responses of gateways to requests that no pool can carry. Texts are bounded: Envoy rejects bodies above 4 KiB."""

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
    """The HTTP status and text that Envoy answers by itself."""

    status: int
    text: str


def no_country_served(served: Iterable[str]) -> DirectResponse:
    return DirectResponse(404, f"exitplane: no pool serves the country asked for; served are: {_listed(served)}\n")


def no_location_requested(served: Iterable[str]) -> DirectResponse:
    return DirectResponse(
        400,
        "exitplane: no country was asked for; say it in the user name (NAME-country-de) "
        f"or in the header {names.COUNTRY_HEADER}; served are: {_listed(served)}\n",
    )


def no_such_pool(served: Iterable[str]) -> DirectResponse:
    return DirectResponse(404, f"exitplane: there is no pool of the name asked for; there are: {_listed(served)}\n")


def no_city_served(served: Iterable[str], country: str) -> DirectResponse:
    """For a country with some city served."""
    return DirectResponse(
        404, f"exitplane: no pool serves the city asked for; served in {country} are: {_listed(served)}\n"
    )


def no_city_of_country(served: Iterable[str]) -> DirectResponse:
    """For a country with no city served; `served` are the countries that have some."""
    return DirectResponse(
        404,
        "exitplane: no pool serves a city of the country asked for; "
        f"cities are served in: {_listed(served, nothing='no country')}\n",
    )


CITY_WITHOUT_COUNTRY: Final = DirectResponse(
    400,
    "exitplane: a city was asked for without its country; say both in the user name (NAME-country-de-city-berlin) "
    f"or in the headers {names.COUNTRY_HEADER} and {names.CITY_HEADER}\n",
)


INVALID_TARGET: Final = DirectResponse(
    400,
    "exitplane: the target is neither a name nor an address; write an IPv4 address as four numbers up to 255 without leading "
    "zeros\n",
)


def missing_pools(route: str) -> DirectResponse:
    return DirectResponse(503, f"exitplane: the pools that route {route} leads to are gone\n")


def denied_by_route(status: int, text: str) -> DirectResponse:
    """With the operator's text."""
    return DirectResponse(status, text.encode()[:_LONGEST_BYTES].decode(errors="ignore"))


NOT_MATCHED_AGAIN: Final = DirectResponse(503, "exitplane: the gateway did not match the request again\n")
"""For a request that a route allows, if the filter that matches it again fails."""


NOT_READ: Final = DirectResponse(503, "exitplane: the gateway did not read this request\n")
"""For a request of a fleet that traces, if the filter that reads the client's intent fails."""


def _listed(served: Iterable[str], nothing: str = "none yet") -> str:
    """List as many as fit, sorted."""
    known = sorted(served)
    some, length = known[:_MOST_LISTED], 0
    for index, each in enumerate(some):
        length += len(each) + 2
        if length > _LONGEST_LIST:
            some = some[:index]
            break
    more = len(known) - len(some)
    return (", ".join(some) + (f" and {more} more" if more else "")) or nothing
