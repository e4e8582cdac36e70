"""Every name that the data plane sees: type URLs, resources, headers, metadata."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final
from uuid import UUID

from model.entities import FIRST_LISTENER, Listener, Pool, Role

_TYPE: Final = "type.googleapis.com/envoy.config."
CLUSTER: Final = f"{_TYPE}cluster.v3.Cluster"
ENDPOINT: Final = f"{_TYPE}endpoint.v3.ClusterLoadAssignment"
LISTENER: Final = f"{_TYPE}listener.v3.Listener"
ROUTE: Final = f"{_TYPE}route.v3.RouteConfiguration"
SCOPED_ROUTE: Final = f"{_TYPE}route.v3.ScopedRouteConfiguration"
EXTENSION: Final = f"{_TYPE}core.v3.TypedExtensionConfig"
SECRET: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

COUNTRY_HEADER: Final = "exit-country"
CITY_HEADER: Final = "exit-city"
POOL_HEADER: Final = "exit-pool"
SESSION_HEADER: Final = "exit-session"
"""In which a client states its wish."""
INTERNAL_PREFIX: Final = "x-ep-"
"""Internal headers: stripped from whatever a client sends and from whatever a target sees.

See docs/architecture.md#header-names.
"""
WISHED_COUNTRY: Final = "x-ep-country"
WISHED_CITY: Final = "x-ep-city"
WISHED_POOL: Final = "x-ep-pool"
"""A pool's name; who wishes for one wishes for no country."""
SESSION: Final = "x-ep-session"
SESSION_STATE: Final = "exitplane.session"
"""The filter state that holds the session too: Envoy takes the headers away before it chooses an exit."""
SESSION_TTLS: Final = (60, 300, 600, 1800, 3600, 86400)
"""After so many seconds a session may get another exit, in pools that say so. The script that knows wishes counts them too."""


def session_state(ttl_s: int | None) -> str:
    """The filter state that holds what is hashed in a pool whose sessions live so long; None: as long as their exit serves."""
    return SESSION_STATE if ttl_s is None else f"{SESSION_STATE}.{ttl_s}"


USER: Final = "x-ep-user"
"""The base user name."""
GROUP: Final = "x-ep-group"
TARGET_HOST: Final = "x-ep-host"
"""What the request is for, without the port: a name, or an IP address without brackets."""
TARGET_DOMAIN: Final = "x-ep-domain"
"""A target that is a name with its labels reversed, each with a dot after it (`com.example.www.`), so that a domain with all
below it is a prefix."""
TARGET_PORT: Final = "x-ep-port"
TIME: Final = "x-ep-time"
"""Day of the week (0: Monday), and the time of day, in UTC: `0-0930`."""
ALLOWED: Final = "x-ep-allowed"
"""That a route allowed the wish: the other routes are skipped (`ALLOW_FILTER`)."""
UNDERSTOOD: Final = (
    WISHED_COUNTRY,
    WISHED_CITY,
    WISHED_POOL,
    SESSION,
    USER,
    GROUP,
    TARGET_HOST,
    TARGET_DOMAIN,
    TARGET_PORT,
    TIME,
    ALLOWED,
)
"""The wish as the gateway understood it, lower case. Routes match on these, and they are removed before it goes on."""
FAILURE_HEADER: Final = "x-ep-exit-failure"
"""An exit's own words when it could not reach a target, from which a gateway tells a dead tunnel from a dead target."""

POOL_PREFIX: Final = "pool/"
POOL_CLUSTER_PATTERN: Final = f"{POOL_PREFIX}[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}"
"""What the clusters of pools are called, as a regular expression."""

AGGREGATE_PREFIX: Final = "pools/"
AGGREGATE_PATTERN: Final = f"{AGGREGATE_PREFIX}[0-9a-f]{{24}}"
"""What the clusters are called that go on from one pool to the next, as a regular expression."""
CERTIFICATE_PREFIX: Final = "certificate/"

METADATA: Final = "exitplane"
POOL_METADATA: Final = "pool"

GATEWAY_LISTENER: Final = "clients"
"""The first listener of a fleet; the others have their id after it."""
EXIT_LISTENER: Final = "gateways"
GATEWAY_ROUTES: Final = "wishes"
EXIT_ROUTES: Final = "targets"
GROUPS_FILTER: Final = "exitplane.groups"
"""The filter that knows the groups of users, and the resource that it is configured by (ECDS)."""
ALLOW_FILTER: Final = "exitplane.allow"
ALLOW: Final = "allow"
"""The filter that has the routes looked up again past those that the wish was allowed by, and what such a route says to it
in its metadata."""
TARGETS: Final = "targets"
"""The cluster of an exit that resolves and dials whatever it is asked for."""
PARENT: Final = "parent-proxy"
"""The cluster of an exit that has a parent, which is all that it dials."""
PARENT_ROUTES: Final = "parent-targets"
"""The routes of such exits. No name is shared with exits that dial targets: with half of its configuration, an exit
must not dial them past its parent."""
PARENT_FAILED: Final = "parent: "
"""How the words in FAILURE_HEADER begin when it was the parent that failed."""

IDENTITY_SECRET: Final = "identity"
AUTHORITY_SECRET: Final = "authority"
PARENT_SECRET: Final = "parent-credentials"
"""What an exit shows to its parent. One name for all exits: each is given its own."""
IDENTITY_PATH: Final = "secrets/identity.yaml"
AUTHORITY_PATH: Final = "secrets/authority.yaml"
"""Relative to the folder that Envoy is started in, so that the bytes are the same for every proxy."""

HEALTH_HOST: Final = "health.exitplane.internal"
HEALTH_PATH: Final = "/x-ep-health"
"""What a gateway asks an exit for, to learn whether its tunnel is up."""


def pool_cluster(pool: Pool) -> str:
    """The cluster of a pool. By id: a renamed pool keeps its cluster, so its tunnels live on."""
    return f"{POOL_PREFIX}{pool.id}"


def pool_of_cluster(name: str) -> UUID:
    """The id of the pool that a cluster, or its endpoints, is made of."""
    return UUID(name.removeprefix(POOL_PREFIX))


def aggregate_cluster(pool_ids: Iterable[UUID]) -> str:
    """The cluster that goes on from one of these pools to the next."""
    digest = blake2b(b"".join(pool_id.bytes for pool_id in pool_ids), digest_size=12)
    return f"{AGGREGATE_PREFIX}{digest.hexdigest()}"


def gateway_listener(listener: Listener) -> str:
    """The resource of a fleet's listener."""
    return GATEWAY_LISTENER if listener.name == FIRST_LISTENER else f"{GATEWAY_LISTENER}/{listener.id}"


def certificate_secret(certificate_id: UUID) -> str:
    """The secret that a listener shows to its clients."""
    return f"{CERTIFICATE_PREFIX}{certificate_id}"


def exit_host(exit_id: UUID) -> str:
    """The DNS name in an exit's certificate (`Identity.server_name`), checked when a gateway dials it."""
    return f"{exit_id}.{Role.EXIT}.exitplane.internal"
