"""What goes wrong with tunnels that an agent brings up."""

from __future__ import annotations

from pathlib import Path

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


class NameUnknown(ExitplaneError):
    """A name cannot be resolved without asking somebody outside the tunnel. `for_good`: nobody who may be asked will ever know."""

    code = "name_unknown"

    def __init__(self, message: str, *, hint: str, for_good: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.for_good = for_good


def read_text(path: Path, option: str, at_most: int = 65_536) -> str:
    """The text of a tunnel's file, without a byte order mark. Raises BadTunnelFile."""
    try:
        with path.open("rb") as file:
            content = file.read(at_most + 1)
    except OSError as error:
        raise BadTunnelFile(str(path), f"cannot be read ({error.strerror})", hint=f"see {option}") from error
    if len(content) > at_most:
        raise BadTunnelFile(str(path), f"is larger than {at_most} bytes", hint="name the provider's own file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadTunnelFile(str(path), "is not text", hint="name the provider's own file") from error
    if "\0" in text:
        raise BadTunnelFile(str(path), "is not text", hint="name the provider's own file")
    return text
