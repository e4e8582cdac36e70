"""Facts about the control plane of this host for `exitplane doctor`."""

from __future__ import annotations

import os
import resource
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cli.host_facts import NoAnswer, ask_health, read_sysctl, stat_existing, stat_file
from model import key_file
from model.database import Database, DatabaseUnreachable
from model.doctor.control_plane import ApiFacts, DatabaseFacts, SchemaFacts, SettingsFacts
from model.doctor.host import ValidityFact
from model.embedded_postgres import running_server
from model.encryption import Keyring, MissingEncryptionKey, SecretUnreadable
from model.errors import ExitplaneError
from model.repositories import authorities, doctor_facts
from model.schema_version import current_migration, known_migrations, newest_migration
from model.settings import BadSettings, Settings, is_address, is_loopback

_VERIFIED = ("verify-full", "verify-ca")


def gather_settings(settings: Settings) -> SettingsFacts:
    """Gather the facts about settings, files and limits."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if descriptors == resource.RLIM_INFINITY:
        descriptors = 2**31 - 1
    _, key_problem = read_keyring(settings)
    engine = settings.container_engine
    return SettingsFacts(
        refused=_find_refusal(settings, descriptors),
        plain_api=[str(each) for each in settings.api_addresses if not is_loopback(each.host)]
        if settings.api_insecure and not settings.api_tls and settings.api_tls_certificate_file is None
        else (),
        plain_engine=engine if engine and engine.startswith("tcp://") else None,
        trusted_networks=[each.strip() for each in settings.trusted_proxies.split(",") if each.strip()],
        local_parents=settings.local_parents,
        database_tls=is_verified(settings.database_url),
        key_in_environment=settings.encryption_key is not None,
        key_problem=key_problem,
        state_folder=stat_file(settings.state_dir),
        private_files=stat_existing(_private_files(settings)),
        certificates=_read_api_certificate(settings),
        descriptors=descriptors,
        sysctl=read_sysctl(),
        now=datetime.now(UTC),
    )


def read_keyring(settings: Settings) -> tuple[Keyring | None, tuple[str, str] | None]:
    """Return the keys of secrets, or why there are none, with a hint."""
    try:
        return key_file.read_keyring(settings), None
    except ExitplaneError as error:
        return None, (error.message, error.hint or "")


def _find_refusal(settings: Settings, descriptors: int) -> tuple[str, str] | None:
    """Return why `exitplane serve` would not start with these settings."""
    try:
        _ = settings.serves_tls, settings.oidc
        settings.connection_limits(descriptors)
    except BadSettings as error:
        return error.message, error.hint or ""
    return None


def is_verified(url: str | None) -> bool:
    """Return False for a database on another host whose certificate is not verified."""
    if url is None:
        return True
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host or host == "localhost" or (is_address(host) and ip_address(host).is_loopback):
        return True  # a Unix socket, or this host
    mode = parse_qs(parts.query).get("sslmode") or parse_qs(parts.query).get("ssl") or [""]
    return mode[0] in _VERIFIED


def _private_files(settings: Settings) -> list[Path]:
    files = [key_file.path_of(settings)] if settings.encryption_key is None else []
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "exitplane" / "credentials.json"
    key = os.environ.get("EXITPLANE_API_KEY_FILE")
    named = [settings.api_tls_key_file, Path(key) if key else None, home]
    return files + [each for each in named if each is not None]


def _read_api_certificate(settings: Settings) -> list[ValidityFact]:
    file = settings.api_tls_certificate_file
    if file is None:
        return []
    try:
        return [*doctor_facts.validity(f"the API's certificate {file}", file.read_text(), "renew it")]
    except (OSError, ValueError) as error:
        never = datetime.fromtimestamp(0, UTC)
        return [
            ValidityFact(f"the API's certificate {file} cannot be read ({error}), or", never, never, "replace the file")
        ]


async def gather_database(settings: Settings) -> tuple[SchemaFacts, DatabaseFacts | None, str | None]:
    """Gather the facts about the database, and the authority's certificate (PEM); None for what cannot be read."""
    newest = newest_migration()
    url = settings.database_url or running_server(settings.state_dir)
    if url is None:
        away = f"no embedded PostgreSQL runs in {settings.state_dir}"
        return (
            SchemaFacts(away=(away, "start `exitplane serve`, or set EXITPLANE_DATABASE_URL"), newest=newest),
            None,
            None,
        )
    keyring, _ = read_keyring(settings)
    database = Database(url, keyring=keyring, pool_size=1)
    try:
        migration = await current_migration(database)
        known = migration is None or migration in known_migrations()
        schema = SchemaFacts(migration=migration, newest=newest, known=known)
        if migration != newest:
            return schema, None, None
        async with database.snapshot() as session:
            authority = "".join(await authorities.trusted_roots(session)) or None
        ids = keyring.ids if keyring else ()
        return schema, await doctor_facts.read(database, ids, datetime.now(UTC)), authority
    except (DatabaseUnreachable, MissingEncryptionKey, SecretUnreadable) as error:
        return SchemaFacts(away=(error.message, error.hint or ""), newest=newest), None, None
    finally:
        await database.close()


def default_api(settings: Settings) -> str:
    """Return the URL at which this host reaches its own API."""
    address = settings.api_addresses[0]
    host = "127.0.0.1" if is_address(address.host) and ip_address(address.host).is_unspecified else address.host
    tls = settings.api_tls or settings.api_tls_certificate_file is not None
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{address.port}"


def gather_api(url: str, authority: str | None, ca: Path | None) -> ApiFacts:
    """Ask the API, whose certificate is verified with the file `ca`, or with the authority (PEM) and the system's."""
    try:
        tls = ssl.create_default_context(cafile=ca)
        if authority is not None and ca is None:
            tls.load_verify_locations(cadata=authority)
        health, clock = ask_health(url, tls)
        return ApiFacts(url=url, failing=_failing(health["parts"]), closed=_count_closed(health), clock=clock)
    except (NoAnswer, OSError) as error:
        return ApiFacts(url=url, away=str(error))
    except (AttributeError, TypeError):
        return ApiFacts(url=url, away="its answer is not that of a control plane")


def _failing(parts: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(each.get("reason") or "unhealthy") for name, each in parts.items() if not each.get("ok")}


def _count_closed(health: Mapping[str, Any]) -> int:
    return sum(sum(each.get("closed", {}).values()) for each in (health.get("connections") or {}).values())
