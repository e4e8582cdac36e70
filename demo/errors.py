"""The error of a lab."""

from __future__ import annotations

from model.errors import ExitplaneError


class LabError(ExitplaneError):
    """A lab could not be set up, or something in it did not happen in time. Lines of a log may follow the first line."""

    code = "lab_failed"
