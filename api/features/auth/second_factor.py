"""Time-based one-time codes (RFC 6238) of six digits and 30 s."""

from __future__ import annotations

import hmac
from datetime import datetime
from typing import Final

import pyotp

from model.tables import OperatorRow

ISSUER: Final = "Exitplane"
_WINDOW: Final = (0, -1, 1)
"""The accepted offsets in time steps: the authenticator's clock may be one step off."""


def is_enabled(row: OperatorRow) -> bool:
    """Tell whether a login needs a code. A secret without a used step was never confirmed."""
    return row.totp_secret is not None and row.totp_step is not None


def new_secret() -> str:
    return pyotp.random_base32()


def uri_of(secret: str, name: str) -> str:
    """Return the `otpauth://` URI that an authenticator reads from a QR code."""
    return pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=ISSUER)


def step_of(secret: str, code: str, now: datetime) -> int | None:
    """Return the time step that a code belongs to; None when it matches no step within the window."""
    otp = pyotp.TOTP(secret)
    step = otp.timecode(now)
    matching = (step + offset for offset in _WINDOW if hmac.compare_digest(otp.generate_otp(step + offset), code))
    return next(matching, None)
