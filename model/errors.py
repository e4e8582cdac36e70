"""The root of every error that Exitplane raises on purpose."""

from __future__ import annotations


class ExitplaneError(Exception):
    """An error with a stable `code`, a one-line message, and a hint that says the cure.

    The command line prints it on one line and exits with 1; the API turns it into problem+json.
    """

    code = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message
