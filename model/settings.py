"""The settings of the control plane, from environment variables with the prefix EXITPLANE_."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model.connection_table import ConnectionLimits
from model.descriptors import RESERVED, default_connections
from model.endpoint import Endpoint, parse_endpoint
from model.errors import ExitplaneError
from model.log_levels import parse_levels


class BadSettings(ExitplaneError):
    code = "bad_settings"


ROLES: Final = ("admin", "operator", "viewer")
"""The roles of operators; each includes the rights of the next."""


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """The OIDC provider for logins of operators. `roles` pairs a role with its value of the claim, the highest role first."""

    issuer: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    redirect_uri: str | None = None
    """The URL to which the provider sends the browser back; None: the one at which the browser called the API."""
    role_claim: str | None = None
    roles: tuple[tuple[str, str], ...] = ()


_HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.(?!-)[A-Za-z0-9-]{1,63})*")


def is_address(host: str) -> bool:
    """Return True for an IP address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _addresses(text: str) -> str:
    for part in text.split(","):
        parse_endpoint(part, lowest_port=0)
    return text


def _address(text: str | None) -> str | None:
    return text and _addresses(text)


def _log_levels(text: str) -> str:
    parse_levels(text)
    return text


def _hosts(text: str) -> str:
    for host in _read_hosts(text):
        if not is_address(host) and not _HOST_NAME.fullmatch(host):
            raise ValueError(f"{host!r} is neither a host name nor an IP address")
    return text


def _read_hosts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _networks(text: str) -> str:
    _read_networks(text)
    return text


def _read_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def _secure_url(text: str | None) -> str | None:
    """Accept only a URL whose traffic nobody else can read: https, or http to a loopback address."""
    if not text:
        return None
    parts = urlsplit(text)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise ValueError("this is not an https:// URL")
    if parts.query or parts.fragment:
        raise ValueError("this has a query or a fragment")
    return text


def is_loopback(host: str) -> bool:
    """Return True for a loopback address, and for localhost."""
    return ip_address(host).is_loopback if is_address(host) else host == "localhost"


def _engine(text: str | None) -> str | None:
    if not text:
        return None
    parts = urlsplit(text)
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return text
    if parts.scheme == "tcp" and parts.hostname and parts.port and parts.path in ("", "/"):
        return text.rstrip("/")
    raise ValueError("this is neither unix:///path nor tcp://host:port")


def _required_url(text: str) -> str:
    found = _secure_url(text)
    if found is None:
        raise ValueError("this is not an https:// URL")
    return found.rstrip("/")


def _plain_url(text: str | None) -> str | None:
    if not text:
        return None
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("this is not an http:// or https:// URL")
    return text.rstrip("/")


def _chats(text: str) -> str:
    _read_chats(text)
    return text


def _read_chats(text: str) -> frozenset[int]:
    return frozenset(int(part) for part in text.split(",") if part.strip())


def _role_pairs(text: str) -> str:
    _read_roles(text)
    return text


def _read_roles(text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        role, found, value = (each.strip() for each in part.partition("="))
        if role not in ROLES or not found or not value:
            raise ValueError(f"{part!r} is not role=value, with a role of {', '.join(ROLES)}")
        pairs.append((role, value))
    return tuple(sorted(pairs, key=lambda pair: ROLES.index(pair[0])))


def default_state_dir() -> Path:
    """Return the default state folder: a system folder for root, a folder in the user's home otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/exitplane")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "exitplane"


class Settings(BaseSettings):
    """The settings of the control plane's commands; each field is read from EXITPLANE_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="EXITPLANE_", extra="ignore")

    state_dir: Path = Field(default_factory=default_state_dir)
    database_url: str | None = None
    """The URL of PostgreSQL; unset: an embedded one in the state folder."""
    encryption_key: SecretStr | None = None
    """The keys that seal secrets in the database, 32 bytes each in base64, separated by commas, the current one first."""
    encryption_key_file: Path | None = None
    """The file with these keys, a line each; unset: encryption.key in the state folder."""
    api_listen: Annotated[str, NoDecode, AfterValidator(_addresses)] = "127.0.0.1:8000"
    """host:port, or several separated by commas."""
    api_tls: bool = False
    """Serve the API over TLS. The control plane's authority issues the certificate, unless files are given."""
    api_tls_hosts: Annotated[str, NoDecode, AfterValidator(_hosts)] = ""
    """Host names and addresses, with commas, at which clients reach the API, for the issued certificate."""
    api_tls_certificate_file: Path | None = None
    """A certificate with its chain, in PEM; read again when it changes. With api_tls_key_file it implies api_tls."""
    api_tls_key_file: Path | None = None
    """The key of that certificate, in PEM, readable by its owner alone."""
    api_insecure: bool = False
    """Let the API listen without TLS on addresses that are not loopback."""
    xds_listen: Annotated[str, NoDecode, AfterValidator(_addresses)] = "127.0.0.1:18000"
    xds_advertise: Annotated[str | None, AfterValidator(_address)] = None
    """host:port that proxies dial for xDS; unset: the host at which they reached the API, with the port of xds_listen."""
    heartbeat_interval_s: float = Field(default=10, gt=0)
    silence_timeout_s: float = Field(default=30, gt=0)
    """After this much silence an exit is unreachable. Only time in which the control plane received heartbeats counts."""
    lost_after_s: float = Field(default=300, gt=0)
    removal_grace_s: float = Field(default=1, ge=0)
    """The time that an unreferenced resource stays after the ACKs that freed it."""
    canary_share: float = Field(default=0, ge=0, le=1)
    """The part of a group's proxies at each replica that get a change first: 0 for one of all, 1 for no canaries."""
    canary_soak_s: float = Field(default=0, ge=0)
    """The time that canaries must have had a change before the others get it."""
    check_with_envoy: bool = False
    """Require that `envoy --mode validate` accepts a change too, before the others get it."""
    debounce_floor_s: float = Field(default=0.02, ge=0)
    """Changes that follow each other within this time are published together."""
    debounce_ceiling_s: float = Field(default=0.5, gt=0)
    """The latest time at which collected changes are published."""
    admissions_per_s: float = Field(default=500, gt=0)
    """The number of new xDS streams that a replica admits in a second; the others must retry."""
    connection_age_s: float = Field(default=1_800, ge=0)
    """The maximum age of a connection, after which a proxy reconnects to any replica; 0: no maximum."""
    metrics_listen: Annotated[str | None, AfterValidator(_address)] = None
    """host:port of GET /metrics, which needs no credential; unset: nothing listens."""
    metrics_advertise: Annotated[str | None, AfterValidator(_address)] = None
    """host:port at which Prometheus reaches metrics_listen, for its discovery; unset: metrics_listen itself."""
    trace_failures: bool = True
    """Export the spans of a trace in which one failed, whatever OTEL_TRACES_SAMPLER says."""
    log_level: Annotated[str, NoDecode, AfterValidator(_log_levels)] = "info"
    """A level for everything, and with commas levels of modules: info,xds.server=debug."""
    log_level_file: Path | None = None
    """A file with such levels, which are read after log_level, and again at SIGHUP."""
    connections_max: int | None = Field(default=None, ge=1)
    """The connections that the API, and the xDS server, may each have; unset: as many as the descriptors of the process allow."""
    waiting_per_address: int = Field(default=1_000, ge=1)
    """The connections of one client address, at each of both, on which no request is authenticated yet."""
    request_timeout_s: float = Field(default=20, gt=0)
    """The time within which a request must be complete and authenticated, from the connection or the request's first byte."""
    trusted_proxies: Annotated[str, NoDecode, AfterValidator(_networks)] = ""
    """Addresses and networks of proxies in front of the API, with commas, whose X-Forwarded-For and -Proto are believed."""
    certificate_hours: float = Field(default=48, gt=0, le=365 * 24)
    """The lifetime of the certificates of proxies whose agents renew them, which they do after about a third of it."""
    local_parents: bool = False
    """Let operators declare parent proxies on their exits' own hosts and links (loopback, 169.254.0.0/16 and the like)."""
    local_channels: bool = False
    """Let messages be sent to the control plane's own host and link (loopback, 169.254.0.0/16 and the like)."""
    telegram_token_file: Path | None = None
    """The file with the token of a Telegram bot that answers commands, readable by its owner alone; unset: no bot."""
    telegram_chats: Annotated[str, NoDecode, AfterValidator(_chats)] = ""
    """The ids of the chats in which the bot answers, with commas; it is silent in all others."""
    telegram_api: Annotated[str, AfterValidator(_required_url)] = "https://api.telegram.org"
    """The URL of Telegram's Bot API, or of a server of one's own."""

    certificate_folder: Path | None = None
    """The folder with a folder for each fleet, in which ACME clients keep certificates of listeners."""

    container_engine: Annotated[str | None, AfterValidator(_engine)] = None
    """The engine for containers of exits: unix:///path or tcp://host:port. See docs/containers.md before setting it."""
    container_api: Annotated[str | None, AfterValidator(_plain_url)] = None
    """The URL at which containers reach the REST API; required with an engine."""
    container_secrets: Path | None = None
    """The folder on the engine's host with a folder of secret files for each fleet, which its pools name."""
    container_policy: Path | None = None
    """The TOML file that says which images, networks and options fleets may use; unset: none."""

    oidc_issuer: Annotated[str | None, AfterValidator(_secure_url)] = None
    """The OIDC provider for logins of operators."""
    oidc_client_id: str | None = None
    oidc_client_secret: SecretStr | None = None
    """Unset: the provider treats this client as a public one."""
    oidc_redirect_uri: Annotated[str | None, AfterValidator(_secure_url)] = None
    """The URL of /api/v1/auth/oidc/callback as browsers reach it; unset: the URL at which they called."""
    oidc_role_claim: str | None = None
    """The claim that gives a role to accounts that are bound to no operator; dots lead into objects."""
    oidc_roles: Annotated[str, NoDecode, AfterValidator(_role_pairs)] = ""
    """The value of that claim for each role, for example admin=platform,viewer=staff."""

    @property
    def oidc(self) -> OidcSettings | None:
        """The settings of the provider; None without one. Raises BadSettings when they are incomplete."""
        if self.oidc_issuer is None:
            return None
        if not self.oidc_client_id:
            raise BadSettings("EXITPLANE_OIDC_ISSUER without EXITPLANE_OIDC_CLIENT_ID", hint="set both, or neither")
        if bool(self.oidc_role_claim) != bool(self.oidc_roles):
            raise BadSettings("EXITPLANE_OIDC_ROLE_CLAIM and EXITPLANE_OIDC_ROLES belong together", hint="set both")
        return OidcSettings(
            issuer=self.oidc_issuer,
            client_id=self.oidc_client_id,
            client_secret=self.oidc_client_secret.get_secret_value() if self.oidc_client_secret else None,
            redirect_uri=self.oidc_redirect_uri,
            role_claim=self.oidc_role_claim,
            roles=_read_roles(self.oidc_roles),
        )

    def connection_limits(self, descriptors: int) -> ConnectionLimits:
        """Return the limits of each of API and xDS in a process with so many descriptors. Raises BadSettings for too few."""
        total = self.connections_max or default_connections(descriptors)
        if 2 * total + RESERVED > max(descriptors, RESERVED + 2):
            raise BadSettings(
                f"EXITPLANE_CONNECTIONS_MAX={total} needs {2 * total + RESERVED} file descriptors, and this process may open {descriptors}",
                hint="raise the limit of the service (LimitNOFILE=, ulimit -Hn), or set a smaller number",
            )
        return ConnectionLimits(
            total, self.waiting_per_address, self.request_timeout_s, _read_networks(self.trusted_proxies)
        )

    @property
    def serves_tls(self) -> bool:
        """True if the API speaks TLS.

        Raises BadSettings for half of a certificate, and for plain HTTP on an address of which strangers can listen in.
        """
        if bool(self.api_tls_certificate_file) != bool(self.api_tls_key_file):
            raise BadSettings(
                "EXITPLANE_API_TLS_CERTIFICATE_FILE and EXITPLANE_API_TLS_KEY_FILE belong together", hint="set both"
            )
        if self.api_tls or self.api_tls_certificate_file is not None:
            return True
        exposed = [str(each) for each in self.api_addresses if not is_loopback(each.host)]
        if exposed and not self.api_insecure:
            raise BadSettings(
                f"EXITPLANE_API_LISTEN has {exposed[0]}, where the API would carry passwords and tokens in clear",
                hint="set EXITPLANE_API_TLS=true, or EXITPLANE_API_INSECURE=true if nobody can listen in on that network",
            )
        return False

    @property
    def issues_api_certificate(self) -> bool:
        """True if the control plane's authority issues the API's certificate. Raises BadSettings as `serves_tls` does."""
        return self.serves_tls and self.api_tls_certificate_file is None

    @property
    def api_hosts(self) -> list[str]:
        """The hosts for which a certificate of the API is issued: those that are set, those it listens on, and loopback."""
        advertised = [parse_endpoint(self.xds_advertise).host] if self.xds_advertise else []
        listening = [each.host for each in self.api_addresses]
        found = [*_read_hosts(self.api_tls_hosts), *listening, *advertised, "localhost", "127.0.0.1", "::1"]
        return [host for host in dict.fromkeys(found) if not is_address(host) or not ip_address(host).is_unspecified]

    @property
    def metrics_addresses(self) -> list[Endpoint]:
        """The addresses of the listener of metrics; empty if there is none."""
        return [parse_endpoint(part, lowest_port=0) for part in (self.metrics_listen or "").split(",") if part]

    @property
    def metrics_target(self) -> str | None:
        """The address at which Prometheus scrapes this replica; None without metrics, and if it is not known.

        An unspecified address, such as 0.0.0.0, cannot be dialled from elsewhere.
        """
        if self.metrics_advertise or not self.metrics_addresses:
            return self.metrics_advertise
        first = self.metrics_addresses[0]
        return None if is_address(first.host) and ip_address(first.host).is_unspecified else str(first)

    def read_log_levels(self) -> str:
        """Return the levels of log_level and, over them, those of log_level_file. Raises BadSettings."""
        if self.log_level_file is None:
            return self.log_level
        try:
            text = self.log_level_file.read_text()
            parse_levels(text)
        except (OSError, ValueError) as error:
            raise BadSettings(
                f"EXITPLANE_LOG_LEVEL_FILE={str(self.log_level_file)!r}: {error}",
                hint="write one level, or module=level, a line",
            ) from error
        return f"{self.log_level},{text}"

    @property
    def telegram_chat_ids(self) -> frozenset[int]:
        return _read_chats(self.telegram_chats)

    @property
    def api_addresses(self) -> list[Endpoint]:
        return [parse_endpoint(part, lowest_port=0) for part in self.api_listen.split(",")]

    @property
    def xds_addresses(self) -> list[Endpoint]:
        return [parse_endpoint(part, lowest_port=0) for part in self.xds_listen.split(",")]


def read_settings() -> Settings:
    """Read the settings of this process. Raises BadSettings, in one line with the variable, its value and the hint."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"EXITPLANE_{'_'.join(str(part) for part in first['loc']).upper()}"
        raise BadSettings(f"{name}={first['input']!r}: {first['msg']}", hint=f"correct {name}") from error
