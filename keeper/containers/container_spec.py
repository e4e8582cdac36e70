"""The specification of an exit's container: its name, labels and the body of the engine's POST /containers/create."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from model.container_policy import ContainerPolicy
from model.entities import Role
from model.repositories.containers import ContainerPool
from model.stored_containers import ContainerSettings

INSTANCE_LABEL: Final = "exitplane.instance"
POOL_LABEL: Final = "exitplane.pool"
SLOT_LABEL: Final = "exitplane.slot"
TEMPLATE_LABEL: Final = "exitplane.template"
"""The digest of the settings that the container was created with."""
TOKEN_PATH: Final = "/run/exitplane/join-token"  # noqa: S105 - where the token is, not the token
CA_PATH: Final = "/run/exitplane/api-ca.pem"
STATE_PATH: Final = "/var/lib/exitplane-agent"
_POOL_NAME_MAX: Final = 40
_SCALING_FIELDS: Final = frozenset({"minimum", "maximum", "requests_per_exit", "drain_s"})
"""Fields that say how many containers there are, not what they consist of."""


@dataclass(frozen=True, slots=True)
class SpecContext:
    """Settings that all containers of an installation share.

    `instance` tells its containers from those of others at the same engine. `api` is the URL at which they reach the API,
    `secrets` the folder on the engine's host with a folder of files for each fleet. `api_ca` is the authority (PEM) of the
    API's certificate; None: one that the system in the container trusts. `policy` says what fleets may use; `fleet` is the
    name of the one that a container is for.
    """

    instance: str
    api: str
    secrets: Path | None = None
    api_ca: str | None = None
    policy: ContainerPolicy = field(default_factory=ContainerPolicy)
    sees_secrets: bool = False
    """The engine runs on this host, so that its files can be looked at."""
    fleet: str | None = None

    def for_fleet(self, fleet: str | None) -> SpecContext:
        """Return the context of a fleet's containers."""
        return replace(self, fleet=fleet)

    @property
    def secrets_of_fleet(self) -> Path | None:
        """The folder with the secrets of the fleet; None: there is none. Fleets never share one."""
        return self.secrets / self.fleet if self.secrets and self.fleet else None


@dataclass(frozen=True, slots=True)
class PoolSlot:
    """A numbered slot of a pool, and the name of the container in it."""

    pool_id: UUID
    slot: int
    name: str


def container_name(pool: ContainerPool, slot: int) -> str:
    """Return the name of a new container: readable, and unique among all pools and installations."""
    return f"{pool.name[:_POOL_NAME_MAX]}-{pool.id.hex[:8]}-{slot}"


def template_digest(settings: ContainerSettings, context: SpecContext) -> str:
    """Return a digest that changes when a container would be created differently."""
    fields = {name: value for name, value in asdict(settings).items() if name not in _SCALING_FIELDS}
    folder = context.secrets_of_fleet if settings.secrets else context.secrets
    shared = [context.api, str(folder), *([CA_PATH] if context.api_ca else [])]
    written = json.dumps([fields, *shared], sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def creation_body(settings: ContainerSettings, slot: PoolSlot, context: SpecContext) -> dict[str, Any]:
    """Return the body of POST /containers/create.

    The join token is not in it, because `inspect` shows this body; it is put into the container as a file.
    """
    address, port = exit_address(settings, slot)
    published, folder = f"{port}/tcp", context.secrets_of_fleet
    host: dict[str, Any] = {
        "CapAdd": [*settings.capabilities],
        "Devices": [
            {"PathOnHost": device, "PathInContainer": device, "CgroupPermissions": "rwm"} for device in settings.devices
        ],
        "SecurityOpt": ["no-new-privileges"],
        "RestartPolicy": {"Name": "no"},  # the keeper alone decides whether a container runs
        "Binds": [f"{folder}/{name}:/run/secrets/{name}:ro" for name in settings.secrets if folder],
        "PortBindings": {published: [{"HostPort": str(port)}]} if settings.address else {},
    }
    if settings.network is not None:
        host["NetworkMode"] = settings.network
    body: dict[str, Any] = {
        "Image": settings.image,
        "Hostname": slot.name,
        "Env": [f"{name}={value}" for name, value in _environment(settings, slot, context, address, port).items()],
        "Labels": labels_of(settings, slot, context),
        "ExposedPorts": {published: {}} if settings.address else {},
        "HostConfig": host,
    }
    if settings.command:
        body["Cmd"] = [*settings.command]
    return body


def labels_of(settings: ContainerSettings, slot: PoolSlot, context: SpecContext) -> dict[str, str]:
    """Return the labels by which a container is found again."""
    return {
        INSTANCE_LABEL: context.instance,
        POOL_LABEL: str(slot.pool_id),
        SLOT_LABEL: str(slot.slot),
        TEMPLATE_LABEL: template_digest(settings, context),
    }


def slot_from_labels(name: str, labels: Mapping[str, str]) -> PoolSlot | None:
    """Read the slot of a container from its labels; None when they name none."""
    try:
        return PoolSlot(UUID(labels[POOL_LABEL]), int(labels[SLOT_LABEL]), name)
    except (KeyError, ValueError):
        return None


def exit_address(settings: ContainerSettings, slot: PoolSlot) -> tuple[str, int]:
    """Return the host and the port at which gateways reach the exit."""
    if settings.address is None:
        return slot.name, settings.port
    return settings.address, settings.port + slot.slot - 1


def _environment(
    settings: ContainerSettings, slot: PoolSlot, context: SpecContext, address: str, port: int
) -> dict[str, str]:
    return {
        "EXITPLANE_AGENT_STATE": STATE_PATH,
        **settings.environment,
        "EXITPLANE_AGENT_ROLE": Role.EXIT,
        "EXITPLANE_AGENT_API": context.api,
        "EXITPLANE_AGENT_NAME": slot.name,
        "EXITPLANE_AGENT_POOL": str(slot.pool_id),
        "EXITPLANE_AGENT_TOKEN_FILE": TOKEN_PATH,
        "EXITPLANE_AGENT_ADDRESS": address,
        "EXITPLANE_AGENT_PORT": str(port),
        **({"EXITPLANE_AGENT_API_CA": CA_PATH} if context.api_ca else {}),
    }
