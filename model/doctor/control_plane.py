"""The checks of a control plane: its settings and files, its database, and its running replicas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from model.descriptors import RESERVED, default_connections
from model.doctor.findings import Check, Judgement, error, note, warning
from model.doctor.host import (
    ClockFact,
    FileFact,
    ValidityFact,
    judge_clocks,
    judge_folder,
    judge_private_files,
    judge_sysctl,
    judge_validity,
)

DESCRIPTORS: Final = 2 * 10_000 + RESERVED
"""Enough for the largest default numbers of connections (docs/decisions/0034-strangers-wait-in-a-bounded-line.md)."""
FEW_CONNECTIONS: Final = 1_000
LONG_LIVED: Final = timedelta(days=366)
UNUSED: Final = timedelta(days=90)
TOKEN_LIFETIME: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsFacts:
    """The settings of this host's control plane. `refused` is the reason why they do not let it start, and its hint.

    `plain_api` and `plain_engine` are addresses to which unencrypted connections go beyond loopback. `trusted_networks` are those
    whose X-Forwarded-For is believed. `database_tls` is False for a database on another host that is not reached by verified TLS.
    `private_files` must be readable by their owner alone.
    """

    refused: tuple[str, str] | None = None
    plain_api: Sequence[str] = ()
    plain_engine: str | None = None
    trusted_networks: Sequence[str] = ()
    local_parents: bool = False
    database_tls: bool = True
    key_in_environment: bool = False
    key_problem: tuple[str, str] | None = None
    state_folder: FileFact | None = None
    private_files: Sequence[FileFact] = ()
    certificates: Sequence[ValidityFact] = ()
    descriptors: int = DESCRIPTORS
    sysctl: Mapping[str, str] = field(default_factory=dict)
    now: datetime


@dataclass(frozen=True, slots=True)
class OperatorFact:
    """An operator who is not disabled."""

    name: str
    role: str
    has_password: bool
    has_second_factor: bool


@dataclass(frozen=True, slots=True)
class ApiKeyFact:
    """An API key that is valid."""

    operator: str
    name: str
    role: str
    expires: datetime | None
    created: datetime
    last_used: datetime | None


@dataclass(frozen=True, slots=True)
class JoinTokenFact:
    """A join token that is valid; `uses` is None for any number."""

    name: str
    uses: int | None
    expires: datetime


@dataclass(frozen=True, slots=True)
class ListenerFact:
    """A gateways' listener on an address that is not loopback; `tls` tells whether it has a certificate."""

    name: str
    tls: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFacts:
    """The contents of the database, as of `now` on this host. `secrets` counts secrets by the id of their key, None for those in clear.

    `unverified` maps the names of pools that offer unverified exits to the numbers of such exits. `replicas` are those of the xDS
    server that are alive.
    """

    now: datetime
    clock: ClockFact
    secrets: Mapping[str | None, int] = field(default_factory=dict)
    keys: Sequence[str] = ()
    certificates: Sequence[ValidityFact] = ()
    unverified: Mapping[str, int] = field(default_factory=dict)
    listeners: Sequence[ListenerFact] = ()
    operators: Sequence[OperatorFact] = ()
    api_keys: Sequence[ApiKeyFact] = ()
    join_tokens: Sequence[JoinTokenFact] = ()
    replicas: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaFacts:
    """The database's reachability and schema: `away` has the reason and its hint if it does not answer."""

    away: tuple[str, str] | None = None
    migration: str | None = None
    newest: str = ""
    known: bool = True
    """False for a migration that only a newer version has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiFacts:
    """The answer of GET /health: `away` is the reason why there is none, `failing` are the parts that are not healthy, with reasons."""

    url: str
    away: str | None = None
    failing: Mapping[str, str] = field(default_factory=dict)
    closed: int = 0
    """Connections that were closed at a limit since the start."""
    clock: ClockFact | None = None


def judge_settings(facts: SettingsFacts) -> Iterator[Judgement]:
    if facts.refused is not None:
        yield error(*facts.refused)


def judge_plain_api(facts: SettingsFacts) -> Iterator[Judgement]:
    if facts.plain_api:
        yield warning(
            f"the API speaks plain HTTP at {', '.join(facts.plain_api)}: whoever listens in gets passwords and tokens",
            "set EXITPLANE_API_TLS=true and unset EXITPLANE_API_INSECURE, unless only a TLS proxy reaches it",
        )


def judge_engine(facts: SettingsFacts) -> Iterator[Judgement]:
    if facts.plain_engine:
        yield warning(
            f"the container engine is reached at {facts.plain_engine} without TLS: whoever can connect there is root on its host",
            "set EXITPLANE_CONTAINER_ENGINE=unix:///path",
        )


def judge_trusted_proxies(facts: SettingsFacts) -> Iterator[Judgement]:
    for network in facts.trusted_networks:
        if network.endswith("/0"):
            yield error(
                f"EXITPLANE_TRUSTED_PROXIES has {network}: everybody may claim any address, and no limit by address holds",
                "name the addresses of your proxies alone",
            )


def judge_local_parents(facts: SettingsFacts) -> Iterator[Judgement]:
    if facts.local_parents:
        yield note(
            "operators of a fleet may send traffic to their exits' own hosts (EXITPLANE_LOCAL_PARENTS)",
            "unset it where operators are not trusted with those hosts",
        )


def judge_database_tls(facts: SettingsFacts) -> Iterator[Judgement]:
    if not facts.database_tls:
        yield warning(
            "the database is on another host, and its certificate is not verified",
            "add ?sslmode=verify-full&sslrootcert=FILE to EXITPLANE_DATABASE_URL",
        )


def judge_key(facts: SettingsFacts) -> Iterator[Judgement]:
    if facts.key_problem is not None:
        yield error(*facts.key_problem)
    elif facts.key_in_environment:
        yield note(
            "the keys of the secrets are in EXITPLANE_ENCRYPTION_KEY, which processes of the same user can read",
            "keep them in a file (EXITPLANE_ENCRYPTION_KEY_FILE) if other programs run as this user",
        )


def judge_descriptors(facts: SettingsFacts) -> Iterator[Judgement]:
    if facts.descriptors < DESCRIPTORS:
        connections = default_connections(facts.descriptors)
        judge = warning if connections < FEW_CONNECTIONS else note
        yield judge(
            f"a process may open {facts.descriptors} file descriptors here: {connections} connections for each of API and xDS",
            "raise the hard limit of the service: LimitNOFILE=65536, or ulimit -Hn 65536",
        )


def judge_schema(facts: SchemaFacts) -> Iterator[Judgement]:
    if facts.away is not None:
        yield error(*facts.away)
    elif not facts.known:
        yield error(
            f"the database is at migration {facts.migration}, which a newer version made", "install that version here"
        )
    elif facts.migration != facts.newest:
        yield error(
            f"the database is at migration {facts.migration or 'none'}, this version needs {facts.newest}",
            "exitplane db upgrade",
        )


def judge_sealed(facts: DatabaseFacts) -> Iterator[Judgement]:
    in_clear = facts.secrets.get(None, 0)
    if in_clear:
        yield error(
            f"{in_clear} secrets are in clear in the database and its backups",
            "exitplane encryption rotate --no-new-key",
        )
    missing = {key: count for key, count in facts.secrets.items() if key is not None and key not in facts.keys}
    for key, count in missing.items():
        yield error(
            f"{count} secrets are sealed with key {key}, which this host does not have",
            "copy the key file of the other control planes",
        )
    others = sum(count for key, count in facts.secrets.items() if key in facts.keys[1:])
    if others:
        yield note(f"{others} secrets are still sealed with a former key", "exitplane encryption rotate --no-new-key")


def judge_unverified(facts: DatabaseFacts) -> Iterator[Judgement]:
    for pool, exits in facts.unverified.items():
        if exits:
            yield warning(
                f"pool {pool} offers {exits} exits whose country and address nothing verifies",
                "start their agents with --observe, and set allow_unverified of the pool to false",
            )
        else:
            yield note(f"pool {pool} would offer exits that nothing verifies", "set its allow_unverified to false")


def judge_listeners(facts: DatabaseFacts) -> Iterator[Judgement]:
    for listener in facts.listeners:
        if not listener.tls:
            yield warning(
                f"clients reach listener {listener.name} beyond loopback without TLS", "give it a certificate"
            )


def judge_second_factors(facts: DatabaseFacts) -> Iterator[Judgement]:
    for operator in facts.operators:
        if operator.has_password and not operator.has_second_factor:
            judge = warning if operator.role == "admin" else note
            yield judge(
                f"{operator.role} {operator.name} logs in with a password alone",
                "let them add a second factor: POST /api/v1/auth/totp (docs/operators.md)",
            )


def judge_admins(facts: DatabaseFacts) -> Iterator[Judgement]:
    if not any(each.role == "admin" for each in facts.operators):
        yield error("no admin can log in", "exitplane init --name NAME --generate")


def judge_api_keys(facts: DatabaseFacts) -> Iterator[Judgement]:
    for key in facts.api_keys:
        name = f"API key {key.name} of {key.operator} ({key.role})"
        if key.expires is None or key.expires - facts.now > LONG_LIVED:
            judge = warning if key.role == "admin" else note
            until = "never expires" if key.expires is None else f"is valid until {key.expires:%Y-%m-%d}"
            yield judge(f"{name} {until}", "give it an end: PATCH /api/v1/api-keys/ID with expires_at")
        if facts.now - (key.last_used or key.created) > UNUSED:
            yield note(f"{name} was not used for {UNUSED.days} days", "remove it: DELETE /api/v1/api-keys/ID")


def judge_join_tokens(facts: DatabaseFacts) -> Iterator[Judgement]:
    for token in facts.join_tokens:
        if token.uses is None or token.expires - facts.now > TOKEN_LIFETIME:
            uses = "any number of proxies" if token.uses is None else f"{token.uses} proxies"
            yield warning(
                f"join token {token.name} lets {uses} enrol until {token.expires:%Y-%m-%d}",
                f"exitplane token revoke {token.name}, once its agents have enrolled",
            )


def judge_replicas(facts: DatabaseFacts) -> Iterator[Judgement]:
    if facts.replicas == 0:
        yield error("no replica of the xDS server is alive", "start `exitplane serve`")
    elif facts.replicas == 1:
        yield note("one replica serves: its end is an outage for changes", "run a second one with the same database")


def judge_api(facts: ApiFacts) -> Iterator[Judgement]:
    if facts.away is not None:
        yield error(
            f"no API answers at {facts.url} ({facts.away})", "start `exitplane serve`, or name its URL with --api"
        )
    for part, reason in facts.failing.items():
        yield error(f"the replica at {facts.url} is not ready: {part} ({reason})", "see its log")


def judge_strangers(facts: ApiFacts) -> Iterator[Judgement]:
    if facts.closed:
        yield note(
            f"the replica at {facts.url} closed {facts.closed} waiting connections at a limit since its start",
            "find their addresses in the log: connections.limited (docs/settings.md#strangers)",
        )


SETTINGS_CHECKS: Final = (
    Check("settings", "the settings let a control plane start", judge_settings),
    Check("api-plaintext", "the API is not reached in clear from other hosts", judge_plain_api),
    Check("container-engine", "no container engine is reached in clear", judge_engine),
    Check("trusted-proxies", "X-Forwarded-For is believed from nobody, or from named proxies", judge_trusted_proxies),
    Check("local-parents", "exits' own hosts are closed to their operators", judge_local_parents),
    Check("database-connection", "the database is local, or its certificate is verified", judge_database_tls),
    Check("encryption-key", "the keys of the secrets are in a file that its owner alone reads", judge_key),
    Check[SettingsFacts]("state-folder", "nobody else can write to the state folder", lambda it: judge_folder(it.state_folder)),
    Check[SettingsFacts]("private-files", "keys and credentials are readable by their owner alone", lambda it: judge_private_files(it.private_files)),
    Check[SettingsFacts]("api-certificate", "the API's certificate is valid for long", lambda it: judge_validity(it.certificates, it.now)),
    Check("descriptors", "there are enough file descriptors", judge_descriptors),
    Check[SettingsFacts]("kernel", "the kernel's limits are high enough", lambda it: judge_sysctl(it.sysctl)),
)  # fmt: skip
SCHEMA_CHECKS: Final = (Check("database", "the database answers, and its schema is this version's", judge_schema),)
DATABASE_CHECKS: Final = (
    Check("sealed-secrets", "all secrets are sealed with a key that this host has", judge_sealed),
    Check[DatabaseFacts]("certificates", "all certificates are valid for long", lambda it: judge_validity(it.certificates, it.now)),
    Check("unverified-exits", "only verified exits are offered", judge_unverified),
    Check("listeners", "clients from other hosts use TLS", judge_listeners),
    Check("admins", "there is an admin", judge_admins),
    Check("second-factors", "everybody with a password has a second factor", judge_second_factors),
    Check("api-keys", "API keys are in use, and end", judge_api_keys),
    Check("join-tokens", "join tokens are counted and short-lived", judge_join_tokens),
    Check("replicas", "several replicas serve", judge_replicas),
    Check[DatabaseFacts]("database-clock", "the clocks of this host and of the database agree", lambda it: judge_clocks([it.clock])),
)  # fmt: skip
API_CHECKS: Final = (
    Check("api", "a replica answers and is ready", judge_api),
    Check("strangers", "no connection was closed at a limit", judge_strangers),
    Check[ApiFacts]("api-clock", "the clocks of this host and of the replica agree", lambda it: judge_clocks([it.clock] if it.clock else [])),
)  # fmt: skip
