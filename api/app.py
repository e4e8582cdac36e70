"""The REST API as one ASGI application."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.routing import APIRoute

from api import problems
from api.context import ApiContext
from api.enrolment.endpoints import router as enrolment
from api.exits.endpoints import router as exits
from api.fleets.endpoints import router as fleets
from api.guard import Guard
from api.health.endpoints import router as health
from api.health.probe import DatabaseProbe
from api.heartbeats.endpoints import router as heartbeats
from api.openapi import document
from api.pools.endpoints import router as pools
from api.proxies.endpoints import router as proxies
from api.rollouts.endpoints import router as rollouts
from api.writes import BASE_PATH

DESCRIPTION = """\
Declare fleets, pools and exits; see what became of them.

Every refusal is `application/problem+json` with a stable `code`, and `errors` that name the field, the value and the mend.
Every write answers with the revision that it made in `Exitplane-Revision`. Operators are answered on this host only.
"""


def create_app(context: ApiContext) -> FastAPI:
    """The application of one replica. Its background work, `context.sink` and `context.credentials`, runs elsewhere."""
    app = FastAPI(
        title="Exitplane",
        version=version("exitplane"),
        description=DESCRIPTION,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.state.context = context
    app.state.probe = DatabaseProbe(context.database, context.clock)
    app.openapi = partial(document, app)  # type: ignore[method-assign]  # the documented way to extend it
    app.add_middleware(Guard, host_names=context.host_names)
    problems.install(app)
    # enrolment comes first: `register` is no id
    for router in (enrolment, heartbeats, fleets, rollouts, pools, exits, proxies):
        app.include_router(router, prefix=BASE_PATH)
    app.include_router(health)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name
