"""Strict readers of the responses of a container engine (Docker or podman), in every supported API version."""

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


class ContainerState(StrEnum):
    """The state of a container, as far as the keeper distinguishes it."""

    CREATED = "created"
    """Created, and never started."""
    RUNNING = "running"
    ENDED = "ended"
    """Its process ended, or never began."""
    MISSING = "missing"
    """The engine has no such container; no response contains this value."""


@dataclass(frozen=True, slots=True)
class ListedContainer:
    """An entry of the engine's list. `status` is the engine's own sentence."""

    id: str
    name: str
    state: ContainerState
    labels: Mapping[str, str]
    status: str


@dataclass(frozen=True, slots=True)
class InspectedContainer:
    """The details of one container. `addresses` are its addresses by network."""

    id: str
    name: str
    state: ContainerState
    exit_code: int
    error: str
    addresses: Mapping[str, str]


_STATES: Final[Mapping[str, ContainerState]] = {
    "created": ContainerState.CREATED,
    "configured": ContainerState.CREATED,  # podman's own name
    "initialized": ContainerState.CREATED,
    "running": ContainerState.RUNNING,
    "paused": ContainerState.RUNNING,
    "restarting": ContainerState.RUNNING,
    "stopping": ContainerState.RUNNING,
}


def read_json(body: bytes) -> Any:
    """Parse a JSON body. Raises BadEngineResponse."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise _bad_response(f"no JSON ({body[:60]!r})") from error


def read_version(body: bytes) -> EngineVersion:
    """Read the response to GET /version. Raises BadEngineResponse."""
    content = read_json(body)
    if not isinstance(content, dict) or not isinstance(content.get("ApiVersion"), str):
        raise _bad_response("no version of its API")
    newest = read_api_version(content["ApiVersion"])
    oldest = read_api_version(str(content.get("MinAPIVersion") or newest))
    return EngineVersion(str(content.get("Version", "")), oldest, newest)


def read_list(body: bytes) -> list[ListedContainer]:
    """Read the response to GET /containers/json. Raises BadEngineResponse."""
    try:
        return [
            ListedContainer(
                id=str(each["Id"]),
                name=str(each["Names"][0]).removeprefix("/"),
                state=_STATES.get(str(each["State"]).lower(), ContainerState.ENDED),
                labels={str(name): str(value) for name, value in (each.get("Labels") or {}).items()},
                status=str(each.get("Status") or each["State"]),
            )
            for each in read_json(body)
        ]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise _bad_response(f"a list that is none ({error!r})") from error


def read_inspected(body: bytes) -> InspectedContainer:
    """Read the response to GET /containers/{id}/json. Raises BadEngineResponse."""
    try:
        content = read_json(body)
        state = content["State"]
        networks = (content.get("NetworkSettings") or {}).get("Networks") or {}
        return InspectedContainer(
            id=str(content["Id"]),
            name=str(content["Name"]).removeprefix("/"),
            state=_STATES.get(str(state["Status"]).lower(), ContainerState.ENDED),
            exit_code=int(state.get("ExitCode") or 0),
            error=str(state.get("Error") or ""),
            addresses={str(name): str(each.get("IPAddress") or "") for name, each in networks.items()},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _bad_response(f"a container that is none ({error!r})") from error


def read_id(body: bytes) -> str:
    """Read the response to POST /containers/create. Raises BadEngineResponse."""
    content = read_json(body)
    if not isinstance(content, dict) or not isinstance(content.get("Id"), str):
        raise _bad_response("no id of what it made")
    return str(content["Id"])


def read_message(body: bytes) -> str:
    """Return the engine's message for a refusal, on one line of at most 500 characters."""
    try:
        content = json.loads(body)
        message = content["message"] if isinstance(content, dict) else content
    except (ValueError, KeyError):
        message = body.decode(errors="replace")
    return " ".join(str(message).split())[:500]


def read_logs(body: bytes) -> str:
    """Return a log without its stream frames. The log of a container with a terminal has none."""
    if len(body) < _FRAME or body[0] >= _STREAMS or body[1:4] != b"\0\0\0":
        return body.decode(errors="replace")
    pieces = []
    while len(body) >= _FRAME:
        end = _FRAME + int.from_bytes(body[4:_FRAME], "big")
        pieces.append(body[_FRAME:end])
        body = body[end:]
    return b"".join(pieces).decode(errors="replace")


def _bad_response(what: str) -> BadEngineResponse:
    return BadEngineResponse(f"the container engine answers {what}", hint="check EXITPLANE_CONTAINER_ENGINE")
