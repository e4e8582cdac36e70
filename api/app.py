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
from api.features.certificates.endpoints import router as certificates
from api.features.containers.endpoints import router as containers
from api.features.declared.endpoints import router as declared
from api.features.enrolment.endpoints import router as enrolment
from api.features.events.endpoints import router as events
from api.features.exits.best_exit import router as best_exit
from api.features.exits.endpoints import router as exits
from api.features.explain.endpoints import router as explain
from api.features.fleets.endpoints import router as fleets
from api.features.health.endpoints import router as health
from api.features.heartbeats.endpoints import router as heartbeats
from api.features.keepalives.endpoints import router as keepalives
from api.features.keepalives.keepalive_throttle import KeepaliveThrottle
from api.features.listeners.endpoints import router as listeners
from api.features.operators.endpoints import router as operators
from api.features.orders.endpoints import router as orders
from api.features.plans.endpoints import router as plans
from api.features.pools.endpoints import router as pools
from api.features.proxies.endpoints import router as proxies
from api.features.rollouts.endpoints import router as rollouts
from api.features.routes.endpoints import router as routes
from api.features.users.endpoints import router as users
from api.http import problems
from api.http.openapi import document
from api.http.paths import BASE_PATH
from api.kernel.auth_middleware import AuthMiddleware
from api.kernel.context import ApiContext
from api.runtime.database_probe import DatabaseProbe
from api.runtime.event_hub import EventHub
from model.version import exitplane_version

DECLARED = (declared, explain, listeners, routes, users, plans, certificates)
TITLE = "Exitplane"
DESCRIPTION = """\
Declare fleets, pools and exits; see what became of them.

Every refusal is `application/problem+json` with a stable `code`, and `errors` that name the field, the value and the hint.
Every write answers with the revision that it made in `Exitplane-Revision`.
Operators send `Authorization: Bearer` with an access token (`POST /api/v1/auth/login`) or an API key.
"""


def create_app(context: ApiContext) -> FastAPI:
    """The application of one replica. Its background work, `context.sink` and `context.credentials`, runs elsewhere."""
    app = FastAPI(
        title=TITLE,
        version=exitplane_version(),
        description=DESCRIPTION,
        redirect_slashes=False,
        routes=_routes(),
    )
    app.state.context = context
    app.state.probe = DatabaseProbe(context.database, context.clock)
    app.state.events = EventHub(context.database)
    app.state.keepalive_throttle = KeepaliveThrottle(context.clock)
    app.openapi = _document  # type: ignore[method-assign]  # the documented way to extend it
    app.add_middleware(AuthMiddleware, context=context)
    problems.install(app)
    return app


@cache
def _routes() -> list[BaseRoute]:
    """The routes that every application of this process shares.

    They hold no context: an endpoint finds that in the application of its request. The framework builds a route when it is
    first looked at, which takes longer than to serve it, so a second application begins with what the first one built.
    """
    shared = APIRouter(generate_unique_id_function=_operation_id)
    # heartbeats come most often; enrolment before exits and proxies, for `register` is no id, nor is `best`
    for router in (
        heartbeats,
        enrolment,
        best_exit,
        auth,
        operators,
        api_keys,
        audit_events,
        fleets,
        rollouts,
        pools,
        exits,
        orders,
        containers,
        proxies,
        *DECLARED,
        events,
        keepalives,
    ):
        shared.include_router(router, prefix=BASE_PATH)
    shared.include_router(health)
    return shared.routes


@cache
def _document() -> dict[str, Any]:
    """The OpenAPI document of these routes, for all applications too."""
    return document(title=TITLE, version=exitplane_version(), description=DESCRIPTION, routes=_routes())


def _operation_id(route: APIRoute) -> str:
    return route.name
