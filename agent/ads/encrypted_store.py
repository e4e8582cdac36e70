"""The record on disk, encrypted: a copy of the file, or a backup of it, is worth nothing without the proxy's key."""

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
"""Of the file: several times what the largest gateway has. A record that is larger is not written."""
_MAX_CONTENT_BYTES: Final = MAX_BYTES - 64
_VERSION: Final = b"EPR1"
"""What the file begins with; another format begins with something else."""
_NONCE_BYTES: Final = 12
_INFO: Final = b"exitplane agent record"


class EncryptedStore:
    """Puts one proxy's record into its state folder and takes it out again."""

    def __init__(self, folder: StateDir, key_pem: str, proxy_id: UUID) -> None:
        self._folder = folder
        self._cipher = AESGCM(_derive(key_pem))
        # of another format, or of another proxy in a folder that was copied: then it does not decrypt
        self._context = _VERSION + proxy_id.bytes
        self._warned = False

    def load(self) -> ConfigRecord:
        """The record; an empty one, and a warning, when the file is not what this proxy wrote."""
        raw = self._folder.read_bytes(files.RECORD, MAX_BYTES + 1)
        if raw is None:
            return ConfigRecord()
        try:
            return ConfigRecord.decode(self._open(raw))
        except (ValueError, InvalidTag) as error:
            log.warning("record.unreadable", reason=str(error) or "it was changed, or is another proxy's")
            return ConfigRecord()

    def save(self, content: bytes) -> None:
        """Replace the file by an encoded record. What keeps it from being written is told once."""
        try:
            self._folder.write(files.RECORD, self._seal(content))
        except StateDirUnusable as error:
            if not self._warned:
                log.warning("record.not_written", reason=str(error))
            self._warned = True
        else:
            self._warned = False

    def remove(self) -> None:
        """Keep nothing."""
        self._folder.remove(files.RECORD)

    def _seal(self, content: bytes) -> bytes:
        """Raises StateUnusable."""
        if len(content) > _MAX_CONTENT_BYTES:
            raise StateDirUnusable(f"a record of {len(content)} bytes is not kept")
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, content, self._context)

    def _open(self, raw: bytes) -> bytes:
        """Raises ValueError or InvalidTag."""
        if len(raw) > MAX_BYTES:
            raise ValueError("it is too large")
        if not raw.startswith(_VERSION):
            raise ValueError("it is of another format")
        at = len(_VERSION) + _NONCE_BYTES
        return self._cipher.decrypt(raw[len(_VERSION) : at], raw[at:], self._context)


def _derive(key_pem: str) -> bytes:
    """An AES-256 key from the proxy's private key, for nothing but this (HKDF, RFC 5869)."""
    key = load_pem_private_key(key_pem.encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    secret = key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_INFO).derive(secret)
