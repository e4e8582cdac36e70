"""The command `exitplane certificates`, for the certificates that listeners present to clients over TLS."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.api_command import DEFAULT_API, Api, AsJson, Fleet, print_json, run
from cli.secret_files import read_file, read_secret
from cli.terminal import add_row, console, printable

if TYPE_CHECKING:
    from api.features.certificates.schemas import CertificateOut
    from client import Client
    from client.json_client import Item

certificates = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="List, upload, issue, watch and delete the certificates of TLS listeners.",
)
_COLLECTION: Final = "certificates"
_COLUMNS: Final = ("fleet", "name", "source", "server_names", "expires_at", "warnings")
_END: Final = "-----END CERTIFICATE-----\n"

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the certificate.")]
OfFleet = Annotated[str, typer.Option("--fleet", help="The fleet, by name or id.")]


@certificates.command("list")
def list_(*, fleet: Fleet = None, api: Api = DEFAULT_API, as_json: AsJson = False) -> None:
    """Show the certificates, with their names, their ends, and warnings."""

    async def read(client: Client) -> list[Item]:
        from client import collect

        return await collect(client.json.list(_COLLECTION, fleet=fleet))

    found = run(api, read)
    if as_json:
        print_json(found)
        return
    from rich.table import Table

    table = Table(*_COLUMNS)
    for each in found:
        add_row(table, (_cell(each[column]) for column in _COLUMNS))
    console().print(table)


@certificates.command("upload")
def upload(
    *,
    name: Name,
    fleet: OfFleet,
    chain: Annotated[Path, typer.Option(help="The chain in PEM, the server's own certificate first.")],
    key: Annotated[Path, typer.Option(help="The key in PEM, readable by you alone.")],
    passphrase_file: Annotated[Path | None, typer.Option(help="A file with the passphrase of the key.")] = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Upload a certificate, or replace one of this name. Connections that are open go on.

    For example:

      exitplane certificates upload gateway --fleet home --chain fullchain.pem --key privkey.pem
    """
    passphrase = None if passphrase_file is None else read_secret(passphrase_file, "PEM").strip("\r\n")
    fields = {"chain": read_file(chain, "PEM"), "key": read_secret(key, "PEM"), "passphrase": passphrase}
    _show(run(api, _put(name, fleet, fields)), as_json=as_json)


@certificates.command("issue")
def issue(
    *,
    name: Name,
    hosts: Annotated[list[str], typer.Argument(metavar="HOST…", help="Host names, *.names, and addresses.")],
    fleet: OfFleet,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Have a certificate issued by the fleet's own authority, and renewed by itself.

    Clients verify it by what `exitplane certificates authority` prints. For example:

      exitplane certificates issue gateway gateway.example.net '*.gateway.example.net' 127.0.0.1 --fleet home
    """
    _show(run(api, _put(name, fleet, {"issued_for": hosts})), as_json=as_json)


@certificates.command("watch")
def watch(
    *,
    name: Name,
    fleet: OfFleet,
    folder: Annotated[str, typer.Option(help="The folder in the fleet's folder of EXITPLANE_CERTIFICATE_FOLDER.")],
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Take a certificate from a folder that an ACME client writes to, now and at each renewal.

    For example:

      exitplane certificates watch gateway --fleet home --folder gateway.example.net
    """
    _show(run(api, _put(name, fleet, {"folder": folder})), as_json=as_json)


@certificates.command("authority")
def authority(*, name: Name, fleet: Fleet = None, api: Api = DEFAULT_API) -> None:
    """Print the last certificate of a chain: for an issued one the fleet's authority, by which clients verify it."""
    found = run(api, lambda client: client.json.read(_COLLECTION, name, fleet=fleet))
    print(found["presented_chain"].rstrip("\n").removesuffix(_END.rstrip("\n")).rpartition(_END)[2] + _END, end="")


@certificates.command("delete")
def delete(
    *,
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="The certificates, by names or ids.")],
    fleet: Fleet = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Delete certificates that no listener uses: all of them, or none."""
    run(api, lambda client: client.json.delete(_COLLECTION, *names, fleet=fleet))
    if as_json:
        print_json({"deleted": names})
    else:
        for each in names:
            print(f"deleted {each}")


def _put(name: str, fleet: str, fields: dict[str, Any]) -> Callable[[Client], Awaitable[CertificateOut]]:
    """Return the call that creates a certificate, or gives an existing one this source."""

    async def put(client: Client) -> CertificateOut:
        from api.features.certificates.schemas import CertificateIn, CertificatePatch

        if [each async for each in client.json.list(_COLLECTION, name=name, fleet=fleet)]:
            return await client.certificates.change(name, CertificatePatch(**fields), fleet=fleet)
        return await client.certificates.create(CertificateIn(name=name, fleet=fleet, **fields))

    return put


def _show(shown: CertificateOut, *, as_json: bool) -> None:
    if as_json:
        print_json(shown.model_dump(mode="json"))
    else:
        names = ", ".join(shown.server_names) or "no names"
        print(printable(f"{shown.name}: {names}; expires at {shown.expires_at.isoformat()}"))


def _cell(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
