"""The declared things as frozen values: fleets, pools, exits, routes and the rest of what a World holds.

Pure: no database, no clock, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import ip_address
from typing import Final, TypeAlias
from uuid import UUID

from model.exit_states import ExitState
from model.locality import Locality


class Role(StrEnum):
    """The role of an Envoy under control: clients connect to gateways, and their traffic leaves through exits."""

    GATEWAY = "gateway"
    EXIT = "exit"


FIRST_LISTENER: Final = "clients"
"""The name of the listener that a fleet is declared with."""


TLS_VERSIONS: Final = ("1.2", "1.3")
"""The versions of TLS that a listener may begin with."""


@dataclass(frozen=True, slots=True)
class Tracing:
    """The spans that the Envoys of a fleet export (docs/tracing.md)."""

    share: float
    """The share of clients' requests that are traced, from 0 to 1."""
    targets: bool = False
    """Spans name the target of their request: its host and port."""

    @property
    def in_listeners(self) -> Tracing:
        """The part that listeners depend on, so that another share changes none of them."""
        return replace(self, share=0.0)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Gateways that share configuration and an isolation boundary; Envoy's `node.cluster`."""

    id: UUID
    name: str
    tracing: Tracing | None = None
    """None: its Envoys make no spans."""


class Authentication(StrEnum):
    """A way in which a client proves to a gateway who it is."""

    BASIC = "basic"
    """The name of a user and one of the user's secrets (RFC 7617)."""


@dataclass(frozen=True, slots=True)
class Listener:
    """The address and port at which the gateways of a fleet take clients in. `address` is an IP literal.

    `country` or `pool_id` is the location for clients that name none. The TLS server name that a client dialled takes precedence, if
    `countries_by_server_name` has it. A listener without a certificate speaks no TLS. Clients that dial a name of one of the
    `additional_certificates` get that one, all others `certificate_id`.
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
    """Pairs of a server name and a country, sorted."""
    additional_certificates: tuple[UUID, ...] = ()
    minimum_tls_version: str = TLS_VERSIONS[0]
    authentication: frozenset[Authentication] = frozenset()
    """The ways in which clients may authenticate. None: everybody who reaches the listener is served."""


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """The certificate that listeners show to TLS clients, as PEM. The key is a secret."""

    id: UUID
    fleet_id: UUID
    name: str
    chain: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TrustedAuthority:
    """A root certificate (PEM) by which exits verify gateways. During a change of roots there are two."""

    id: UUID
    certificate: str


class Policy(StrEnum):
    """The load-balancing policy of a pool."""

    LEAST_REQUEST = "least_request"
    """Of two random exits, the one with fewer open requests (Envoy's LEAST_REQUEST)."""
    ROUND_ROBIN = "round_robin"
    RANDOM = "random"
    """Weights are ignored."""
    SESSION = "session"
    """A session keeps its exit as long as that serves (consistent hashing); requests without a session go to any exit."""


HASHING_POLICIES: Final = frozenset({Policy.SESSION})
"""Policies that choose the exit by a hash of the session, so that a time to live of sessions makes sense."""


class WeighBy(StrEnum):
    """The measurement that multiplies the declared weights of a pool's exits."""

    LATENCY = "latency"
    """The share is inverse to the round trip."""
    HEALTH = "health"
    """The share follows the part of the last day in which the exit served; a degraded exit gets a quarter of it."""
    COST = "cost"
    """The share is inverse to the cost."""


@dataclass(frozen=True, slots=True)
class Balancing:
    """The load balancing among the exits of a pool.

    With `session_ttl_s`, a session may get another exit after that many seconds; without, it keeps one that serves.
    """

    policy: Policy = Policy.LEAST_REQUEST
    weigh_by: WeighBy | None = None
    session_ttl_s: int | None = None


@dataclass(frozen=True, slots=True)
class Resilience:
    """Health checks and hold-down of a pool's exits. Failures of requests and of targets do not count.

    Gateways check each exit every `check_interval_s`. When fewer than `panic_threshold_percent` are healthy, Envoy sends to all of
    them; at 0 it never does, and a pool without a healthy exit carries nothing (docs/architecture.md#fail-closed).
    """

    panic_threshold_percent: int = 0
    check_interval_s: int = 1
    check_timeout_s: int = 1
    unhealthy_after: int = 2
    """Failed health checks in a row."""
    healthy_after: int = 1
    """Successful health checks in a row."""
    degraded_above_ms: int | None = None
    """An exit with longer round trips is degraded, until they take a fifth less than this."""
    flap_threshold: int = 5
    """An exit that stopped serving more often than this within `flap_window_s` must be up for `hold_down_s` to serve again."""
    flap_window_s: int = 600
    hold_down_s: int = 60


BALANCING: Final = Balancing()
RESILIENCE: Final = Resilience()
"""The defaults of pools."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Exits that serve one country (ISO 3166-1 alpha-2, lower case), or one city of it.

    A pool that is `only_by_name` is not chosen by country or city, only by its name or by a route.
    """

    id: UUID
    fleet_id: UUID
    name: str
    country: str
    city: str = ""
    only_by_name: bool = False
    # not hashed: pools are hashed often, and these fields rarely differ
    balancing: Balancing = field(default=BALANCING, hash=False)
    resilience: Resilience = field(default=RESILIENCE, hash=False)


@dataclass(frozen=True, slots=True)
class Window:
    """A time of day in UTC, from the minute `start` to before the minute `end`, on some days of the week (0 is Monday).

    A window whose end is not after its start ends on the next day; `days` are the days on which it begins.
    """

    days: frozenset[int]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Match:
    """The conditions of a route. A request meets a condition by any of its values, and must meet all conditions that are set.

    All text is lower case. `domains` include their subdomains. `networks` are in CIDR notation and match targets that are address
    literals, because gateways resolve no names. `ports` are inclusive ranges. A session that ends in `*` is a prefix.
    """

    countries: frozenset[str] = frozenset()
    cities: frozenset[str] = frozenset()
    pools: frozenset[str] = frozenset()
    """The names of pools that clients ask for."""
    sessions: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    ports: frozenset[tuple[int, int]] = frozenset()
    times: frozenset[Window] = frozenset()


@dataclass(frozen=True, slots=True)
class ToPools:
    """Send the request to one of these pools, by weight.

    If that pool has no healthy exit, the other pools are tried, then the `fallback` pools in order. `weighted` holds pairs of a
    pool's id and its weight.
    """

    weighted: tuple[tuple[UUID, int], ...]
    fallback: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Allow:
    """Send the request to the pool that the client asks for, and skip later routes."""


@dataclass(frozen=True, slots=True)
class Deny:
    """Refuse the request with this status and text."""

    status: int
    text: str


Action: TypeAlias = ToPools | Allow | Deny


@dataclass(frozen=True, slots=True)
class Route:
    """A rule of a fleet. Routes are tried by position, then name; the first that matches decides."""

    id: UUID
    fleet_id: UUID
    name: str
    position: int
    enabled: bool
    match: Match
    action: Action


USER_SHARDS: Final = 32
"""The number of parts in which gateways are sent the users of a fleet."""


def user_shard(name: str) -> int:
    """Return the part that holds a user. The script client_intent.lua computes it, too."""
    number = 0
    for byte in name.encode():
        number = (number * 31 + byte) % 65521
    return number % USER_SHARDS


@dataclass(frozen=True, slots=True)
class UserSecret:
    """A user's secret as it is stored: its first character, which no other secret of the user has, and its SHA-1 in base64.

    Secrets are generated and have 128 random bits, so that a fast hash without salt is enough. Envoy compares no other.
    """

    slot: str
    digest: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class User:
    """A client of the gateways; routes may match the user or the group. `expires_at` is in seconds since 1970."""

    id: UUID
    fleet_id: UUID
    name: str
    group: str | None = None
    secrets: tuple[UserSecret, ...] = ()
    enabled: bool = True
    expires_at: int | None = None
    shard: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shard", user_shard(self.name))


@dataclass(frozen=True, slots=True)
class Parent:
    """An HTTP proxy to which an exit sends all its traffic, at an IP literal or host name. Credentials: both or neither."""

    address: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def is_named(self) -> bool:
        """True if the address is a host name."""
        try:
            ip_address(self.address)
        except ValueError:
            return True
        return False


@dataclass(frozen=True, slots=True)
class Exit:
    """A VPN tunnel with a way in.

    `endpoint` is the IP literal that gateways dial (None while a host name is unresolved). Its Envoy listens on
    `bind_address` and uses `egress_address` as source towards targets (None: the kernel's choice). `weight` is relative to
    the other exits of its pool. An exit on `standby` serves only when no other exit of the pool does. With a `parent` its
    Envoy dials only the parent.
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
    """An Envoy under control. The proxy of an exit has the exit's id."""

    id: UUID
    fleet_id: UUID
    name: str
    role: Role
    locality: Locality | None = None
    replaced_certificates: frozenset[str] = frozenset()
    """Thumbprints of certificates that ended when another key took over the name."""


@dataclass(frozen=True, slots=True)
class ResourceKey:
    """The identity of one resource of one group of proxies, whatever its version."""

    group: str
    type_url: str
    name: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The stable version of a resource in a group, with its bytes (the value of an Any)."""

    key: ResourceKey
    version: str
    body: bytes

    @property
    def group(self) -> str:
        return self.key.group


VALIDATOR: Final = UUID(int=0)
"""Stands for a proxy in rejections by the control plane's own validation."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A version that one proxy rejected, with Envoy's message (docs/architecture.md#guard-rails)."""

    key: ResourceKey
    version: str
    proxy_id: UUID
    """VALIDATOR: the control plane's own validation rejected it."""
    detail: str

    @property
    def resource_version(self) -> tuple[ResourceKey, str]:
        return self.key, self.version


@dataclass(frozen=True, slots=True)
class RolloutOverride:
    """An operator's order to release one change-set of a group to all proxies, whoever rejected it."""

    id: UUID
    fleet_id: UUID
    group: str
    change_set: str
    """`xds.snapshot.rollout.ChangeSet.key`."""


@dataclass(frozen=True, slots=True)
class Approval:
    """An operator's approval that a fleet may lose more than half of its pools or exits."""

    fleet_id: UUID


Entity: TypeAlias = (
    Fleet
    | Listener
    | Pool
    | Exit
    | Proxy
    | Route
    | User
    | ServerCertificate
    | TrustedAuthority
    | Accepted
    | Rejection
    | Approval
    | RolloutOverride
)
