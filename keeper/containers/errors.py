"""Errors of a container engine, each with its hint."""

from __future__ import annotations

import re
from typing import Final

from model.errors import ExitplaneError

_DISK_WORDS: Final = ("no space left", "disk quota", "out of disk")
_NOT_FOUND, _CONFLICT, _FORBIDDEN, _UNAUTHORISED, _BAD_REQUEST = 404, 409, 403, 401, 400
_VERSION_WORDS: Final = re.compile(r"client version \S+ is too (old|new)")


class EngineError(ExitplaneError):
    """The root of the errors of a container engine."""

    code = "container_engine"


class EngineUnreachable(EngineError):
    """Nothing listens at its address, or it does not respond in time."""

    code = "container_engine_unreachable"


class EngineForbidden(EngineError):
    code = "container_engine_forbidden"


class NoSuchImage(EngineError):
    code = "no_such_image"


class NoSuchContainer(EngineError):
    code = "no_such_container"


class NameTaken(EngineError):
    """Another container has the name, or the container's state does not allow the call."""

    code = "container_conflict"


class OutOfDisk(EngineError):
    code = "container_engine_out_of_disk"


class BadEngineResponse(EngineError):
    """The response is not that of a container engine, or is too long."""

    code = "container_engine_bad_answer"


class NoCommonVersion(EngineError):
    """Engine and client have no API version in common."""

    code = "container_engine_version"


class VersionRefused(NoCommonVersion):
    """The engine refused the API version in a request's path, and did nothing."""


def refusal(status: int, message: str, *, creating: bool) -> EngineError:
    """Return the error for a status and a message of the engine. `creating`: the call was to create a container."""
    text, words = f"the container engine says {status}: {message}", message.lower()
    if any(word in words for word in _DISK_WORDS):
        return OutOfDisk(text, hint="make room on the engine's host, for example by removing images that nobody uses")
    if status == _BAD_REQUEST and _VERSION_WORDS.search(words):
        return VersionRefused(text, hint="update the engine, or Exitplane, so that both know one version of the API")
    # podman says 500 where Docker says 409 or 404
    if creating and "network" in words and "not found" in words:
        return EngineError(text, hint="create the network at the engine, or name one that it has")
    if status == _CONFLICT or (creating and "already in use" in words):
        return NameTaken(text, hint="remove or rename what has this name at the engine")
    if status == _NOT_FOUND:
        hint = "pull or build the image on the engine's host, or correct the pool's image"
        return NoSuchImage(text, hint=hint) if creating else NoSuchContainer(text)
    if status in (_FORBIDDEN, _UNAUTHORISED):
        return EngineForbidden(text, hint="let the control plane do this: see docs/containers.md on socket proxies")
    return EngineError(text, hint="see the engine's log")
