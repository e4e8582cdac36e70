"""What a container engine answers, read strictly: Docker's or podman's, in any version of the API that is spoken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from keeper.containers.api_version import EngineVersion, read_api_version
from keeper.containers.errors import BadEngineResponse

_FRAME: Final = 8
"""Bytes before each piece of a log: the stream (0 to 2), three zeros, and the piece's length, big-endian."""
_STREAMS: Final = 3


class ContainerStatus(StrEnum):
    """How a container stands, as far as it matters here."""

    CREATED = "created"
    """Made, and never started."""
    RUNNING = "running"
    ENDED = "ended"
    """Its process ended, or was never able to begin."""
    MISSING = "missing"
    """The engine has none; no answer says so."""


@dataclass(frozen=True, slots=True)
class ListedContainer:
    """A container as an engine lists it. `status` is the engine's own sentence."""

    id: str
    name: str
    life: ContainerStatus
    labels: Mapping[str, str]
    status: str


@dataclass(frozen=True, slots=True)
class InspectedContainer:
    """A container as an engine shows it. `addresses` are those in its networks, by network."""

    id: str
    name: str
    life: ContainerStatus
    exit_code: int
    error: str
    addresses: Mapping[str, str]


_LIVES: Final[Mapping[str, ContainerStatus]] = {
    "created": ContainerStatus.CREATED,
    "configured": ContainerStatus.CREATED,  # podman's own word
    "initialized": ContainerStatus.CREATED,
    "running": ContainerStatus.RUNNING,
    "paused": ContainerStatus.RUNNING,
    "restarting": ContainerStatus.RUNNING,
    "stopping": ContainerStatus.RUNNING,
}


def read_json(body: bytes) -> Any:
    """Raises BadAnswer."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise _strange(f"no JSON ({body[:60]!r})") from error


def read_version(body: bytes) -> EngineVersion:
    """The answer to GET /version. Raises BadAnswer."""
    said = read_json(body)
    if not isinstance(said, dict) or not isinstance(said.get("ApiVersion"), str):
        raise _strange("no version of its API")
    newest = read_api_version(said["ApiVersion"])
    oldest = read_api_version(str(said.get("MinAPIVersion") or newest))
    return EngineVersion(str(said.get("Version", "")), oldest, newest)


def read_list(body: bytes) -> list[ListedContainer]:
    """The answer to GET /containers/json. Raises BadAnswer."""
    try:
        return [
            ListedContainer(
                id=str(each["Id"]),
                name=str(each["Names"][0]).removeprefix("/"),
                life=_LIVES.get(str(each["State"]).lower(), ContainerStatus.ENDED),
                labels={str(name): str(value) for name, value in (each.get("Labels") or {}).items()},
                status=str(each.get("Status") or each["State"]),
            )
            for each in read_json(body)
        ]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise _strange(f"a list that is none ({error!r})") from error


def read_inspected(body: bytes) -> InspectedContainer:
    """The answer to GET /containers/{id}/json. Raises BadAnswer."""
    try:
        said = read_json(body)
        state = said["State"]
        networks = (said.get("NetworkSettings") or {}).get("Networks") or {}
        return InspectedContainer(
            id=str(said["Id"]),
            name=str(said["Name"]).removeprefix("/"),
            life=_LIVES.get(str(state["Status"]).lower(), ContainerStatus.ENDED),
            exit_code=int(state.get("ExitCode") or 0),
            error=str(state.get("Error") or ""),
            addresses={str(name): str(each.get("IPAddress") or "") for name, each in networks.items()},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _strange(f"a container that is none ({error!r})") from error


def read_id(body: bytes) -> str:
    """The answer to POST /containers/create. Raises BadAnswer."""
    said = read_json(body)
    if not isinstance(said, dict) or not isinstance(said.get("Id"), str):
        raise _strange("no id of what it made")
    return str(said["Id"])


def read_message(body: bytes) -> str:
    """The engine's words for a refusal, on one line."""
    try:
        said = json.loads(body)
        message = said["message"] if isinstance(said, dict) else said
    except (ValueError, KeyError):
        message = body.decode(errors="replace")
    return " ".join(str(message).split())[:500]


def read_logs(body: bytes) -> str:
    """A log without its frames; as it is when it has none (a container with a terminal)."""
    if len(body) < _FRAME or body[0] >= _STREAMS or body[1:4] != b"\0\0\0":
        return body.decode(errors="replace")
    pieces = []
    while len(body) >= _FRAME:
        end = _FRAME + int.from_bytes(body[4:_FRAME], "big")
        pieces.append(body[_FRAME:end])
        body = body[end:]
    return b"".join(pieces).decode(errors="replace")


def _strange(what: str) -> BadEngineResponse:
    return BadEngineResponse(f"the container engine answers {what}", hint="check EXITPLANE_CONTAINER_ENGINE")
