"""Inputs for fuzzers: samples that are right, with a few edits."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

_MOST_EDITS = 4


@st.composite
def damaged_text(draw: DrawFn, samples: Sequence[str], pieces: Sequence[str] = ()) -> str:
    """Draw a sample in which some stretches are removed, repeated, or replaced by a piece, by a few characters, or a long row."""
    text = draw(st.sampled_from(samples))
    insert: SearchStrategy[str] = st.text(max_size=6)
    if pieces:
        insert = st.sampled_from(pieces) | insert
    for _ in range(draw(st.integers(0, _MOST_EDITS))):
        start, length = draw(st.integers(0, len(text))), draw(st.integers(0, 12))
        removed = text[start : start + length]
        put = draw(insert) * draw(st.sampled_from([1, 1, 1, 0, 2, 300]))
        text = text[:start] + put + removed * draw(st.integers(0, 2)) + text[start + length :]
    return text


@st.composite
def damaged_bytes(draw: DrawFn, samples: Sequence[bytes]) -> bytes:
    """Draw a sample in which some stretches are removed, repeated, or replaced by any bytes."""
    raw = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, _MOST_EDITS))):
        start, length = draw(st.integers(0, len(raw))), draw(st.integers(0, 12))
        removed = raw[start : start + length]
        raw = raw[:start] + draw(st.binary(max_size=6)) + removed * draw(st.integers(0, 2)) + raw[start + length :]
    return raw
