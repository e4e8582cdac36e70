"""The state folder of an agent, which only the agent's user may enter.

agent.lock            locked by the agent that uses the folder
key.pem               the proxy's private key (P-256, PKCS #8)
enrolment.json        the API's reply to the enrolment
secrets/*.yaml        key and certificates for Envoy
bootstrap.json        the bootstrap of the Envoy that was started last
admin.sock            the socket of Envoy's admin interface
envoy.json            {"pid", "fingerprint"} of the Envoy that runs
envoy.log             Envoy's log, and envoy.log.1 the one before
agent.sock            the socket at which Envoy speaks ADS to the agent
forwarder.sock        the socket through which the agent's gRPC passes a kill switch
record.bin            the configuration that Envoy accepted last, encrypted with a key derived from key.pem
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from model.errors import ExitplaneError

KEY: Final = "key.pem"
ENROLMENT: Final = "enrolment.json"
BOOTSTRAP: Final = "bootstrap.json"
ADMIN_SOCKET: Final = "admin.sock"
ENVOY: Final = "envoy.json"
ENVOY_LOG: Final = "envoy.log"
SOCKET: Final = "agent.sock"
FORWARDER_SOCKET: Final = "forwarder.sock"
RECORD: Final = "record.bin"
_LOCK: Final = "agent.lock"
_DRAFT: Final = ".new"
"""The suffix of a file that is being written. Its name begins with a dot."""


class StateDirUnusable(ExitplaneError):
    """The state folder is in use, or cannot be written."""

    code = "state_unusable"


class StateDir:
    """The files of an agent. A write replaces the whole file, which only its owner may read."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if it is missing, and lock it against other agents. Raises StateDirUnusable.

        Drafts that a killed agent left are removed, as nobody else writes here now.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o700)
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateDirUnusable(
                f"the state folder {self.path} cannot be used ({error.strerror})", hint="name another with --state"
            ) from error
        try:
            self._lock(lock)
            self._remove_drafts()
            yield
        finally:
            os.close(lock)

    def read(self, name: str) -> str | None:
        """Return the text of a file, or None if it is missing."""
        try:
            return (self.path / name).read_text()
        except FileNotFoundError:
            return None

    def read_bytes(self, name: str, max_bytes: int) -> bytes | None:
        """Return the first `max_bytes` bytes of a file, or None if it is missing."""
        try:
            with (self.path / name).open("rb") as file:
                return file.read(max_bytes)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: str | bytes) -> None:
        """Replace a file atomically. Raises StateDirUnusable.

        Threads may write the same file at once: each has its own draft, and the last to finish wins.
        """
        target = self.path / name
        try:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            # mkstemp makes it readable by its owner alone
            descriptor, draft = tempfile.mkstemp(prefix=f".{target.name}.", suffix=_DRAFT, dir=target.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content.encode() if isinstance(content, str) else content)
                    file.flush()
                    os.fsync(descriptor)
                Path(draft).replace(target)
            except BaseException:
                with suppress(OSError):
                    Path(draft).unlink()
                raise
        except OSError as error:
            raise StateDirUnusable(
                f"{target} cannot be written ({error.strerror})", hint="make room or name another folder with --state"
            ) from error

    @contextmanager
    def short_path(self, name: str) -> Iterator[str]:
        """Give a short path of a file while the block lasts: the path of a socket has at most 107 bytes (unix(7))."""
        descriptor = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{descriptor}/{name}"
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        (self.path / name).unlink(missing_ok=True)

    def _remove_drafts(self) -> None:
        """Raises StateDirUnusable."""
        try:
            for pattern in (f".*{_DRAFT}", f"*/.*{_DRAFT}"):
                for draft in self.path.glob(pattern):
                    draft.unlink(missing_ok=True)
        except OSError as error:
            raise StateDirUnusable(
                f"a draft in {self.path} cannot be removed ({error.strerror})", hint="name another folder with --state"
            ) from error

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateDirUnusable(
                f"another agent uses {self.path}", hint="end it, or name another folder with --state"
            ) from error
