"""The command `exitplane ca`, for the control plane's certificate authority."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cli.local_database import open_database, run
from model import key_file
from model.audit_log import Actor, AuditEntry
from model.authority import (
    BadSigningRequest,
    CertificateAuthority,
    KeyPair,
    create_authority,
    create_intermediate_request,
    create_root,
    key_pem_of,
    sign_crl,
    sign_intermediate,
)
from model.authority_files import UnusableAuthority, build_authority, check_chain, read_key, read_text
from model.current_authority import renewed, root_of
from model.database import Database
from model.errors import ExitplaneError
from model.repositories import authorities, sealed_values
from model.schema_version import check_migration
from model.settings import read_settings
from model.unit_of_work import UnitOfWork, write

ca = typer.Typer(
    help="Print the certificate of the control plane's authority, from this host's database or that of EXITPLANE_DATABASE_URL.",
)
_SHOWN_MAX: Final = 5

_Output = Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")]
_Passphrase = Annotated[
    Path | None, typer.Option("--passphrase-file", help="A file with the passphrase of the key (mode 0600).")
]
_Force = Annotated[bool, typer.Option("--force", help="Go on although some proxies are not ready.")]


class NoAuthority(ExitplaneError):
    code = "no_authority"


class FileNotWritten(ExitplaneError):
    code = "file_not_written"


class RotationRefused(ExitplaneError):
    """A step of a rotation that would cut proxies off, or does not follow the one before."""

    code = "rotation_refused"


@ca.callback(invoke_without_command=True)
def ca_print(context: typer.Context, *, output: _Output = None) -> None:
    """Print the certificate of the control plane's authority, from this host's database or that of EXITPLANE_DATABASE_URL.

    It is no secret. Name the file with `exitplane agent --api-ca` and in EXITPLANE_API_CA where the API has an issued certificate.
    While roots change, it has both.
    """
    if context.invoked_subcommand is None:
        _print(run(_read_roots()), output)


@ca.command("status")
def ca_status(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show issuer and roots with their ends, the step of a rotation, and the proxies that have not followed it yet."""
    found = run(_read_status())
    if as_json:
        print(json.dumps(found))
        return
    print(f"issuer  {found['issuer']}, until {found['issuer_expires']}")
    print("".join(f"root    {each['name']}, until {each['expires']}\n" for each in found["roots"]), end="")
    print(f"the root's key is {'in the database, sealed' if found['root_key_stored'] else 'kept elsewhere'}")
    if found["next"]:
        print(f"next    {found['next']}")
    if found["outdated"]:
        print(f"{len(found['outdated'])} proxies have not renewed since the last change: {_list(found['outdated'])}")


@ca.command("create-root")
def ca_create_root(
    *,
    key: Annotated[Path, typer.Option(help="The file for the root's key (mode 0600), which must not exist.")],
    certificate: Annotated[Path, typer.Option(help="The file for the root's certificate, which must not exist.")],
    passphrase_file: _Passphrase = None,
) -> None:
    """Create a root (P-384, ten years) on this host, which needs no database and no network."""
    root = create_root(_now())
    with _new_file(key, _encrypt(root.key_pem, _read_passphrase(passphrase_file)), 0o600):
        _write(certificate, root.certificate_pem)
    print(f"{certificate} and its key {key} are created")


@ca.command("sign")
def ca_sign(
    request: Annotated[Path, typer.Argument(help="The request, from `exitplane ca request`.")],
    *,
    key: Annotated[Path, typer.Option(help="The root's key.")],
    certificate: Annotated[Path, typer.Option(help="The root's certificate.")],
    passphrase_file: _Passphrase = None,
    output: _Output = None,
) -> None:
    """Sign the intermediate of a control plane with a root, where the root is, and print the chain for `exitplane ca import`."""
    root_key, root_pem = read_key(key, _read_passphrase(passphrase_file)), read_text(certificate)
    now = _now()
    root = build_authority(root_pem, root_key, now)
    try:
        signed = sign_intermediate(KeyPair(root.certificate_pem, root_key), read_text(request), now)
    except BadSigningRequest as error:
        raise BadSigningRequest(f"{request}: {error.message}", hint="create it with `exitplane ca request`") from error
    chain = CertificateAuthority(root.certificate_pem, "", signed)
    check_chain([chain.issuer, *chain.roots], now)
    _print(signed + root.certificate_pem, output)


@ca.command("request")
def ca_request(*, output: _Output = None) -> None:
    """Create the key of a new intermediate, which stays in the database, and print its signing request."""
    _print(run(_request()), output)


@ca.command("import")
def ca_import(
    chain: Annotated[Path, typer.Argument(help="The issuer's certificate, those above it, and the root, in PEM.")],
    *,
    key: Annotated[
        Path | None, typer.Option(help="The issuer's key; by default that of `exitplane ca request`.")
    ] = None,
    passphrase_file: _Passphrase = None,
) -> None:
    """Issue with an intermediate that was signed elsewhere: at once below the present root, or else after `exitplane ca activate`."""
    key_pem = None if key is None else read_key(key, _read_passphrase(passphrase_file))
    print(run(_import(read_text(chain), key_pem)))


@ca.command("rotate")
def ca_rotate(*, root: Annotated[bool, typer.Option("--root", help="Begin to replace the root too.")] = False) -> None:
    """Replace the intermediate, or begin to replace the root. Proxies renew their certificates by themselves."""
    print(run(_rotate_root() if root else _rotate_intermediate()))


@ca.command("activate")
def ca_activate(*, force: _Force = False) -> None:
    """Issue with the next authority, once all proxies trust its root."""
    print(run(_activate(force=force)))


@ca.command("retire")
def ca_retire(*, force: _Force = False) -> None:
    """Trust the issuer's root alone, once all proxies have certificates below it."""
    print(run(_retire(force=force)))


@ca.command("crl")
def ca_crl(*, output: _Output = None) -> None:
    """Print the revocation list: valid certificates of proxies that were removed or taken over."""
    _print(run(_read_crl()), output)


# -- on the database


@asynccontextmanager
async def _opened() -> AsyncIterator[Database]:
    keyring = key_file.read_keyring(read_settings())
    async with open_database(keyring) as database:
        await check_migration(database)
        await sealed_values.adopt(database, keyring)
        yield database


@asynccontextmanager
async def _writing(action: str) -> AsyncIterator[tuple[UnitOfWork, CertificateAuthority]]:
    """Lock the authority in a unit of work, which the audit records."""
    async with _opened() as database, write(database, actor=Actor()) as unit:
        current = await authorities.lock(unit.session)
        if current is None:
            raise _no_authority()
        yield unit, current
        unit.audit(AuditEntry(action, "authority", current.issuer_id, detail={"by": "exitplane ca"}))


async def _read_roots() -> str:
    async with open_database() as database:
        await check_migration(database)
        async with database.session() as session:
            roots = await authorities.trusted_roots(session)
    if not roots:
        raise _no_authority()
    return "".join(roots)


async def _read_status() -> dict[str, Any]:
    async with _opened() as database, database.session() as session:
        current = await authorities.load(session)
        if current is None:
            raise _no_authority()
        following = await authorities.load_next(session)
        outdated = await authorities.outdated_proxies(session, current.version)
    return {
        "issuer": current.issuer.subject.rfc4514_string(),
        "issuer_expires": f"{current.issuer.not_valid_after_utc:%Y-%m-%d}",
        "roots": [
            {"name": each.subject.rfc4514_string(), "expires": f"{each.not_valid_after_utc:%Y-%m-%d}"}
            for each in current.roots
        ],
        "root_key_stored": current.root_key_pem is not None or not current.chain_pem,
        "next": None if following is None else _describe_next(following, outdated),
        "outdated": [*outdated],
    }


def _describe_next(following: CertificateAuthority, outdated: Sequence[str]) -> str:
    if not following.certificate_pem:
        return "a request to be signed: `exitplane ca import` takes the chain"
    if outdated:
        return "its root is trusted here, and not by all proxies yet"
    return "all proxies trust its root: run `exitplane ca activate`"


async def _request() -> str:
    async with _writing("requested") as (unit, _):
        following = await authorities.load_next(unit.session)
        if following is not None and following.certificate_pem:
            raise _under_way()
        key = ec.generate_private_key(ec.SECP384R1())
        await authorities.propose(unit, CertificateAuthority("", key_pem_of(key)))
    return create_intermediate_request(key)


async def _import(chain: str, key_pem: str | None) -> str:
    async with _writing("imported") as (unit, current):
        following = await authorities.load_next(unit.session)
        if key_pem is None:
            if following is None or following.certificate_pem:
                raise UnusableAuthority(
                    "there is no request to import a chain for", hint="run `exitplane ca request` first, or name --key"
                )
            key_pem = following.key_pem
        imported = build_authority(chain, key_pem, _now())
        if imported.certificate_pem == root_of(current):
            await authorities.activate(unit, imported, imported.certificate_pem)
            return "the imported intermediate issues from now on; proxies renew their certificates by themselves"
        await authorities.propose(unit, imported)
        return "the imported root is trusted; run `exitplane ca activate` when `exitplane ca status` says that all proxies trust it"


async def _rotate_intermediate() -> str:
    async with _writing("rotated") as (unit, current):
        if current.root_key_pem is None:
            hint = (
                "use `exitplane ca request`, `sign` and `import`"
                if current.chain_pem
                else "this authority has no intermediate: `exitplane ca rotate --root` begins one that has"
            )
            raise RotationRefused("the key of the root is not here, or signs no intermediate", hint=hint)
        await authorities.activate(unit, renewed(current, _now()), root_of(current))
    return "a new intermediate issues from now on; proxies renew their certificates by themselves"


async def _rotate_root() -> str:
    async with _writing("rotated") as (unit, _):
        following = await authorities.load_next(unit.session)
        if following is not None and following.certificate_pem:
            raise _under_way()
        await authorities.propose(unit, create_authority(_now()))
    return (
        "a new root is trusted; copy `exitplane ca` to those who call the API, and run `exitplane ca activate` when\n"
        "`exitplane ca status` says that all proxies trust it"
    )


async def _activate(*, force: bool) -> str:
    async with _writing("activated") as (unit, current):
        following = await authorities.load_next(unit.session)
        if following is None or not following.certificate_pem:
            raise RotationRefused(
                "there is no authority to activate", hint="begin with `exitplane ca rotate --root`, or `import`"
            )
        await _require_followers(unit, current, "do not trust the new root yet", force=force)
        await authorities.activate(unit, following, following.certificate_pem)
    return "the new authority issues from now on; run `exitplane ca retire` when `exitplane ca status` lists no proxies"


async def _retire(*, force: bool) -> str:
    async with _writing("retired") as (unit, current):
        await _require_followers(unit, current, "have no certificate of the present authority yet", force=force)
        following = await authorities.load_next(unit.session)
        if following is not None and following.certificate_pem:
            raise _under_way()
        count = await authorities.retire_roots(unit)
    return f"{count} former root{'' if count == 1 else 's'} trusted no more"


async def _require_followers(unit: UnitOfWork, current: CertificateAuthority, what: str, *, force: bool) -> None:
    outdated = await authorities.outdated_proxies(unit.session, current.version)
    if outdated and not force:
        hint = "wait for their next heartbeats, remove those that are gone, or add --force, which cuts them off"
        raise RotationRefused(f"{len(outdated)} proxies {what}: {_list(outdated)}", hint=hint)


async def _read_crl() -> str:
    now = _now()
    async with _opened() as database, database.session() as session:
        current = await authorities.load(session)
        if current is None:
            raise _no_authority()
        crl = sign_crl(current, await authorities.revoked(session, current.issuer_id, now), now)
    return crl.public_bytes(serialization.Encoding.PEM).decode()


def _no_authority() -> NoAuthority:
    return NoAuthority("there is no authority yet", hint="start `exitplane serve`, which creates it")


def _under_way() -> RotationRefused:
    return RotationRefused("a change of roots is under way", hint="finish it with `exitplane ca activate`")


# -- files


def _print(text: str, output: Path | None) -> None:
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise FileNotWritten(f"{output} cannot be written ({error.strerror})", hint="name another file") from error


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a new file. Raises FileNotWritten, also if there is one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
    except OSError as error:
        raise FileNotWritten(f"{path} cannot be written ({error.strerror})", hint="name another file") from error


@contextmanager
def _new_file(path: Path, text: str, mode: int) -> Iterator[None]:
    """Write a new file, and remove it if the block fails."""
    _write(path, text, mode)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _read_passphrase(path: Path | None) -> str | None:
    """Read a passphrase from a file that only its owner can read. Raises UnusableAuthority."""
    if path is None:
        return None
    text = read_text(path, private=True).rstrip("\r\n")
    if not text:
        raise UnusableAuthority(f"{path} is empty", hint="write the passphrase into it")
    return text


def _encrypt(key_pem: str, passphrase: str | None) -> str:
    if passphrase is None:
        return key_pem
    key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    best = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, best).decode()


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_MAX} more" if len(names) > _SHOWN_MAX else ""
    return ", ".join(names[:_SHOWN_MAX]) + more


def _now() -> datetime:
    return datetime.now(UTC)
