"""The command `exitplane encryption`, for the keys that seal the secrets in the database."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.local_database import open_database, run
from model import key_file
from model.encryption import Keyring
from model.errors import ExitplaneError
from model.repositories import sealed_values
from model.schema_version import check_migration
from model.settings import Settings, read_settings

encryption = typer.Typer(
    help="Create and rotate the keys that seal the secrets in the database, and see which of them are in use.",
    no_args_is_help=True,
)
_JSON = typer.Option("--json", help="Print JSON.")


class KeysInEnvironment(ExitplaneError):
    code = "keys_in_environment"


class KeysInUse(ExitplaneError):
    code = "keys_in_use"


@encryption.command("create")
def encryption_create(*, as_json: Annotated[bool, _JSON] = False) -> None:
    """Create the key file of this control plane (mode 0600), unless it exists.

    Give the same file to all replicas, and keep a copy apart from the backups: without it they have no secrets.
    """
    settings = _settings_with_file()
    path = key_file.path_of(settings)
    created = key_file.create(path)
    ids = key_file.read_keyring(settings).ids
    if as_json:
        print(json.dumps({"file": str(path), "created": created, "keys": [*ids]}))
    else:
        print(f"{path} is created" if created else f"{path} exists already")


@encryption.command("rotate")
def encryption_rotate(
    *,
    new_key: Annotated[
        bool, typer.Option(help="Put a new key first in the key file; without, only seal with the present first key.")
    ] = True,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Remove the other keys from the file afterwards.")
    ] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Seal all secrets in the database with a new key, those too that an older version stored in clear.

    The control plane may run meanwhile. With several replicas, first copy a key file that has the new key to each of them,
    then run this with --no-new-key.
    """
    settings = read_settings()
    if new_key or drop_old:
        settings = _settings_with_file()
    sealed, keyring = run(_rotate(settings, new_key=new_key, drop_old=drop_old))
    if as_json:
        print(json.dumps({"sealed": sealed, "keys": [*keyring.ids]}))
    else:
        print(f"{sealed} secrets are sealed anew, with key {keyring.ids[0]}")


@encryption.command("status")
def encryption_status(*, as_json: Annotated[bool, _JSON] = False) -> None:
    """Count the secrets in the database by the key that sealed them.

    Exits with 1 if one is in clear, or sealed with a key that this host does not have.
    """
    keyring = key_file.read_keyring(read_settings())
    counts = run(_count())
    unsealed = counts.pop(None, 0)
    missing = sorted(str(each) for each in counts if each not in keyring.ids)
    if as_json:
        by_key = {each: counts[each] for each in keyring.ids} | {each: counts[each] for each in missing}
        print(json.dumps({"current": keyring.ids[0], "secrets": by_key, "unsealed": unsealed, "missing_keys": missing}))
    else:
        for each in keyring.ids:
            print(f"key {each}: {counts[each]} secrets{' (seals new ones)' if each == keyring.ids[0] else ''}")
        for each in missing:
            print(f"key {each}: {counts[each]} secrets, and this host does not have it")
        if unsealed:
            print(f"in clear: {unsealed} secrets; seal them with `exitplane encryption rotate --no-new-key`")
    raise typer.Exit(1 if unsealed or missing else 0)


def _settings_with_file() -> Settings:
    """Return the settings if the keys are in a file. Raises KeysInEnvironment."""
    settings = read_settings()
    if settings.encryption_key is not None:
        raise KeysInEnvironment(
            "the keys are in EXITPLANE_ENCRYPTION_KEY, which this command cannot change",
            hint="change it yourself: a new key before the others, then `exitplane encryption rotate --no-new-key`",
        )
    return settings


async def _rotate(settings: Settings, *, new_key: bool, drop_old: bool) -> tuple[int, Keyring]:
    path = key_file.path_of(settings)
    key_file.read_keyring(settings)
    if new_key:
        key_file.prepend(path)
    keyring = key_file.read_keyring(settings)
    async with open_database(keyring) as database:
        await check_migration(database)
        sealed = await sealed_values.seal_all(database, keyring)
        if drop_old:
            counts = await sealed_values.count_by_key(database)
            if others := counts.keys() - {keyring.ids[0]}:
                raise KeysInUse(
                    f"{sum(counts[each] for each in others)} secrets were stored meanwhile with another key",
                    hint="see that all control planes have the new key file, and repeat with --no-new-key --drop-old",
                )
            key_file.keep_first(path)
            keyring = key_file.read_keyring(settings)
    return sealed, keyring


async def _count() -> sealed_values.KeyCounts:
    async with open_database() as database:
        await check_migration(database)
        return await sealed_values.count_by_key(database)
