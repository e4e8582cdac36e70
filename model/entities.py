"""The things that are declared, as frozen values: fleets, pools, exits, routes. A World holds them.

Pure: no database, no clock, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias
from uuid import UUID

from model.exit_states import ExitState
from model.locality import Locality


class Role(StrEnum):
    """What an Envoy under control does: gateways take clients in, exits let their traffic out."""

    GATEWAY = "gateway"
    EXIT = "exit"


FIRST_LISTENER: Final = "clients"
"""What the listener is called that a fleet is declared with."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Gateways that share configuration and an isolation boundary; Envoy's `node.cluster`."""

    id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the gateways of a fleet take clients in. `address` is an IP literal.

    `country` or `pool_id` is what a client wishes that says nothing itself; before them goes the TLS server name that it
    dialled, if `countries_by_server_name` has it. Without a certificate it speaks no TLS.
    """

    id: UUID
    fleet_id: UUID
    address: str
    port: int
    name: str = FIRST_LISTENER
    country: str | None = None
    pool_id: UUID | None = None
    certificate_id: UUID | None = None
    countries_by_server_name: tuple[tuple[str, str], ...] = ()
    """Pairs, by server name."""


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """What listeners show to clients that speak TLS to them: PEM, and the key is a secret."""

    id: UUID
    fleet_id: UUID
    name: str
    chain: str
    key: str = field(repr=False)


class Policy(StrEnum):
    """How a pool shares requests among its exits."""

    LEAST_REQUEST = "least_request"
    """Of two at random, the one with less to do."""
    ROUND_ROBIN = "round_robin"
    RANDOM = "random"
    """Whatever their weights are."""
    SESSION = "session"
    """One session, one exit, as long as it serves; requests without a session go to any."""


class WeighBy(StrEnum):
    """What multiplies the declared weights of a pool's exits."""

    LATENCY = "latency"
    """Half the round trip, twice the share."""
    HEALTH = "health"
    """The part of the last day in which it served; a quarter of that while it is degraded."""
    COST = "cost"
    """Half the price, twice the share."""


@dataclass(frozen=True, slots=True)
class Balancing:
    """How requests are shared among the exits of a pool.

    With `session_ttl_s`, a session may get another exit after so many seconds; without, it keeps its own as long as that serves.
    """

    policy: Policy = Policy.LEAST_REQUEST
    weigh_by: WeighBy | None = None
    session_ttl_s: int | None = None


@dataclass(frozen=True, slots=True)
class Resilience:
    """What a pool bears of its exits' failures. Both are about reaching the exit itself: those of targets do not count.

    An exit that cannot be reached `failures_to_eject` times in a row is ejected, for `ejection_time_s` times the number of
    its ejections up to `max_ejection_time_s`, or until a check finds it well; never more than `max_ejection_percent` of a
    pool. Beside that it is asked every `check_interval_s`. When fewer than `panic_threshold_percent` are well, Envoy sends
    to all as if they were; at 0 it does not, and a pool without an exit that is well carries nothing
    (docs/architecture.md#fail-closed).
    """

    max_ejection_percent: int = 100
    panic_threshold_percent: int = 0
    ejection_time_s: int = 5
    max_ejection_time_s: int = 30
    failures_to_eject: int = 3
    check_interval_s: int = 1
    check_timeout_s: int = 1
    unhealthy_after: int = 2
    """Failed checks in a row."""
    healthy_after: int = 1
    """Good checks in a row."""
    degraded_above_ms: int | None = None
    """An exit whose round trips take longer is degraded, until they take a fifth less than this."""
    falls_borne: int = 5
    """An exit that fell out more often than this within `falls_window_s` has to be up for `hold_down_s` before it serves again."""
    falls_window_s: int = 600
    hold_down_s: int = 60


BALANCING: Final = Balancing()
RESILIENCE: Final = Resilience()
"""What pools have that say nothing else."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Exits that serve one country (ISO 3166-1 alpha-2, lower case), or one city of it.

    One that is `only_by_name` is not what a client gets that wishes for the country or the city.
    """

    id: UUID
    fleet_id: UUID
    name: str
    country: str
    city: str = ""
    only_by_name: bool = False
    # not hashed: pools are looked up often, and these seldom tell two apart
    balancing: Balancing = field(default=BALANCING, hash=False)
    resilience: Resilience = field(default=RESILIENCE, hash=False)


@dataclass(frozen=True, slots=True)
class Window:
    """A time of day in UTC, on some days of the week (0 is Monday), from the minute `start` to before `end`.

    One whose end is not after its start ends on the next day; `days` are those that it begins on.
    """

    days: frozenset[int]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests a route is for: those that meet every condition that it has, by any one of that one's values.

    All text is lower case. `domains` are names with all below them, `networks` are CIDR and match targets that are address
    literals (gateways resolve no names), `ports` are inclusive ranges. Of `sessions`, one that ends in `*` is a prefix.
    """

    countries: frozenset[str] = frozenset()
    cities: frozenset[str] = frozenset()
    pools: frozenset[str] = frozenset()
    """The names of pools that clients wish for."""
    sessions: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    ports: frozenset[tuple[int, int]] = frozenset()
    times: frozenset[Window] = frozenset()


@dataclass(frozen=True, slots=True)
class ToPools:
    """Send it to one of these pools, by weight; where that has no healthy exit, to the others, then to the fallback's.

    Pairs of a pool's id and its weight, and pool ids in order.
    """

    weighted: tuple[tuple[UUID, int], ...]
    fallback: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Allow:
    """Send it where the wish says, whatever later routes say."""


@dataclass(frozen=True, slots=True)
class Deny:
    """Refuse it."""

    status: int
    text: str


Action: TypeAlias = ToPools | Allow | Deny


@dataclass(frozen=True, slots=True)
class Route:
    """Which wish goes where. Those of a fleet are tried by position, then name; the first that matches decides."""

    id: UUID
    fleet_id: UUID
    name: str
    position: int
    enabled: bool
    match: Match
    action: Action


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who uses gateways; routes may match on the group."""

    id: UUID
    fleet_id: UUID
    name: str
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Parent:
    """An HTTP proxy that an exit sends all traffic on to, at an IP literal or a host name. Credentials are both or neither."""

    address: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Exit:
    """A VPN tunnel with a way in.

    `endpoint` is the IP literal that gateways dial (None while a host name is unresolved), `bind_address` what its Envoy
    listens on, `egress_address` the source address it must use towards targets (None: the kernel's choice). `weight` is its
    share beside the other exits of its pool; one on `standby` serves only when no other exit of the pool does. With a `parent`
    its Envoy dials that one alone, and no target.
    """

    id: UUID
    pool_id: UUID
    name: str
    endpoint: str | None
    port: int
    state: ExitState
    bind_address: str = "0.0.0.0"  # noqa: S104 - the exit's listener demands a gateway's certificate
    egress_address: str | None = None
    locality: Locality | None = None
    weight: int = 1
    standby: bool = False
    parent: Parent | None = None


@dataclass(frozen=True, slots=True)
class Proxy:
    """An Envoy under control. The Envoy of a managed exit is a proxy with the exit's own id."""

    id: UUID
    fleet_id: UUID
    name: str
    role: Role
    locality: Locality | None = None


@dataclass(frozen=True, slots=True)
class ResourceKey:
    """One resource of one group of proxies, across its versions."""

    group: str
    type_url: str
    name: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The version of a resource that a group is settled at, with its bytes (an Any's value)."""

    key: ResourceKey
    version: str
    body: bytes

    @property
    def group(self) -> str:
        return self.key.group


@dataclass(frozen=True, slots=True)
class Rejection:
    """A version that a proxy refused, with Envoy's own words. It is sent to nobody else (docs/architecture.md#guard-rails).

    `proxy_id` is None when it was refused by the control plane's own check.
    """

    key: ResourceKey
    version: str
    proxy_id: UUID | None
    detail: str


@dataclass(frozen=True, slots=True)
class Approval:
    """An operator's word that a fleet may lose more than half of what it has."""

    fleet_id: UUID


Entity: TypeAlias = (
    Fleet | Listener | Pool | Exit | Proxy | Route | User | ServerCertificate | Accepted | Rejection | Approval
)
