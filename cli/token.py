"""The command `exitplane token`, which creates join tokens."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from cli.local_database import open_database, run
from model.entities import Role
from model.errors import ExitplaneError
from model.repositories import declared, enrolment
from model.schema_version import check_migration


class UnknownFleet(ExitplaneError):
    code = "unknown_fleet"


def token(
    *,
    role: Annotated[Role, typer.Option(help="The role of the proxies that may enrol with the token.")],
    fleet: Annotated[str, typer.Option(help="The fleet that they join, by name or id.")],
    ttl_s: Annotated[float, typer.Option(min=1, help="The lifetime of the token, in seconds.")] = 86_400,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the time of expiry.")] = False,
) -> None:
    """Print a join token, with which agents of one role enrol in one fleet, as often as needed, until it expires.

    The token is shown only once, because only its digest is stored. Pass it to `exitplane agent --token-file`.
    """
    expires_at = datetime.now(UTC) + timedelta(seconds=ttl_s)
    secret = run(_create(role, fleet, ttl_s))
    print(json.dumps({"token": secret, "expires_at": expires_at.isoformat()}) if as_json else secret)


async def _create(role: Role, fleet: str, ttl_s: float) -> str:
    async with open_database() as database:
        await check_migration(database)
        async with database.session() as session:
            found = await declared.find_fleet(session, fleet)
            if found is None:
                raise UnknownFleet(f"there is no fleet {fleet!r}", hint="create it first with POST /api/v1/fleets")
            ttl = timedelta(seconds=ttl_s)
            return await enrolment.create_token(session, fleet_id=found.id, role=role, ttl=ttl, now=datetime.now(UTC))
