"""The secret files of a fleet's containers: `<folder>/<fleet>/<name>` on the engine's host, and nothing else."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from keeper.containers.container_spec import SpecContext
from keeper.containers.errors import EngineError
from model.stored_containers import ContainerSettings

_NO_FOLDER: Final = "set EXITPLANE_CONTAINER_SECRETS where `exitplane serve` runs"


def check_secret_files(settings: ContainerSettings, context: SpecContext) -> None:
    """Check that the secrets of a pool are files of its fleet's folder, and no links out of it. Raises EngineError.

    With an engine on another host nothing can be looked at here, and the names alone keep to the folder.
    """
    if not settings.secrets:
        return
    folder = context.secrets_of_fleet
    if folder is None:
        raise EngineError("the pool names secrets, and there is no folder for them", hint=_NO_FOLDER)
    for name in settings.secrets:
        if Path(name).name != name:
            raise EngineError(f"{name!r} is not a plain file name", hint="correct `secrets` of the pool")
    if not context.sees_secrets:
        return
    _check(folder, stat.S_ISDIR, "a folder")
    for name in settings.secrets:
        _check(folder / name, stat.S_ISREG, "a file")


def _check(path: Path, is_right: Callable[[int], bool], kind: str) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        hint = f"put it there, on the host of engine and control plane; the secrets of a fleet are in {path.parent}"
        raise EngineError(f"the secret {path} cannot be read ({error.strerror})", hint=hint) from error
    if not is_right(mode):
        raise EngineError(
            f"{path} is not {kind} (a link, or something else)", hint=f"put {kind} there: links are not followed"
        )
