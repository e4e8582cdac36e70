"""The version of the Docker Engine API: the newest that both the engine and this client know."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from keeper.containers.errors import BadEngineResponse, NoCommonVersion

_PATTERN: Final = re.compile(r"(\d{1,4})\.(\d{1,4})(\.\d{1,4})?")


@dataclass(frozen=True, slots=True, order=True)
class ApiVersion:
    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


OLDEST: Final = ApiVersion(1, 40)
"""Docker 19.03, podman 3. It has every request that this client sends."""
NEWEST: Final = ApiVersion(1, 56)
"""The newest version that was reviewed: no change up to it touches the requests or the fields that are used here."""


@dataclass(frozen=True, slots=True)
class EngineVersion:
    """An engine's own version, and the range of API versions that it speaks."""

    engine: str
    oldest: ApiVersion
    newest: ApiVersion


def read_api_version(text: str) -> ApiVersion:
    """Read `1.44`, or `1.44.0` as podman may write it. Raises BadEngineResponse."""
    found = _PATTERN.fullmatch(text)
    if found is None:
        raise BadEngineResponse(
            f"the container engine answers an API version that is none ({text[:60]!r})",
            hint="check EXITPLANE_CONTAINER_ENGINE",
        )
    return ApiVersion(int(found[1]), int(found[2]))


def choose_api_version(engine: EngineVersion) -> ApiVersion:
    """Return the newest version that both sides know. Raises NoCommonVersion."""
    if max(OLDEST, engine.oldest) <= (chosen := min(NEWEST, engine.newest)):
        return chosen
    raise NoCommonVersion(
        f"the container engine {engine.engine} speaks API {engine.oldest} to {engine.newest},"
        f" and Exitplane {OLDEST} to {NEWEST}",
        hint="update the engine"
        if engine.newest < OLDEST
        else "update Exitplane, or let the engine take older clients",
    )
