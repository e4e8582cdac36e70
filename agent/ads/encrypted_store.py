"""The config record on disk, encrypted with a key derived from the proxy's, so that a copy of the file reveals nothing."""

from __future__ import annotations

import os
from typing import Final
from uuid import UUID

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent.ads.config_record import ConfigRecord
from agent.config import state_dir as files
from agent.config.state_dir import StateDir, StateDirUnusable

log = structlog.get_logger()

MAX_BYTES: Final = 64 * 1024 * 1024
"""The limit of the file, several times the size of the largest gateway's. A larger record is not written."""
_MAX_CONTENT_BYTES: Final = MAX_BYTES - 64
_VERSION: Final = b"EPR1"
"""The first bytes of the file, which identify its format."""
_NONCE_BYTES: Final = 12
_INFO: Final = b"exitplane agent record"


class EncryptedStore:
    """Saves and loads one proxy's config record in its state folder."""

    def __init__(self, folder: StateDir, key_pem: str, proxy_id: UUID) -> None:
        self._folder = folder
        self._cipher = AESGCM(_derive_key(key_pem))
        # authenticated data: a file of another format, or of another proxy, does not decrypt
        self._context = _VERSION + proxy_id.bytes
        self._warned = False

    def load(self) -> ConfigRecord:
        """Load the record; an empty one, with a warning, if this proxy did not write the file."""
        raw = self._folder.read_bytes(files.RECORD, MAX_BYTES + 1)
        if raw is None:
            return ConfigRecord()
        try:
            return ConfigRecord.decode(self._open(raw))
        except (ValueError, InvalidTag) as error:
            log.warning("record.unreadable", reason=str(error) or "the file was modified, or belongs to another proxy")
            return ConfigRecord()

    def save(self, content: bytes) -> None:
        """Replace the file by an encoded record. A failure is logged once, until a save succeeds."""
        try:
            self._folder.write(files.RECORD, self._seal(content))
        except StateDirUnusable as error:
            if not self._warned:
                log.warning("record.not_written", reason=str(error))
            self._warned = True
        else:
            self._warned = False

    def remove(self) -> None:
        """Remove the file."""
        self._folder.remove(files.RECORD)

    def _seal(self, content: bytes) -> bytes:
        """Encrypt a record. Raises StateDirUnusable if it is too large."""
        if len(content) > _MAX_CONTENT_BYTES:
            raise StateDirUnusable(f"a record of {len(content)} bytes is too large to be saved")
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, content, self._context)

    def _open(self, raw: bytes) -> bytes:
        """Decrypt the file's content. Raises ValueError or InvalidTag."""
        if len(raw) > MAX_BYTES:
            raise ValueError("the file is too large")
        if not raw.startswith(_VERSION):
            raise ValueError("the file has another format")
        at = len(_VERSION) + _NONCE_BYTES
        return self._cipher.decrypt(raw[len(_VERSION) : at], raw[at:], self._context)


def _derive_key(key_pem: str) -> bytes:
    """Derive the AES-256 key of the record from the proxy's private key (HKDF, RFC 5869)."""
    key = load_pem_private_key(key_pem.encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    secret = key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_INFO).derive(secret)
