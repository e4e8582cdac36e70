"""The root of every error that Exitplane raises on purpose."""

from __future__ import annotations


class ExitplaneError(Exception):
    """An error with a stable `code`, a one-line message, and the mend.

    The command line prints it as one line and ends with 1; the API turns it into problem+json.
    """

    code = "error"

    def __init__(self, message: str, *, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.message}; {self.mend}" if self.mend else self.message
