"""Where everything on a demo's internet is, and what it is called: the same facts for geolocation and for names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from demo.plan import PAGE_NAME, AddressPlan

HOST_COUNTRY: Final = "zz"
"""Where this host is, and whatever is beside the tunnels: a code that ISO 3166 gives to no country."""


@dataclass(frozen=True, slots=True)
class GeoMap:
    """`places`: the country of each address; `hosts`: the address of each name.

    `authority` answers for the names, and `resolvers` ask it on behalf of exits, each from its own address. Without tunnels
    there are neither: names are this host's business then.
    """

    places: Mapping[str, str] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)
    authority: str | None = None
    resolvers: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> GeoMap:
        said = json.loads(text)
        return cls(**said | {"resolvers": tuple(said["resolvers"])})


def atlas_of(plan: AddressPlan) -> GeoMap:
    """The atlas of a demo."""
    places = {str(site.address): HOST_COUNTRY for site in plan.sites}
    places |= {str(site.egress_address): site.country for site in plan.sites}
    places[str(plan.host_address)] = HOST_COUNTRY
    if plan.name_server is None:
        return GeoMap(places)
    resolvers = {str(plan.resolver_of(site.country)): site.country for site in plan.sites}
    hosts = {PAGE_NAME: str(plan.page_address)}
    return GeoMap(places | resolvers, hosts, str(plan.name_server), tuple(resolvers))
