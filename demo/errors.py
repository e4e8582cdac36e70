"""What can go wrong with a scene."""

from __future__ import annotations

from model.errors import ExitplaneError


class LabError(ExitplaneError):
    """A scene could not be set up, or something in it did not happen in time. Lines of a log may follow the first one."""

    code = "scene"
