"""Errors of tunnels and the kill switch."""

from __future__ import annotations

from model.errors import ExitplaneError


class BadTunnelFile(ExitplaneError):
    """A tunnel's file cannot be used. The message names the file and the line, and never shows a key."""

    code = "bad_tunnel_file"

    def __init__(self, file: str, what: str, *, line: int | None = None, hint: str) -> None:
        where = file if line is None else f"{file} line {line}"
        super().__init__(f"{where}: {what}", hint=hint)
        self.line = line


class TunnelFailed(ExitplaneError):
    """A tunnel did not come up, or has ended. `retry_slowly` is True if an attempt soon after is of no use."""

    code = "tunnel_failed"

    def __init__(self, message: str, *, hint: str = "", retry_slowly: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.retry_slowly = retry_slowly


class KillSwitchFailed(ExitplaneError):
    """The kill switch is not closed, so nothing may be started."""

    code = "kill_switch_failed"


class NotEquipped(ExitplaneError):
    """A capability or a program that a tunnel needs is missing."""

    code = "not_equipped"
