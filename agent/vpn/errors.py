"""What goes wrong with tunnels that an agent brings up."""

from __future__ import annotations

from model.errors import ExitplaneError


class BadTunnelFile(ExitplaneError):
    """A tunnel's file cannot be used. It names the file and the line, and never shows a key."""

    code = "bad_tunnel_file"

    def __init__(self, file: str, what: str, *, line: int | None = None, hint: str) -> None:
        place = file if line is None else f"{file} line {line}"
        super().__init__(f"{place}: {what}", hint=hint)
        self.line = line


class TunnelFailed(ExitplaneError):
    """A tunnel did not come up, or is gone. `slowly` is whether trying again soon is of no use."""

    code = "tunnel_failed"

    def __init__(self, message: str, *, hint: str = "", slowly: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.slowly = slowly


class KillSwitchFailed(ExitplaneError):
    """The kill switch is not closed: nothing may be started."""

    code = "kill_switch_failed"


class NotEquipped(ExitplaneError):
    """A right or a program that a tunnel needs is missing."""

    code = "not_equipped"
