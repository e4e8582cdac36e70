"""The state folder: an agent's key and certificate, its Envoy's bootstrap and secrets, and who holds it.

    agent.lock            held by the one agent that works here
    key.pem               the proxy's private key (P-256, PKCS #8)
    enrolment.json        what enrolment gave
    secrets/*.yaml        the same for Envoy
    bootstrap.json        what Envoy was started from
    admin.address         where its admin interface listens, written by Envoy
    envoy.json            {"pid", "admin", "fingerprint"} of the Envoy that runs
    envoy.log             what it wrote, and envoy.log.1 before that
    agent.sock            where the agent relays the control plane to its Envoy
    passage.sock          where the agent's gRPC begins its way past a kill switch
    record.bin            what that Envoy was last given and accepted, encrypted with a key made of key.pem

Nobody but the agent's user may enter it.
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
ADMIN_ADDRESS: Final = "admin.address"
ENVOY: Final = "envoy.json"
ENVOY_LOG: Final = "envoy.log"
SOCKET: Final = "agent.sock"
PASSAGE: Final = "passage.sock"
RECORD: Final = "record.bin"
_LOCK: Final = "agent.lock"
_DRAFT: Final = ".new"
"""How a file's name ends that is not whole yet. It begins with a dot."""


class StateDirUnusable(ExitplaneError):
    code = "state_unusable"


class StateDir:
    """Reads and writes an agent's files; every write replaces a file as a whole, readable by its owner alone."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder if need be, and keep every other agent out of it. Raises StateUnusable.

        Drafts of an agent that was killed while it wrote are removed: nobody else writes here now.
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
        """The text of a file, or None when there is none."""
        try:
            return (self.path / name).read_text()
        except FileNotFoundError:
            return None

    def read_bytes(self, name: str, at_most: int) -> bytes | None:
        """The first `at_most` bytes of a file, or None when there is none."""
        try:
            with (self.path / name).open("rb") as file:
                return file.read(at_most)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: str | bytes) -> None:
        """Replace a file, so that whoever reads it sees the old content or the new one. Raises StateUnusable.

        Threads may write at once, also the same file: each has a draft of its own, and the last to finish wins.
        """
        target = self.path / name
        try:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            # readable by its owner alone, as mkstemp makes it
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
    def within(self, name: str) -> Iterator[str]:
        """A path of a file for as long as the block lasts, and always a short one: that of a socket may have 107 bytes."""
        descriptor = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{descriptor}/{name}"
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def _remove_drafts(self) -> None:
        """Raises StateUnusable."""
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
                f"another agent works in {self.path}", hint="end it, or name another folder with --state"
            ) from error
