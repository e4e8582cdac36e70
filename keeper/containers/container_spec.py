"""What an exit's container is made of: the body of the engine's POST /containers/create."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from model.entities import Role
from model.repositories.containers import ContainerPool
from model.stored_containers import ContainerSettings

INSTANCE_LABEL: Final = "exitplane.instance"
POOL_LABEL: Final = "exitplane.pool"
SLOT_LABEL: Final = "exitplane.slot"
TEMPLATE_LABEL: Final = "exitplane.template"
"""The digest of what it was made of."""
TOKEN_PATH: Final = "/run/exitplane/join-token"  # noqa: S105 - where the token is, not the token
STATE_PATH: Final = "/var/lib/exitplane-agent"
_NAME_PART: Final = 40
_TEMPLATE_FIELDS: Final = frozenset({"minimum", "maximum", "requests_per_exit", "drain_s"})
"""What says how many there are, not what they are made of."""


@dataclass(frozen=True, slots=True)
class SpecContext:
    """What all containers of an installation have in common.

    `instance` tells its containers from those of others at the same engine. `api` is the URL that they reach the API under,
    `secrets` the folder on the engine's host that has the files which pools name.
    """

    instance: str
    api: str
    secrets: Path | None = None


@dataclass(frozen=True, slots=True)
class PoolSlot:
    """A place that a container takes: which pool's, which of its slots, and what it is called."""

    pool_id: UUID
    slot: int
    name: str


def container_name(pool: ContainerPool, slot: int) -> str:
    """The name of a new container: readable, and never that of another pool's or installation's."""
    return f"{pool.name[:_NAME_PART]}-{pool.id.hex[:8]}-{slot}"


def template_digest(wish: ContainerSettings, ground: SpecContext) -> str:
    """What changes whenever what containers are made of does."""
    fields = {name: value for name, value in asdict(wish).items() if name not in _TEMPLATE_FIELDS}
    written = json.dumps([fields, ground.api, str(ground.secrets)], sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def creation_body(wish: ContainerSettings, place: PoolSlot, ground: SpecContext) -> dict[str, Any]:
    """All but the join token, which is put into the container as a file: what is here can be read by `inspect`."""
    address, port = exit_address(wish, place)
    published = f"{port}/tcp"
    host: dict[str, Any] = {
        "CapAdd": [*wish.capabilities],
        "Devices": [
            {"PathOnHost": device, "PathInContainer": device, "CgroupPermissions": "rwm"} for device in wish.devices
        ],
        "SecurityOpt": ["no-new-privileges"],
        "RestartPolicy": {"Name": "no"},  # whether it is to run is for the keeper to say
        "Binds": [f"{ground.secrets}/{name}:/run/secrets/{name}:ro" for name in wish.secrets if ground.secrets],
        "PortBindings": {published: [{"HostPort": str(port)}]} if wish.address else {},
    }
    if wish.network is not None:
        host["NetworkMode"] = wish.network
    body: dict[str, Any] = {
        "Image": wish.image,
        "Hostname": place.name,
        "Env": [f"{name}={value}" for name, value in _environment(wish, place, ground, address, port).items()],
        "Labels": labels_of(wish, place, ground),
        "ExposedPorts": {published: {}} if wish.address else {},
        "HostConfig": host,
    }
    if wish.command:
        body["Cmd"] = [*wish.command]
    return body


def labels_of(wish: ContainerSettings, place: PoolSlot, ground: SpecContext) -> dict[str, str]:
    """How a container is found again."""
    return {
        INSTANCE_LABEL: ground.instance,
        POOL_LABEL: str(place.pool_id),
        SLOT_LABEL: str(place.slot),
        TEMPLATE_LABEL: template_digest(wish, ground),
    }


def slot_from_labels(name: str, labels: Mapping[str, str]) -> PoolSlot | None:
    """The place that a container has by its labels; None when they say none."""
    try:
        return PoolSlot(UUID(labels[POOL_LABEL]), int(labels[SLOT_LABEL]), name)
    except (KeyError, ValueError):
        return None


def exit_address(wish: ContainerSettings, place: PoolSlot) -> tuple[str, int]:
    """Where gateways reach the exit."""
    if wish.address is None:
        return place.name, wish.port
    return wish.address, wish.port + place.slot - 1


def _environment(
    wish: ContainerSettings, place: PoolSlot, ground: SpecContext, address: str, port: int
) -> dict[str, str]:
    return {
        "EXITPLANE_AGENT_STATE": STATE_PATH,
        **wish.environment,
        "EXITPLANE_AGENT_ROLE": Role.EXIT,
        "EXITPLANE_AGENT_API": ground.api,
        "EXITPLANE_AGENT_NAME": place.name,
        "EXITPLANE_AGENT_POOL": str(place.pool_id),
        "EXITPLANE_AGENT_TOKEN_FILE": TOKEN_PATH,
        "EXITPLANE_AGENT_ADDRESS": address,
        "EXITPLANE_AGENT_PORT": str(port),
    }
