"""Time-based one-time codes (RFC 6238), of six digits and 30 s."""

from __future__ import annotations

import hmac
from datetime import datetime
from typing import Final

import pyotp

from model.tables import OperatorRow

ISSUER: Final = "Exitplane"
_WINDOW: Final = (0, -1, 1)
"""Steps that a clock may be off."""


def is_enabled(row: OperatorRow) -> bool:
    """Whether a login takes a code; a secret of which no code was ever used is one that was not confirmed."""
    return row.totp_secret is not None and row.totp_step is not None


def new_secret() -> str:
    return pyotp.random_base32()


def uri_of(secret: str, name: str) -> str:
    """What an authenticator reads as a QR code."""
    return pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=ISSUER)


def step_of(secret: str, code: str, now: datetime) -> int | None:
    """The time step that a code is of; None when it is of none that is near."""
    otp = pyotp.TOTP(secret)
    step = otp.timecode(now)
    matching = (step + offset for offset in _WINDOW if hmac.compare_digest(otp.generate_otp(step + offset), code))
    return next(matching, None)
