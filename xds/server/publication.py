"""A publication: the changes of one or more commits, which all streams are given together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from model.repositories.worlds import LoggedCommit
from xds.server.publication_trace import PublicationTrace


@dataclass(slots=True, eq=False)
class Publication:
    """The World at `revision`, published now. Proxies that it concerns are expected to accept it."""

    revision: int
    committed_at: datetime
    """The time of its oldest commit, by the clock of the replica that wrote it."""
    trace: PublicationTrace | None = None
    """The spans that it ends; None: none of its commits is traced."""


def make_publication(commits: Sequence[LoggedCommit]) -> Publication:
    """Make the publication of commits, the oldest first, of which there is at least one."""
    trace = PublicationTrace.begin([commit.traceparent for commit in commits if commit.traceparent])
    return Publication(commits[-1].revision, commits[0].at, trace)
