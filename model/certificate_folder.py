"""The folder in which ACME clients keep the certificates of listeners: `<folder>/<fleet>/<name>/fullchain.pem` and `privkey.pem`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from model.certificate_rules import CheckedPair, check_pair
from model.errors import ExitplaneError

CHAIN_FILE: Final = "fullchain.pem"
KEY_FILE: Final = "privkey.pem"
_OTHERS: Final = 0o077
_BYTES_MAX: Final = 256 * 1024


class UnusableFiles(ExitplaneError):
    """A file that cannot be read, or a key that others can read."""

    code = "unusable_certificate_files"


@dataclass(frozen=True, slots=True)
class CertificateFolder:
    """The folder of one certificate. Links are followed, because certbot makes the files links."""

    root: Path
    fleet: str
    name: str

    @property
    def path(self) -> Path:
        return self.root / self.fleet / self.name

    def version(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when a file is replaced, written, or given other rights. Raises UnusableFiles."""
        versions = []
        for file in (CHAIN_FILE, KEY_FILE):
            try:
                status = (self.path / file).stat()
            except OSError as error:
                raise _unreadable(self.path / file, error) from error
            versions.append((status.st_ino, status.st_ctime_ns, status.st_size))
        return tuple(versions)

    def read(self, now: datetime) -> CheckedPair:
        """Read the pair. Raises UnusableFiles, and BadServerCertificate for a pair that does not fit together, as while it is written."""
        key_file = self.path / KEY_FILE
        self.version()
        mode = key_file.stat().st_mode
        if mode & _OTHERS:
            raise UnusableFiles(f"others can read {key_file} (mode {mode & 0o777:04o})", hint=f"chmod 600 {key_file}")
        return check_pair(_read(self.path / CHAIN_FILE), _read(key_file), now)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_BYTES_MAX).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UnusableFiles:
    reason = error.strerror if isinstance(error, OSError) else "it is not text"
    return UnusableFiles(
        f"{path} cannot be read ({reason})", hint="let the ACME client write it, readable by `exitplane serve`"
    )
