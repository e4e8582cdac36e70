"""All names that Envoy sees: type URLs, resources, headers, metadata."""

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
"""The headers in which a client states its intent."""
# Internal headers begin with x-ep-. Gateways remove them from client requests, and before a request goes to its target
# (docs/architecture.md#header-names).
INTERNAL_PREFIX: Final = "x-ep-"
REQUESTED_COUNTRY: Final = "x-ep-country"
REQUESTED_CITY: Final = "x-ep-city"
REQUESTED_POOL: Final = "x-ep-pool"
"""A pool's name; the country is then unset."""
SESSION: Final = "x-ep-session"
SESSION_STATE: Final = "exitplane.session"
"""The filter state with the session: Envoy removes the headers before it chooses an exit."""
SESSION_TTLS: Final = (60, 300, 600, 1800, 3600, 86400)
"""Seconds after which a pool may give a session another exit. The script client_intent.lua counts the same periods."""


def session_state(ttl_s: int | None) -> str:
    """Return the filter state to hash in pools with this session TTL; None: a session lasts as long as its exit serves."""
    return SESSION_STATE if ttl_s is None else f"{SESSION_STATE}.{ttl_s}"


USER: Final = "x-ep-user"
"""The base user name."""
SHARD: Final = "x-ep-shard"
"""The part that holds the user. It is there from when the credentials are read until the user is admitted."""
GROUP: Final = "x-ep-group"
TARGET_HOST: Final = "x-ep-host"
"""The target of the request without its port: a name, or an IP address without brackets."""
TARGET_DOMAIN: Final = "x-ep-domain"
"""The labels of a target's name reversed, each with a dot after it (`com.example.www.`), so that a domain and its subdomains
share a prefix."""
TARGET_PORT: Final = "x-ep-port"
TIME: Final = "x-ep-time"
"""The day of the week (0: Monday) and the time of day in UTC: `0-0930`."""
ALLOWED: Final = "x-ep-allowed"
"""Set once a route allowed the request: all declared routes are then skipped (`ALLOW_FILTER`)."""
CLIENT_TRACEPARENT: Final = "exit-traceparent"
CLIENT_TRACESTATE: Final = "exit-tracestate"
"""The client's own `traceparent` and `tracestate` on the way to an exit. They have no internal prefix: the gateway's script would
remove them."""
INTENT_HEADERS: Final = (
    REQUESTED_COUNTRY,
    REQUESTED_CITY,
    REQUESTED_POOL,
    SESSION,
    USER,
    GROUP,
    TARGET_HOST,
    TARGET_DOMAIN,
    TARGET_PORT,
    TIME,
    ALLOWED,
)
"""The client's intent as the gateway read it, in lower case. Routes match on these headers; then they are removed."""
FAILURE_HEADER: Final = "x-ep-exit-failure"
"""The failure detail of an exit that could not reach a target. By it a gateway tells a dead tunnel from a dead target."""
HEALTH_FAILURE_HEADER: Final = "x-envoy-immediate-health-check-fail"
"""Envoy's header in every answer of an exit while its agent fails its health check."""

POOL_PREFIX: Final = "pool/"
POOL_CLUSTER_PATTERN: Final = f"{POOL_PREFIX}[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}"
"""The names of pools' clusters, as a regular expression."""

AGGREGATE_PREFIX: Final = "pools/"
AGGREGATE_PATTERN: Final = f"{AGGREGATE_PREFIX}[0-9a-f]{{24}}"
"""The names of aggregate clusters, as a regular expression."""
CERTIFICATE_PREFIX: Final = "certificate/"

AGENT: Final = "agent"
"""The cluster of the agent's socket, which every bootstrap has (envoy/bootstrap.yaml)."""

METADATA: Final = "exitplane"
POOL_METADATA: Final = "pool"

GATEWAY_LISTENER: Final = "clients"
"""The first listener of a fleet; the names of the others end in their id."""
EXIT_LISTENER: Final = "gateways"
GATEWAY_ROUTES: Final = "gateway_routes"
EXIT_ROUTES: Final = "targets"
GROUPS_FILTER: Final = "exitplane.groups"
"""The filter that maps users to groups, and the ECDS resource that configures it."""
CHALLENGE_FILTER: Final = "exitplane.challenge"
"""The filter that makes a gateway's challenge that of a proxy."""
USERS_FILTER: Final = "exitplane.users"
"""The filter that authenticates users and admits them. It runs the filters of the part that holds the user."""
USERS_PREFIX: Final = "users/"
"""Prefix of the ECDS resources that hold a part of the users each."""
SECRET_FILTER: Final = "exitplane.secret"
"""The filter within a part that compares secrets."""
ADMITTED_FILTER: Final = "exitplane.admitted"
"""The filter that refuses requests of users who were not authenticated and admitted, whatever the filters before it did."""
ALLOW_FILTER: Final = "exitplane.allow"
ALLOW: Final = "allow"
"""The filter that matches an allowed request again without the declared routes, and the key in a route's metadata that asks for
it."""
ADMISSION_FILTER: Final = "exitplane.admission"
"""The filter of exits that admits requests of the gateways that there are, and the ECDS resource that configures it. One name for
all fleets, as with GATEWAYS_SECRET."""
TARGETS: Final = "targets"
"""The cluster of an exit that resolves and dials any target."""
PARENT: Final = "parent-proxy"
"""The only cluster of an exit with a parent."""
PARENT_ROUTES: Final = "parent-targets"
"""The routes of exits with a parent. They share no name with other exits: an exit with half of its configuration must not dial
targets past its parent."""
PARENT_FAILED: Final = "parent: "
"""The prefix of FAILURE_HEADER's value when the parent failed."""

IDENTITY_SECRET: Final = "identity"
AUTHORITY_SECRET: Final = "authority"
GATEWAYS_SECRET: Final = "gateways"
"""The gateways that exits admit. One name for all fleets: each exit is given the secret of its own."""
PARENT_SECRET: Final = "parent-credentials"
"""The credentials for an exit's parent. One name for all exits: each is given its own secret."""
IDENTITY_PATH: Final = "secrets/identity.yaml"
AUTHORITY_PATH: Final = "secrets/authority.yaml"
"""Relative to Envoy's working directory, so that the bytes are the same for every proxy."""

COLLECTOR: Final = "otel-collector"
"""The cluster of the bootstrap to which an Envoy sends its spans."""

HEALTH_HOST: Final = "health.exitplane.internal"
HEALTH_PATH: Final = "/x-ep-health"
"""The host and path of a gateway's health check of an exit."""


def pool_cluster(pool: Pool) -> str:
    """Return the name of a pool's cluster. It has the id: a renamed pool keeps its cluster and its tunnels."""
    return f"{POOL_PREFIX}{pool.id}"


def pool_of_cluster(name: str) -> UUID:
    """Return the id of the pool of a cluster or its endpoints."""
    return UUID(name.removeprefix(POOL_PREFIX))


def aggregate_cluster(pool_ids: Iterable[UUID]) -> str:
    """Return the name of the aggregate cluster of these pools in order."""
    digest = blake2b(b"".join(pool_id.bytes for pool_id in pool_ids), digest_size=12)
    return f"{AGGREGATE_PREFIX}{digest.hexdigest()}"


def gateway_listener(listener: Listener) -> str:
    """Return the resource name of a fleet's listener."""
    return GATEWAY_LISTENER if listener.name == FIRST_LISTENER else f"{GATEWAY_LISTENER}/{listener.id}"


def user_shard(number: int) -> str:
    """Return the name of the ECDS resource that holds a part of the users."""
    return f"{USERS_PREFIX}{number:02}"


def certificate_secret(certificate_id: UUID) -> str:
    """Return the name of a listener's certificate secret."""
    return f"{CERTIFICATE_PREFIX}{certificate_id}"


def exit_host(exit_id: UUID) -> str:
    """Return the DNS name in an exit's certificate (`Identity.server_name`), which gateways check."""
    return f"{exit_id}.{Role.EXIT}.exitplane.internal"
