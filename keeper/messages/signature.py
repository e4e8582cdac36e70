"""Signatures of webhooks: HMAC-SHA-256 over the time and the body. docs/messages.md says how receivers verify them. Pure."""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from typing import Final

TIMESTAMP_HEADER: Final = "Exitplane-Timestamp"
SIGNATURE_HEADER: Final = "Exitplane-Signature"


def sign(key: str, body: bytes, now: datetime) -> dict[str, str]:
    """Return the headers that sign a body: the Unix time in seconds, and `v1=` with the signature in hexadecimal digits.

    The time is part of what is signed, so a receiver that accepts 5 minutes accepts no older copy.
    """
    timestamp = str(int(now.timestamp()))
    signature = hmac.new(key.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {TIMESTAMP_HEADER: timestamp, SIGNATURE_HEADER: f"v1={signature}"}
