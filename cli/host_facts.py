"""Facts about this host for `exitplane doctor`: modes of files, values of sysctl, and the answer of an API."""

from __future__ import annotations

import http.client
import json
import ssl
import stat
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from model.doctor.host import ClockFact, FileFact

_TIMEOUT_S: Final = 10
_ANSWER_MAX_BYTES: Final = 1024 * 1024
_SYSCTL: Final = (
    *("net.core.somaxconn", "net.ipv4.ip_local_port_range", "net.netfilter.nf_conntrack_max"),
    "net.ipv4.conf.all.rp_filter",
)


class NoAnswer(Exception):
    """An API did not answer GET /health."""


def stat_file(path: Path) -> FileFact:
    """Return the permissions of a file, or why they are unknown."""
    try:
        return FileFact(str(path), stat.S_IMODE(path.stat().st_mode))
    except OSError as error:
        return FileFact(str(path), None, error.strerror or "unknown")


def stat_existing(paths: Iterable[Path]) -> list[FileFact]:
    """Return the permissions of the files that exist."""
    found = map(stat_file, paths)
    return [each for each in found if each.reason != "No such file or directory"]


def read_sysctl() -> dict[str, str]:
    """Return the values that the checks need, without those that this kernel does not have."""
    found = {}
    for name in _SYSCTL:
        try:
            found[name] = Path("/proc/sys", *name.split(".")).read_text().strip()
        except OSError:
            continue
    return found


def ask_health(url: str, tls: ssl.SSLContext | None = None) -> tuple[Mapping[str, Any], ClockFact | None]:
    """Return the answer to GET /health, and this host's clock against that of the replica. Raises NoAnswer."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=tls)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", f"{parts.path.rstrip('/')}/health", headers={"Accept": "application/json"})
            answer = connection.getresponse()
            body = json.loads(answer.read(_ANSWER_MAX_BYTES))
            return _check(answer.status, body), _compare_clock(answer.headers.get("date"), url)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(_describe(error)) from error


def _check(status: int, body: Any) -> Mapping[str, Any]:
    if status != http.client.OK or not isinstance(body, dict) or not isinstance(body.get("parts"), dict):
        raise ValueError(f"its answer, {status}, is not that of a control plane")
    return body


def _compare_clock(date: str | None, url: str) -> ClockFact | None:
    if date is None:
        return None
    # the header has whole seconds, which begin half a second before on average
    ahead_s = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds() - 0.5
    return ClockFact(f"the replica at {url}", ahead_s)


def _describe(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
