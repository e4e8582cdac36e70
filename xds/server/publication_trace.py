"""The spans of a publication: translation, publishing, and the ACK of each proxy, below the write that made it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from model.telemetry.spans import Span, now_ns, start_span

PARENTS_MAX: Final = 4
"""Traces of one publication that get its spans. Changes that are coalesced may belong to many."""
ACKS_MAX: Final = 32
"""Spans of single ACKs in a publication; the others are counted. A rejection always has a span."""
_OPEN_MAX: Final = 64
"""Publications whose spans may be open. The oldest one is ended before its last ACK."""
_open: deque[PublicationTrace] = deque()


class PublicationTrace:
    """The spans `xds.translate` and `xds.publish` of one publication. The latter lasts until the last ACK."""

    def __init__(self, parents: Sequence[str], coalesced: int) -> None:
        self._parents = parents
        self._coalesced = coalesced
        self._began_ns = self._published_ns = now_ns()
        self._spans: list[Span] = []
        self._outstanding = self._accepted = self._rejected = self._untraced = 0

    @classmethod
    def begin(cls, traceparents: Sequence[str]) -> PublicationTrace | None:
        """Begin the translation of commits with these contexts; None if none of them is traced, or nobody traces."""
        parents = list(dict.fromkeys(traceparents))
        if not parents:
            return None
        return cls(parents[:PARENTS_MAX], len(parents))

    def record_translated(self, scopes: int) -> None:
        """End the translation, which affected so many scopes, and begin to publish."""
        self._published_ns = now_ns()
        for parent in self._parents:
            translation = start_span("xds.translate", parent, {"exitplane.scopes": scopes}, at_ns=self._began_ns)
            if translation is not None:
                translation.end(self._published_ns)
                attributes = {"exitplane.coalesced_traces": self._coalesced}
                publishing = start_span("xds.publish", parent, attributes, at_ns=self._published_ns)
                if publishing is not None:
                    self._spans.append(publishing)

    def expect(self) -> None:
        """Expect one more answer: of a proxy, for a type."""
        self._outstanding += 1

    def record_published(self) -> None:
        """Record that all streams were given the update. Without a proxy that it concerns, the spans end here."""
        if not self._spans:
            return
        if not self._outstanding:
            self.end()
            return
        if len(_open) >= _OPEN_MAX:
            _open.popleft().end()
        _open.append(self)

    def record_answer(self, proxy_id: UUID, type_url: str, error: str | None) -> None:
        """Record an ACK, or a NACK with its error; the last one ends the spans."""
        rejected = error is not None
        self._rejected += rejected
        self._accepted += not rejected
        if rejected or self._accepted <= ACKS_MAX:
            for each in self._spans:
                self._add_answer(each, proxy_id, type_url, error)
        else:
            self._untraced += 1
        self.forgo()

    def forgo(self) -> None:
        """Expect one answer less."""
        self._outstanding -= 1
        if not self._outstanding and self._spans:
            self.end()
            if self in _open:
                _open.remove(self)

    def _add_answer(self, publishing: Span, proxy_id: UUID, type_url: str, error: str | None) -> None:
        if error is None and not publishing.is_sampled:
            return
        attributes = {"exitplane.proxy_id": str(proxy_id), "exitplane.type_url": type_url}
        name = "xds.ack" if error is None else "xds.nack"
        answer = start_span(name, publishing.traceparent, attributes, at_ns=self._published_ns)
        if answer is not None:
            if error is not None:
                answer.fail("rejected")  # Envoy's message is in the API and the log; it may quote configuration
            answer.end()

    def end(self) -> None:
        """End the spans, with counts of what was answered."""
        spans, self._spans = self._spans, []
        for each in spans:
            each.set(
                exitplane__accepted=self._accepted,
                exitplane__rejected=self._rejected,
                exitplane__pending=self._outstanding,
                exitplane__untraced_acks=self._untraced,
            )
            each.end()


def end_open_traces() -> None:
    """End the spans of publications that still wait for answers, because the replica stops."""
    while _open:
        _open.popleft().end()
