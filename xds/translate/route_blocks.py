"""Routes in order, as blocks: those of one block are found by one look-up, and blocks are tried one after the other.

The first route that matches decides. A table of prefixes or of networks finds the longest first, so that a block of them must
not hold a route behind one that is less specific; other than that, within what one key finds, routes keep their order. A route
joins an earlier block than the last if it has nothing in common with all that it overtakes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Final

from model.entities import Match
from xds.translate.matchers import (
    OnMatch,
    Predicate,
    by_network,
    by_prefix,
    by_value,
    first_of,
    fits,
    go_into,
    is_there,
)
from xds.translate.route_conditions import HEADERS, Condition, keys, predicate

_LOOK_BACK: Final = 8
"""How many blocks a route may overtake: it bounds what planning costs."""
_BY_PREFIX: Final = frozenset({Condition.DOMAIN, Condition.SESSION})


@dataclass(frozen=True, slots=True)
class RouteRule:
    """A match, and what it leads to."""

    match: Match
    on_match: OnMatch


@dataclass(slots=True)
class _Block:
    rules: list[RouteRule]
    keys: dict[Condition, set[str]] = field(default_factory=dict)
    """All keys of its rules, by the conditions that all of them have and that can be its table's."""
    shared: dict[Condition, set[str]] = field(default_factory=dict)
    """The same by all conditions that all its rules have."""


def compile_rules(rules: Sequence[RouteRule]) -> Sequence[tuple[Predicate, OnMatch]]:
    """Entries of a matcher that decides as the first of the rules that matches."""
    return [entry for block in _plan(rules) for entry in _entries(block)]


def _plan(rules: Sequence[RouteRule]) -> Sequence[_Block]:
    blocks: list[_Block] = []
    for rule in rules:
        found = keys(rule.match)
        for block in reversed(blocks[-_LOOK_BACK:]):
            able = {condition for condition in block.keys.keys() & found if _may_follow(block, condition, found)}
            if able:
                _join(block, rule, found, able)
                break
            if not _apart(block, found):
                blocks.append(_begin(rule, found))
                break
        else:
            blocks.append(_begin(rule, found))
    return blocks


def _begin(rule: RouteRule, found: Mapping[Condition, frozenset[str]]) -> _Block:
    return _Block(
        [rule],
        {condition: {*values} for condition, values in found.items()},
        {condition: {*values} for condition, values in found.items()},
    )


def _join(block: _Block, rule: RouteRule, found: Mapping[Condition, frozenset[str]], able: set[Condition]) -> None:
    block.rules.append(rule)
    block.keys = {condition: values for condition, values in block.keys.items() if condition in able}
    block.shared = {condition: values for condition, values in block.shared.items() if condition in found}
    for table in (block.keys, block.shared):
        for condition, values in table.items():
            values.update(found[condition])


def _may_follow(block: _Block, condition: Condition, found: Mapping[Condition, frozenset[str]]) -> bool:
    """Whether a table of the block would find nothing of this rule before what is ahead of it and less specific."""
    if condition not in _BY_PREFIX and condition is not Condition.NETWORK:
        return True
    before = block.keys[condition]
    return all(shorter not in before for key in found[condition] for shorter in _less_specific(condition, key))


def _less_specific(condition: Condition, key: str) -> Iterator[str]:
    if condition is Condition.NETWORK:
        network = ip_network(key)
        yield from (str(network.supernet(new_prefix=length)) for length in range(network.prefixlen))
        return
    ends = [index for index, letter in enumerate(key[:-1], 1) if condition is Condition.SESSION or letter == "."]
    yield from (key[:end] for end in ends)


def _apart(block: _Block, found: Mapping[Condition, frozenset[str]]) -> bool:
    """Whether no request can meet a rule of the block and one with these keys: some condition of all of them differs."""
    return any(
        values.isdisjoint(found[condition])
        for condition, values in block.shared.items()
        if condition in found and condition not in _BY_PREFIX and condition is not Condition.NETWORK
    )


def _entries(block: _Block) -> Iterator[tuple[Predicate, OnMatch]]:
    if len(block.rules) == 1 or not block.keys:
        for rule in block.rules:
            yield predicate(rule.match) or fits(":method", ".+"), rule.on_match
        return
    condition = max(block.keys, key=lambda condition: (len(block.keys[condition]), condition))
    found: dict[str, list[RouteRule]] = {}
    for rule in block.rules:
        for key in keys(rule.match)[condition]:
            found.setdefault(key, []).append(rule)
    leaves = {key: _leaf(rules, condition) for key, rules in found.items()}
    header = HEADERS[condition]
    if condition is Condition.NETWORK:
        matcher = by_network(header, leaves)
    elif condition in _BY_PREFIX:
        matcher = by_prefix(header, leaves)
    else:
        matcher = by_value(header, leaves)
    yield is_there(header), go_into(matcher)


def _leaf(rules: Sequence[RouteRule], known: Condition) -> OnMatch:
    """What the first of some rules decides, which have one condition met."""
    entries: list[tuple[Predicate, OnMatch]] = []
    for rule in rules:
        condition = predicate(rule.match, known)
        if condition is None:
            return go_into(first_of(entries, rule.on_match)) if entries else rule.on_match
        entries.append((condition, rule.on_match))
    return go_into(first_of(entries))
