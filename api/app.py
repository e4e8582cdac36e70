"""The REST API as one ASGI application."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from api.features.api_keys.endpoints import router as api_keys
from api.features.audit_events.endpoints import router as audit_events
from api.features.auth.endpoints import router as auth
from api.features.authority.endpoints import router as authority
from api.features.certificates.service import CERTIFICATES
from api.features.channels.endpoints import router as channels
from api.features.containers.endpoints import router as containers
from api.features.declared.endpoints import router as declared
from api.features.discovery.endpoints import router as discovery
from api.features.docs.endpoints import router as docs
from api.features.enrolment.endpoints import router as enrolment
from api.features.events.endpoints import router as events
from api.features.exits.best_exit import router as best_exit
from api.features.exits.endpoints import router as exits
from api.features.explain.endpoints import router as explain
from api.features.fleets.service import FLEETS
from api.features.health.endpoints import router as health
from api.features.heartbeats.endpoints import router as heartbeats
from api.features.join_tokens.endpoints import router as join_tokens
from api.features.keepalives.endpoints import router as keepalives
from api.features.keepalives.keepalive_throttle import KeepaliveThrottle
from api.features.listeners.service import LISTENERS
from api.features.message_rules.service import MESSAGE_RULES
from api.features.messages.service import MESSAGES
from api.features.operators.service import OPERATORS
from api.features.orders.endpoints import router as orders
from api.features.plans.service import PLANS
from api.features.pools.service import POOLS
from api.features.proxies.endpoints import router as proxies
from api.features.rollouts.endpoints import router as rollouts
from api.features.routes.service import ROUTES
from api.features.users.endpoints import router as users
from api.http import problems
from api.http.openapi import build_openapi
from api.http.paths import BASE_PATH
from api.http.request_metrics import RequestMetrics
from api.http.security_headers import SecurityHeaders
from api.kernel.auth_middleware import AuthMiddleware
from api.kernel.collections.collection import Collection
from api.kernel.collections.router import router_of
from api.kernel.context import ApiContext
from api.kernel.request_spans import RequestSpans
from api.runtime.database_probe import DatabaseProbe
from api.runtime.event_hub import EventHub
from model.version import exitplane_version

COLLECTIONS: tuple[Collection[Any, Any, Any], ...] = (
    OPERATORS,
    FLEETS,
    POOLS,
    LISTENERS,
    ROUTES,
    PLANS,
    CERTIFICATES,
    MESSAGE_RULES,
)
"""Collections that have only the endpoints of every collection."""
ROUTERS = (
    heartbeats,  # first, as they are called most often
    enrolment,  # before exits and proxies, where `register` would be an id
    best_exit,  # before exits, where `best` would be an id
    auth,
    *(router_of(each) for each in COLLECTIONS),
    api_keys,
    join_tokens,
    audit_events,
    channels,
    router_of(MESSAGES, frozenset()),
    rollouts,
    exits,
    users,
    orders,
    containers,
    proxies,
    declared,
    explain,
    events,
    keepalives,
    discovery,
    authority,
)
TITLE = "Exitplane"
DESCRIPTION = """\
Declare fleets, pools and exits, and see their state.

Every error is `application/problem+json` with a stable `code`, and `errors` with the field, the value and a hint.
Every write responds with its revision in `Exitplane-Revision`.
Operators send `Authorization: Bearer` with an access token (`POST /api/v1/auth/login`) or an API key.
"""


def create_app(context: ApiContext) -> FastAPI:
    """Create the application of one replica.

    The caller runs the background tasks of the context: its heartbeat sink, certificate cache and pending orders.
    """
    app = FastAPI(
        title=TITLE,
        version=exitplane_version(),
        description=DESCRIPTION,
        redirect_slashes=False,
        docs_url=None,  # the framework's pages load scripts from another site; see api/features/docs
        redoc_url=None,
        routes=_routes(),
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # its spans have paths
    )
    app.state.context = context
    app.state.database_probe = DatabaseProbe(context.database, context.clock)
    app.state.event_hub = EventHub(context.database)
    app.state.keepalive_throttle = KeepaliveThrottle(context.clock)
    app.openapi = _document  # type: ignore[method-assign]  # the documented way to extend it
    app.add_middleware(RequestSpans)
    app.add_middleware(AuthMiddleware, context=context)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestMetrics, counters=context.request_counters)
    problems.install(app)
    return app


@cache
def _routes() -> list[BaseRoute]:
    """Build the routes, which all applications of this process share.

    They hold no context: an endpoint finds the one of its request's application. The framework builds a route at its first
    use, which takes longer than to serve it, so a second application reuses the routes of the first.
    """
    shared = APIRouter(generate_unique_id_function=_operation_id)
    for router in ROUTERS:
        shared.include_router(router, prefix=BASE_PATH)
    shared.include_router(health)
    shared.include_router(docs)
    return shared.routes


@cache
def _document() -> dict[str, Any]:
    """Build the OpenAPI document, which all applications of this process share."""
    return build_openapi(title=TITLE, version=exitplane_version(), description=DESCRIPTION, routes=_routes())


def _operation_id(route: APIRoute) -> str:
    return route.name
