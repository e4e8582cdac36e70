"""The message xds.type.matcher.v3.IPMatcher, which envoy-data-plane lacks, for reading resources."""

from __future__ import annotations

from typing import Final

import betterproto2
from envoy_data_plane.message_pool import default_message_pool
from envoy_data_plane.xds.core.v3 import CidrRange
from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch
from pydantic.dataclasses import dataclass

_PACKAGE: Final = "xds.type.matcher.v3"


@dataclass(eq=False, repr=False, config={"extra": "forbid"})
class IpRangeMatcher(betterproto2.Message):
    """Networks, and the action for an address in one of them."""

    ranges: list[CidrRange] = betterproto2.field(1, betterproto2.TYPE_MESSAGE, repeated=True)
    on_match: MatcherOnMatch | None = betterproto2.field(2, betterproto2.TYPE_MESSAGE, optional=True)
    exclusive: bool = betterproto2.field(3, betterproto2.TYPE_BOOL)


@dataclass(eq=False, repr=False, config={"extra": "forbid"})
class IpMatcher(betterproto2.Message):
    """A trie of networks."""

    range_matchers: list[IpRangeMatcher] = betterproto2.field(1, betterproto2.TYPE_MESSAGE, repeated=True)


def register() -> None:
    """Register the types, so that messages with an IPMatcher can be parsed."""
    default_message_pool.register_message(_PACKAGE, "IPMatcher.IPRangeMatcher", IpRangeMatcher)
    default_message_pool.register_message(_PACKAGE, "IPMatcher", IpMatcher)
