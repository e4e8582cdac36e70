"""Settings, from the environment with the prefix EXITPLANE_."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model.endpoint import Endpoint, parse_endpoint
from model.errors import ExitplaneError


class BadSettings(ExitplaneError):
    code = "bad_settings"


ROLES: Final = ("admin", "operator", "viewer")
"""Of operators; each may what the next one may."""


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """Where operators may log in. `roles` pairs a role with what the claim holds for it, the highest role first."""

    issuer: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    redirect_uri: str | None = None
    """Where the provider sends the browser back; None: to where the browser called the API."""
    role_claim: str | None = None
    roles: tuple[tuple[str, str], ...] = ()


def _addresses(text: str) -> str:
    for part in text.split(","):
        parse_endpoint(part, lowest_port=0)
    return text


def _address(text: str | None) -> str | None:
    return text and _addresses(text)


def _secure_url(text: str | None) -> str | None:
    """A URL whose traffic nobody else reads."""
    if not text:
        return None
    parts = urlsplit(text)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        raise ValueError("this is no https:// URL")
    if parts.query or parts.fragment:
        raise ValueError("this has a query or a fragment")
    return text


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _engine(text: str | None) -> str | None:
    if not text:
        return None
    parts = urlsplit(text)
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return text
    if parts.scheme == "tcp" and parts.hostname and parts.port and parts.path in ("", "/"):
        return text.rstrip("/")
    raise ValueError("this is neither unix:///path nor tcp://host:port")


def _plain_url(text: str | None) -> str | None:
    if not text:
        return None
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("this is no http:// or https:// URL")
    return text.rstrip("/")


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
    """Where state lives when nobody says: a system folder for root, the user's own otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/exitplane")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "exitplane"


class Settings(BaseSettings):
    """What the control plane's commands read; each field is EXITPLANE_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="EXITPLANE_", extra="ignore")

    state_dir: Path = Field(default_factory=default_state_dir)
    database_url: str | None = None
    """PostgreSQL to use; unset: an embedded one in the state folder."""
    api_listen: Annotated[str, NoDecode, AfterValidator(_addresses)] = "127.0.0.1:8000"
    """host:port, or several with commas."""
    xds_listen: Annotated[str, NoDecode, AfterValidator(_addresses)] = "127.0.0.1:18000"
    xds_advertise: Annotated[str | None, AfterValidator(_address)] = None
    """host:port that proxies are told to dial; unset: the API's host as they dialled it, and the port of xds_listen."""
    heartbeat_interval_s: float = Field(default=10, gt=0)
    silence_timeout_s: float = Field(default=30, gt=0)
    """After this much silence an exit is unreachable; only time in which the control plane could hear counts."""
    lost_after_s: float = Field(default=300, gt=0)
    removal_grace_s: float = Field(default=1, ge=0)
    """How long a resource that nothing refers to any more stays, after the ACKs that freed it."""
    canary_share: float = Field(default=0, ge=0, le=1)
    """Of a group's proxies at each replica, how many try a change first: 0 for one of all, 1 for no canaries."""
    canary_soak_s: float = Field(default=0, ge=0)
    """How long canaries must have had a change before the others are given it."""
    check_with_envoy: bool = False
    """Whether `envoy --mode validate` must accept a change, too, before the others are given it."""
    debounce_floor_s: float = Field(default=0.02, ge=0)
    """Changes that follow each other faster are published together."""
    debounce_ceiling_s: float = Field(default=0.5, gt=0)
    """And are published after this time at the latest."""
    admissions_per_s: float = Field(default=500, gt=0)
    """How many new xDS streams a replica takes in a second; others are told to come back in a moment."""
    connection_age_s: float = Field(default=1_800, ge=0)
    """After this time proxies are asked to connect anew, to whichever replica they find; 0 for never."""

    container_engine: Annotated[str | None, AfterValidator(_engine)] = None
    """The container engine that exits run at: unix:///path or tcp://host:port. See docs/containers.md before setting it."""
    container_api: Annotated[str | None, AfterValidator(_plain_url)] = None
    """The URL that containers reach the REST API under; needed with an engine."""
    container_secrets: Path | None = None
    """The folder on the engine's host with the secrets that pools name."""

    oidc_issuer: Annotated[str | None, AfterValidator(_secure_url)] = None
    """The OIDC provider at which operators may log in."""
    oidc_client_id: str | None = None
    oidc_client_secret: SecretStr | None = None
    """Unset: the provider knows this client as a public one."""
    oidc_redirect_uri: Annotated[str | None, AfterValidator(_secure_url)] = None
    """The URL of /api/v1/auth/oidc/callback as browsers reach it; unset: where they called."""
    oidc_role_claim: str | None = None
    """The claim by which accounts that nobody bound to an operator become one; dots lead into objects."""
    oidc_roles: Annotated[str, NoDecode, AfterValidator(_role_pairs)] = ""
    """What that claim holds for which role: admin=platform,viewer=staff."""

    @property
    def oidc(self) -> OidcSettings | None:
        """Raises BadSettings when the settings of the provider are not whole."""
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

    @property
    def api_addresses(self) -> list[Endpoint]:
        return [parse_endpoint(part, lowest_port=0) for part in self.api_listen.split(",")]

    @property
    def xds_addresses(self) -> list[Endpoint]:
        return [parse_endpoint(part, lowest_port=0) for part in self.xds_listen.split(",")]


def read_settings() -> Settings:
    """The settings of this process. Raises BadSettings, one line, naming the variable, its value and the hint."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"EXITPLANE_{'_'.join(str(part) for part in first['loc']).upper()}"
        raise BadSettings(f"{name}={first['input']!r}: {first['msg']}", hint=f"correct {name}") from error
