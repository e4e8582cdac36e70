"""The file with the keys that seal secrets of the database: created, read, and extended at a rotation."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from model.encryption import KEY_BYTES, Keyring, MissingEncryptionKey
from model.errors import ExitplaneError
from model.settings import Settings

NAME: Final = "encryption.key"
"""The name of the file in the state folder."""
_COMMENT: Final = (
    "# The keys of the secrets in Exitplane's database, the current one first. Without them a backup of the database\n"
    "# has no secrets: keep a copy of this file, and not beside the backups.\n"
)


class BadKeyFile(ExitplaneError):
    code = "bad_key_file"


def path_of(settings: Settings) -> Path:
    """Return the path of the key file, which need not exist."""
    return settings.encryption_key_file or settings.state_dir / NAME


def read_keyring(settings: Settings) -> Keyring:
    """Read the keys of the environment or of the key file. Raises MissingEncryptionKey and BadKeyFile."""
    if settings.encryption_key is not None:
        return Keyring(_parse(settings.encryption_key.get_secret_value().split(","), "EXITPLANE_ENCRYPTION_KEY"))
    path = path_of(settings)
    watched = _WatchedFile(path)
    keys = watched.read_changed()
    if keys is None:
        raise MissingEncryptionKey(
            f"there is no key for the secrets in the database ({path} does not exist)",
            hint="copy the file of the other control planes; for a new database, `exitplane encryption create` creates it",
        )
    return Keyring(keys, reload=watched.read_changed)


def create(path: Path) -> bool:
    """Create a key file with a random key, readable by its owner alone. Return False if it exists. Raises BadKeyFile."""
    if path.exists():
        return False
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    partial = _write_partial(path, [secrets.token_bytes(KEY_BYTES)])
    try:
        os.link(partial, path)  # unlike a rename it never replaces the file of a process that was faster
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def prepend(path: Path) -> None:
    """Put a new random key before the others of a file. Raises BadKeyFile."""
    _replace(path, [secrets.token_bytes(KEY_BYTES), *read(path)])


def keep_first(path: Path) -> None:
    """Remove all keys of a file but the first. Raises BadKeyFile."""
    _replace(path, read(path)[:1])


def read(path: Path) -> list[bytes]:
    """Read the keys of a file that only its owner can read. Raises BadKeyFile."""
    try:
        mode = path.stat().st_mode
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadKeyFile(f"{path} cannot be read ({error})", hint="name another file, or correct its owner") from error
    if mode & 0o077:
        raise BadKeyFile(f"others can read {path} (mode {mode & 0o777:04o})", hint=f"chmod 600 {path}")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return _parse(lines, str(path))


def _parse(texts: Sequence[str], source: str) -> list[bytes]:
    """Parse keys in base64. The messages of errors contain no part of a key."""
    keys = []
    for number, text in enumerate(texts, start=1):
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise BadKeyFile(
                f"key {number} of {source} is not {KEY_BYTES} bytes in base64",
                hint="create one with `exitplane encryption create`",
            )
        keys.append(key)
    if not keys:
        raise BadKeyFile(f"{source} has no key", hint="create one with `exitplane encryption create`")
    return keys


def _replace(path: Path, keys: Sequence[bytes]) -> None:
    _write_partial(path, keys).replace(path)


def _write_partial(path: Path, keys: Sequence[bytes]) -> Path:
    """Write keys to a new file of mode 0600 beside `path`, and return it. Raises BadKeyFile."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(_COMMENT + "".join(f"{base64.b64encode(key).decode()}\n" for key in keys))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadKeyFile(
            f"{path} cannot be written ({error.strerror})", hint="name another file (EXITPLANE_ENCRYPTION_KEY_FILE)"
        ) from error
    return partial


class _WatchedFile:
    """A key file that another process may replace."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None

    def read_changed(self) -> list[bytes] | None:
        """Read the keys if the file was replaced since the last call; None if not, or if there is none."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadKeyFile(f"{self._path} cannot be read ({error.strerror})", hint="correct its owner") from error
        seen = (status.st_ino, status.st_mtime_ns)
        if seen == self._seen:
            return None
        keys = read(self._path)
        self._seen = seen
        return keys
