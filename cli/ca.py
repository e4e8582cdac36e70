"""The command `exitplane ca`, which prints what agents and commands verify the control plane with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.local_database import open_database, run
from model.errors import ExitplaneError
from model.repositories import enrolment
from model.schema_version import check_migration


class NoAuthority(ExitplaneError):
    code = "no_authority"


class FileNotWritten(ExitplaneError):
    code = "file_not_written"


def ca(
    *,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
) -> None:
    """Print the certificate of the control plane's authority, from this host's database or that of EXITPLANE_DATABASE_URL.

    It is no secret. Name the file with `exitplane agent --api-ca` and in EXITPLANE_API_CA where the API has an issued certificate.
    """
    certificate = run(_read())
    if output is None:
        print(certificate, end="")
        return
    try:
        output.write_text(certificate)
    except OSError as error:
        raise FileNotWritten(f"{output} cannot be written ({error.strerror})", hint="name another file") from error


async def _read() -> str:
    async with open_database() as database:
        await check_migration(database)
        async with database.session() as session:
            certificate = await enrolment.authority_certificate(session)
    if certificate is None:
        raise NoAuthority("there is no authority yet", hint="start `exitplane serve`, which creates it")
    return certificate
