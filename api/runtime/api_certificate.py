"""The certificate of the API, issued by the control plane's authority or read from files, and renewed while it runs.

See docs/decisions/0044-tls-on-the-api.md.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import structlog
from cryptography import x509

from model.authority import KeyPair, issue_server
from model.current_authority import CurrentAuthority
from model.errors import ExitplaneError

log = structlog.get_logger()
_CHECK_S: Final = 5.0
_OTHERS: Final = 0o077


class BadCertificate(ExitplaneError):
    code = "bad_certificate"


class CertificateSource(Protocol):
    """A source of certificates, such as the authority or files."""

    def read_changed(self, now: datetime) -> KeyPair | None:
        """Return the certificate to use from now on; None: keep the last one. Raises BadCertificate."""


@dataclass(slots=True)
class IssuedCertificate:
    """Certificates that the authority issues for the hosts of the API, each for two thirds of its lifetime, or until a rotation."""

    authority: CurrentAuthority
    hosts: Iterable[str]
    _version: str = ""
    _renew_at: datetime | None = None

    def read_changed(self, now: datetime) -> KeyPair | None:
        authority = self.authority.value
        if authority.version == self._version and self._renew_at is not None and now < self._renew_at:
            return None
        pair = issue_server(authority, now, self.hosts)
        expires = x509.load_pem_x509_certificate(pair.certificate_pem.encode()).not_valid_after_utc
        self._version, self._renew_at = authority.version, now + (expires - now) * 2 / 3
        return pair


@dataclass(slots=True)
class CertificateFiles:
    """A certificate with its chain, and its key, in files that others replace."""

    certificate: Path
    key: Path
    _seen: list[tuple[int, int]] = field(default_factory=list)

    def read_changed(self, now: datetime) -> KeyPair | None:  # noqa: ARG002 - files change at any time
        seen = [_version_of(path) for path in (self.certificate, self.key)]
        if seen == self._seen:
            return None
        self._seen = seen
        mode = self.key.stat().st_mode
        if mode & _OTHERS:
            raise BadCertificate(f"others can read {self.key} (mode {mode & 0o777:04o})", hint=f"chmod 600 {self.key}")
        return KeyPair(_read(self.certificate), _read(self.key))


class ApiCertificate:
    """The TLS context of new connections. Raises BadCertificate when the first certificate cannot be used."""

    def __init__(self, source: CertificateSource, clock: Callable[[], datetime]) -> None:
        self._source = source
        self._clock = clock
        first = source.read_changed(clock())
        assert first is not None
        self.context = open_context(first, clock())

    async def run(self) -> None:
        """Take up new certificates until cancelled. One that cannot be used is logged, and the last one stays."""
        while True:
            await asyncio.sleep(_CHECK_S)
            self.refresh()

    def refresh(self) -> None:
        """Take up a new certificate if there is one."""
        try:
            changed = self._source.read_changed(self._clock())
            if changed is not None:
                self.context = open_context(changed, self._clock())
                log.info("api.certificate_renewed")
        except BadCertificate as error:
            log.warning("api.certificate_unusable", reason=error.message, hint=error.hint)


def open_context(pair: KeyPair, now: datetime) -> ssl.SSLContext:
    """Return the context of a server with a certificate. Raises BadCertificate."""
    try:
        leaf = x509.load_pem_x509_certificate(pair.certificate_pem.encode())
    except ValueError as error:
        raise BadCertificate(
            "the certificate of the API is not PEM", hint="write the certificate first, then its chain"
        ) from error
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        period = f"{leaf.not_valid_before_utc:%Y-%m-%d %H:%M} to {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        raise BadCertificate(
            f"the certificate of the API is valid from {period}", hint="renew it, or correct the clock"
        )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    # OpenSSL reads files only; this one is in memory
    with os.fdopen(os.memfd_create("certificate"), "w") as file:
        file.write(f"{pair.key_pem}\n{pair.certificate_pem}")
        file.flush()
        try:
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise BadCertificate(
                "the certificate of the API and its key do not fit together",
                hint="write the certificate before its chain, with its own key in PEM, without a password",
            ) from error
    return context


def _no_password() -> str:
    """Return no password, where OpenSSL would ask on the terminal."""
    return ""


def _version_of(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return status.st_ino, status.st_mtime_ns


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> BadCertificate:
    return BadCertificate(f"{path} cannot be read ({error})", hint="name a file that the control plane may read")
