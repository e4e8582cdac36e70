"""The policy of containers: the images, networks and options that each fleet may use, from a file of whoever runs the control plane.

It is no row, because a container with the wrong image or port reaches further than any right over the API
(docs/decisions/0048-containers-of-fleets.md).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from model.errors import ExitplaneError
from model.stored_containers import ContainerSettings

_ALWAYS_CAPABILITIES: Final = ("NET_ADMIN",)
_ALWAYS_ENVIRONMENT: Final = ("EXITPLANE_AGENT_*",)
_HIGHEST_PORT: Final = 65_535
_IMAGE_PART: Final = "[^/:@]*"
"""The characters that `*` stands for in an image: it crosses no registry, repository, tag or digest."""
_VARIABLE_PART: Final = "[A-Za-z0-9_]*"


class BadContainerPolicy(ExitplaneError):
    code = "bad_container_policy"


def _check_ports(text: str) -> str:
    _read_ports(text)
    return text


def _read_ports(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text, re.ASCII)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= low <= high <= _HIGHEST_PORT:
        raise ValueError(f"{text!r} is neither a port nor a range of ports, such as 20000-20099")
    return low, high


class Allowance(BaseModel):
    """The values that containers of a fleet may have. Patterns of images and variables may have `*`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    images: list[str] = []
    networks: list[str] = []
    commands: list[list[str]] = []
    """Whole commands, word by word. The image's own is always allowed."""
    environment: list[str] = []
    """Names of variables beside EXITPLANE_AGENT_*."""
    capabilities: list[str] = []
    """Beside NET_ADMIN."""
    ports: list[Annotated[str, AfterValidator(_check_ports)]] = Field(default=[])
    """Ports of the engine's host that may be published."""


@dataclass(frozen=True, slots=True)
class PolicyRefusal:
    """A field of a pool's containers that the policy does not allow."""

    field: str
    value: str
    message: str
    hint: str


class ContainerPolicy(Allowance):
    """The allowance of every fleet, and what some fleets may have beside it, by their names. Empty: no container is allowed."""

    fleets: dict[str, Allowance] = {}

    def refusals(self, fleet: str, settings: ContainerSettings) -> list[PolicyRefusal]:
        """Return what a fleet's containers are not allowed to be; empty if all is allowed."""
        return [
            PolicyRefusal(field, value, f"containers of fleet {fleet} may not use {what} {value}", _hint(field, fleet))
            for field, what, value in self._refused(fleet, settings)
        ]

    def _refused(self, fleet: str, settings: ContainerSettings) -> Iterator[tuple[str, str, str]]:
        """Yield field, kind and value of each refusal."""
        allowances: Sequence[Allowance] = [self, *([self.fleets[fleet]] if fleet in self.fleets else [])]
        images = [pattern for each in allowances for pattern in each.images]
        if not _matches_any(settings.image, images, _IMAGE_PART):
            yield "image", "the image", settings.image
        networks = {name for each in allowances for name in each.networks}
        if settings.network is not None and settings.network not in networks:
            yield "network", "the network", settings.network
        commands = [command for each in allowances for command in each.commands]
        if settings.command and [*settings.command] not in commands:
            yield "command", "the command", " ".join(settings.command)
        variables = [*_ALWAYS_ENVIRONMENT, *(pattern for each in allowances for pattern in each.environment)]
        for name in settings.environment:
            if not _matches_any(name, variables, _VARIABLE_PART):
                yield "environment", "the variable", name
        capabilities = {*_ALWAYS_CAPABILITIES, *(name for each in allowances for name in each.capabilities)}
        for name in settings.capabilities:
            if name not in capabilities:
                yield "capabilities", "the capability", name
        ranges = [_read_ports(text) for each in allowances for text in each.ports]
        if settings.address is not None:
            for port in range(settings.port, settings.port + settings.maximum):
                if not any(low <= port <= high for low, high in ranges):
                    yield "port", "the host's port", str(port)
                    break


def _matches_any(value: str, patterns: Iterable[str], part: str) -> bool:
    return any(re.fullmatch(part.join(map(re.escape, pattern.split("*"))), value) for pattern in patterns)


_KEYS: Final = {"image": "images", "network": "networks", "command": "commands", "port": "ports"}


def _hint(field: str, fleet: str) -> str:
    key = _KEYS.get(field, field)
    return (
        f"who runs the control plane allows it: `{key}` of [fleets.{fleet}] in the file of EXITPLANE_CONTAINER_POLICY"
    )


def read_policy(path: Path | None) -> ContainerPolicy:
    """Read the policy from a TOML file; without a file nothing is allowed. Raises BadContainerPolicy."""
    if path is None:
        return ContainerPolicy()
    try:
        return ContainerPolicy.model_validate(tomllib.loads(path.read_text()))
    except (OSError, UnicodeDecodeError) as error:
        raise BadContainerPolicy(
            f"{path} cannot be read ({error})", hint="name a file that the control plane may read"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise BadContainerPolicy(
            f"{path} is not TOML ({error})", hint="see docs/containers.md#what-a-fleet-may-use"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadContainerPolicy(
            f"{path}: {place}: {first['msg']}", hint="see docs/containers.md#what-a-fleet-may-use"
        ) from error
