"""What a container engine refuses, each with its hint."""

from __future__ import annotations

import re
from typing import Final

from model.errors import ExitplaneError

_DISK_WORDS: Final = ("no space left", "disk quota", "out of disk")
_NOT_FOUND, _CONFLICT, _FORBIDDEN, _UNAUTHORISED, _BAD_REQUEST = 404, 409, 403, 401, 400
_VERSION_WORDS: Final = re.compile(r"client version \S+ is too (old|new)")


class EngineError(ExitplaneError):
    """What went wrong at a container engine."""

    code = "container_engine"


class EngineUnreachable(EngineError):
    """There is nobody at its address, or nobody who answers in time."""

    code = "container_engine_unreachable"


class EngineForbidden(EngineError):
    code = "container_engine_forbidden"


class NoSuchImage(EngineError):
    code = "no_such_image"


class NoSuchContainer(EngineError):
    code = "no_such_container"


class NameTaken(EngineError):
    """Something else has the name, or is in a state in which this cannot be done."""

    code = "container_conflict"


class OutOfDisk(EngineError):
    code = "container_engine_out_of_disk"


class BadEngineResponse(EngineError):
    """What answers is no container engine, or says more than it should."""

    code = "container_engine_bad_answer"


class NoCommonVersion(EngineError):
    """The engine knows no version of its API that this client knows."""

    code = "container_engine_version"


class VersionRefused(NoCommonVersion):
    """The engine refused a request for the version in its path, and did nothing of it."""


def refusal(status: int, message: str, *, creating: bool) -> EngineError:
    """The error that a status and a message of the engine stand for. `creating`: a container was to be made."""
    said, words = f"the container engine says {status}: {message}", message.lower()
    if any(word in words for word in _DISK_WORDS):
        return OutOfDisk(said, hint="make room on the engine's host, for example by removing images that nobody uses")
    if status == _BAD_REQUEST and _VERSION_WORDS.search(words):
        return VersionRefused(said, hint="update the engine, or Exitplane, so that both know one version of the API")
    # podman says 500 where Docker says 409 or 404
    if creating and "network" in words and "not found" in words:
        return EngineError(said, hint="create the network at the engine, or name one that it has")
    if status == _CONFLICT or (creating and "already in use" in words):
        return NameTaken(said, hint="remove or rename what has this name at the engine")
    if status == _NOT_FOUND:
        hint = "pull or build the image on the engine's host, or correct the pool's image"
        return NoSuchImage(said, hint=hint) if creating else NoSuchContainer(said)
    if status in (_FORBIDDEN, _UNAUTHORISED):
        return EngineForbidden(said, hint="let the control plane do this: see docs/containers.md on socket proxies")
    return EngineError(said, hint="see the engine's log")
