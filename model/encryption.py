"""Encryption of secrets in the database: data keys seal values, and keys from outside PostgreSQL wrap the data keys."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from model.errors import ExitplaneError

KEY_BYTES: Final = 32
MARKER: Final = b"EPS1"
"""The first bytes of every sealed value. A value without them was stored before secrets were sealed."""
_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_WRAPPED_BYTES: Final = _NONCE_BYTES + KEY_BYTES + _TAG_BYTES
_WRAPPED_AT: Final = len(MARKER) + _ID_BYTES
_NONCE_AT: Final = _WRAPPED_AT + _WRAPPED_BYTES
_CONTENT_AT: Final = _NONCE_AT + _NONCE_BYTES
_VALUES_PER_DATA_KEY: Final = 2**24
"""Far below the 2^32 random nonces that AES-GCM allows for one key (NIST SP 800-38D, section 8.3)."""
_OPENED_MAX: Final = 1024


class MissingEncryptionKey(ExitplaneError):
    """No key is configured, or not the one that sealed a value."""

    code = "missing_encryption_key"


class SecretUnreadable(ExitplaneError):
    """A sealed value was changed, or moved from another column."""

    code = "secret_unreadable"


class Keyring:
    """The keys that open secrets, 32 bytes each. The first seals new ones.

    A sealed value is MARKER, the id of the key (8 bytes), the wrapped data key (60), a nonce (12), and the content with its tag,
    all AES-256-GCM. `reload` returns the present keys of a file that may change while this process runs.
    """

    def __init__(self, keys: Sequence[bytes], *, reload: Callable[[], Sequence[bytes] | None] | None = None) -> None:
        self.sealing = True
        """New secrets are sealed. False while control planes may run that cannot open them."""
        self._reload = reload
        self._adopt(keys)

    def _adopt(self, keys: Sequence[bytes]) -> None:
        self._keys = {key_id(key): key for key in keys}
        self.current_id = key_id(keys[0])
        self._opened: OrderedDict[bytes, AESGCM] = OrderedDict()
        self._renew_data_key()

    def _renew_data_key(self) -> None:
        key = AESGCM.generate_key(KEY_BYTES * 8)
        self._cipher, self._values_left = AESGCM(key), _VALUES_PER_DATA_KEY
        nonce, wrapping = os.urandom(_NONCE_BYTES), AESGCM(self._keys[self.current_id])
        self._wrapped = nonce + wrapping.encrypt(nonce, key, MARKER)

    @property
    def ids(self) -> Sequence[str]:
        """The ids of the keys, in hexadecimal digits, the current one first."""
        return [each.hex() for each in self._keys]

    def seal(self, value: bytes, purpose: str) -> bytes:
        """Encrypt a value, which only the same purpose opens; return it as it is while `sealing` is False."""
        if not self.sealing:
            return value
        self._reload_if_changed()
        if self._values_left == 0:
            self._renew_data_key()
        self._values_left -= 1
        nonce = os.urandom(_NONCE_BYTES)
        content = self._cipher.encrypt(nonce, value, purpose.encode())
        return MARKER + self.current_id + self._wrapped + nonce + content

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Decrypt a value, or return one that was never sealed. Raises MissingEncryptionKey and SecretUnreadable."""
        if not sealed.startswith(MARKER):
            return sealed
        key = self._find_key(sealed[len(MARKER) : _WRAPPED_AT])
        try:
            cipher = self._unwrap(key, sealed[_WRAPPED_AT:_NONCE_AT])
            return cipher.decrypt(sealed[_NONCE_AT:_CONTENT_AT], sealed[_CONTENT_AT:], purpose.encode())
        except (InvalidTag, ValueError) as error:
            raise SecretUnreadable(
                f"the stored secret of {purpose} does not decrypt",
                hint="it was changed; set it anew, or restore a backup",
            ) from error

    def _find_key(self, id_: bytes) -> bytes:
        if id_ not in self._keys:
            self._reload_if_changed()
        try:
            return self._keys[id_]
        except KeyError:
            raise MissingEncryptionKey(
                f"the secrets of this database are sealed with key {id_.hex()}, and this process has {', '.join(self.ids)}",
                hint="give it the key file of the control plane that wrote them (EXITPLANE_ENCRYPTION_KEY_FILE)",
            ) from None

    def _unwrap(self, key: bytes, wrapped: bytes) -> AESGCM:
        if wrapped not in self._opened:
            nonce, content = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
            self._opened[wrapped] = AESGCM(AESGCM(key).decrypt(nonce, content, MARKER))
            if len(self._opened) > _OPENED_MAX:
                self._opened.popitem(last=False)
        return self._opened[wrapped]

    def _reload_if_changed(self) -> None:
        if self._reload is not None and (keys := self._reload()) is not None:
            self._adopt(keys)

    def is_current(self, value: bytes) -> bool:
        """Return whether a stored value is sealed with the current key."""
        return value.startswith(MARKER + self.current_id)


def key_id(key: bytes) -> bytes:
    """Return the id of a key: the first bytes of its SHA-256, which reveal nothing of a random key."""
    return hashlib.sha256(key).digest()[:_ID_BYTES]


def id_in(value: bytes) -> str | None:
    """Return the id of the key that sealed a value, in hexadecimal digits; None for a value that is not sealed."""
    return value[len(MARKER) : _WRAPPED_AT].hex() if value.startswith(MARKER) else None


_TEXT_MARKER: Final = f"{MARKER.decode()}."


def to_text(value: bytes) -> str:
    """Write a sealed or unsealed value for a column of text."""
    if not value.startswith(MARKER):
        return value.decode()
    return _TEXT_MARKER + base64.b64encode(value[len(MARKER) :]).decode()


def from_text(text: str) -> bytes:
    """Read a value that `to_text` wrote. Raises ValueError for base64 that was changed."""
    if not text.startswith(_TEXT_MARKER):
        return text.encode()
    return MARKER + base64.b64decode(text.removeprefix(_TEXT_MARKER), validate=True)
