"""Routes in order, compiled to blocks: one look-up finds the routes of a block, and blocks are tried one after the other.

The first route that matches decides. A trie of prefixes or networks finds the most specific key first. So no block of one may
hold a route behind a less specific one; the routes of one key keep their order. A route may join an earlier block than the last
if no request can match both it and a route that it overtakes.
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
    is_present,
    matches_regex,
    nest,
)
from xds.translate.route_conditions import HEADERS, Condition, build_predicate, lookup_keys

_LOOK_BACK: Final = 8
"""Number of blocks that a route may overtake. It bounds the cost of planning."""
_BY_PREFIX: Final = frozenset({Condition.DOMAIN, Condition.SESSION})


@dataclass(frozen=True, slots=True)
class RouteRule:
    """A match and its action."""

    match: Match
    on_match: OnMatch


@dataclass(slots=True)
class _Block:
    rules: list[RouteRule]
    keys: dict[Condition, set[str]] = field(default_factory=dict)
    """The keys of its rules, by each condition that all of them have and that its table can be by."""
    shared: dict[Condition, set[str]] = field(default_factory=dict)
    """The keys of its rules, by each condition that all of them have."""


def compile_rules(rules: Sequence[RouteRule]) -> Sequence[tuple[Predicate, OnMatch]]:
    """Build the entries of a matcher that decides as the first matching rule does."""
    return [entry for block in _plan(rules) for entry in _entries(block)]


def _plan(rules: Sequence[RouteRule]) -> Sequence[_Block]:
    blocks: list[_Block] = []
    for rule in rules:
        found = lookup_keys(rule.match)
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
    """Return whether the block's table never finds this rule before a less specific one that is ahead of it."""
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
    """Return whether no request can match both a rule of the block and one with these keys."""
    return any(
        values.isdisjoint(found[condition])
        for condition, values in block.shared.items()
        if condition in found and condition not in _BY_PREFIX and condition is not Condition.NETWORK
    )


def _entries(block: _Block) -> Iterator[tuple[Predicate, OnMatch]]:
    if len(block.rules) == 1 or not block.keys:
        for rule in block.rules:
            yield build_predicate(rule.match) or matches_regex(":method", ".+"), rule.on_match
        return
    condition = max(block.keys, key=lambda condition: (len(block.keys[condition]), condition))
    found: dict[str, list[RouteRule]] = {}
    for rule in block.rules:
        for key in lookup_keys(rule.match)[condition]:
            found.setdefault(key, []).append(rule)
    leaves = {key: _leaf(rules, condition) for key, rules in found.items()}
    header = HEADERS[condition]
    if condition is Condition.NETWORK:
        matcher = by_network(header, leaves)
    elif condition in _BY_PREFIX:
        matcher = by_prefix(header, leaves)
    else:
        matcher = by_value(header, leaves)
    yield is_present(header), nest(matcher)


def _leaf(rules: Sequence[RouteRule], known: Condition) -> OnMatch:
    """Decide by the first matching rule; their condition `known` is met."""
    entries: list[tuple[Predicate, OnMatch]] = []
    for rule in rules:
        condition = build_predicate(rule.match, known)
        if condition is None:
            return nest(first_of(entries, rule.on_match)) if entries else rule.on_match
        entries.append((condition, rule.on_match))
    return nest(first_of(entries))
