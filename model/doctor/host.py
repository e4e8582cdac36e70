"""Checks that a control plane and an agent have in common: files, clocks, certificates and limits of the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from model.doctor.findings import Judgement, error, note, warning

CLOCK_WARNING_S: Final = 30
CLOCK_ERROR_S: Final = 300
"""Certificates are valid from 5 minutes before they are issued (model/authority.py)."""
SOMAXCONN_MIN: Final = 1024
_GROUP_AND_OTHERS: Final = 0o077
_WRITE_BY_OTHERS: Final = 0o022


@dataclass(frozen=True, slots=True)
class FileFact:
    """A file or folder: its path, and its permissions; None if it cannot be looked at, for the `reason`."""

    path: str
    mode: int | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ClockFact:
    """The seconds by which this host's clock is ahead of another one."""

    other: str
    ahead_s: float


@dataclass(frozen=True, slots=True)
class ValidityFact:
    """A certificate: its description, from when to when it is valid, and how to get another."""

    what: str
    begins: datetime
    expires: datetime
    hint: str


def judge_private_files(files: Iterable[FileFact]) -> Iterator[Judgement]:
    """Find files with secrets that others than their owner can read."""
    for file in files:
        if file.mode is None:
            yield warning(f"{file.path} cannot be looked at ({file.reason})", "run this as the user who owns it")
        elif file.mode & _GROUP_AND_OTHERS:
            yield error(f"others can read {file.path} (mode {file.mode:04o})", f"chmod go= {file.path}")


def judge_folder(folder: FileFact | None) -> Iterator[Judgement]:
    """Find a folder in which others could replace files."""
    if folder is not None and folder.mode is not None and folder.mode & _WRITE_BY_OTHERS:
        yield error(f"others can write to {folder.path} (mode {folder.mode:04o})", f"chmod go-w {folder.path}")


def judge_clocks(clocks: Iterable[ClockFact]) -> Iterator[Judgement]:
    for clock in clocks:
        size_s = abs(clock.ahead_s)
        if size_s > CLOCK_WARNING_S:
            direction = "ahead of" if clock.ahead_s > 0 else "behind"
            judge = error if size_s > CLOCK_ERROR_S else warning
            yield judge(
                f"this host's clock is {size_s:.0f} s {direction} {clock.other}", "keep all clocks by NTP: timedatectl"
            )


def judge_validity(found: Iterable[ValidityFact], now: datetime) -> Iterator[Judgement]:
    """Find certificates that are not valid, and those in the last tenth or the last 30 days of their life, if that is less."""
    for each in found:
        left = each.expires - now
        if left <= timedelta(0):
            yield error(f"{each.what} expired on {each.expires:%Y-%m-%d}", each.hint)
        elif each.begins > now:
            yield error(
                f"{each.what} is not valid before {each.begins:%Y-%m-%d %H:%M} UTC", "set the clock, or replace it"
            )
        elif left < min(timedelta(days=30), (each.expires - each.begins) / 10):
            yield warning(f"{each.what} expires in {_describe(left)}", each.hint)


def judge_sysctl(values: Mapping[str, str]) -> Iterator[Judgement]:
    """Find a queue of the kernel that is too short for proxies that reconnect at once; `values` has numbers by their names."""
    queue = values.get("net.core.somaxconn", "")
    if queue.isdecimal() and int(queue) < SOMAXCONN_MIN:
        yield note(
            f"net.core.somaxconn is {queue}: connections are lost when many begin at once",
            f"sysctl -w net.core.somaxconn={SOMAXCONN_MIN * 4}",
        )


def _describe(left: timedelta) -> str:
    return f"{left.days} days" if left.days > 1 else f"{left.total_seconds() / 3600:.1f} hours"
