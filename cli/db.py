"""`exitplane db`: the schema of the database."""

from __future__ import annotations

import typer

from cli.state import open_database, run
from model.database import check_migration, current_migration, newest_migration, upgrade

db = typer.Typer(help="Look at the database's schema, or bring it up to date.", no_args_is_help=True)


@db.command("upgrade")
def db_upgrade() -> None:
    """Bring the schema to what this version needs. Safe to repeat, and while an older version runs."""
    before, after = run(_upgrade())
    print(
        f"the database is at migration {after}" if before == after else f"migrated from {before or 'none'} to {after}"
    )


@db.command("check")
def db_check() -> None:
    """End with 0 if the schema is the one that this version needs."""
    run(_check())
    print(f"the database is at migration {newest_migration()}")


async def _upgrade() -> tuple[str | None, str | None]:
    async with open_database() as database:
        before = await current_migration(database)
        await upgrade(database)
        return before, await current_migration(database)


async def _check() -> None:
    async with open_database() as database:
        await check_migration(database)
