"""Envoy's generic matchers (xds.type.matcher.v3), in the classes compiled from proto/, each part encoded as it is made.

What Envoy makes of them was seen on Envoy 1.40 and is held by tests: a part that is reached and decides nothing is as if it had
not matched, so that a list goes on to its next entry, a tree of prefixes or of networks to the next shorter one, and all of
them to what is around them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Final, TypeAlias

from envoy_data_plane.envoy.config.core.v3 import CidrRange
from envoy_data_plane.envoy.extensions.matching.input_matchers.ip.v3 import Ip
from envoy_data_plane.envoy.type.matcher.v3 import HttpRequestHeaderMatchInput
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig

from xds.translate.cidr import prefix_of
from xds.translate.encoding import encode, pack
from xds.wire import template_pb2 as wire

Matcher: TypeAlias = bytes
OnMatch: TypeAlias = bytes
Predicate: TypeAlias = bytes

_OnMatch: Final = wire.Matcher.OnMatch
_List: Final = wire.Matcher.MatcherList
_Predicate: Final = wire.Matcher.MatcherList.Predicate
_Tree: Final = wire.Matcher.MatcherTree
_NETWORKS: Final = "type.googleapis.com/xds.type.matcher.v3.IPMatcher"


def go_into(matcher: Matcher) -> OnMatch:
    """Decide by another matcher."""
    return encode(_OnMatch(matcher=matcher))


def first_of(entries: Iterable[tuple[Predicate, OnMatch]], otherwise: OnMatch | None = None) -> Matcher:
    """What the first entry decides that matches and decides anything; there must be one at least."""
    matchers = [_List.FieldMatcher(predicate=predicate, on_match=on_match) for predicate, on_match in entries]
    return encode(wire.Matcher(matcher_list=_List(matchers=matchers), on_no_match=otherwise or b""))


def by_value(header: str, entries: Mapping[str, OnMatch], otherwise: OnMatch | None = None) -> Matcher:
    """A hash table of a header's values; there must be one at least."""
    tree = _Tree(input=_header(header), exact_match_map=_Tree.MatchMap(map=entries))
    return encode(wire.Matcher(matcher_tree=tree, on_no_match=otherwise or b""))


def by_prefix(header: str, entries: Mapping[str, OnMatch]) -> Matcher:
    """A trie of what a header's value may begin with: the longest first, and what decides nothing leaves it to shorter ones."""
    tree = _Tree(input=_header(header), prefix_match_map=_Tree.MatchMap(map=entries))
    return encode(wire.Matcher(matcher_tree=tree))


def by_network(header: str, entries: Mapping[str, OnMatch]) -> Matcher:
    """A trie of the networks that the address in a header may be in: the smallest first, as with prefixes."""
    networks = wire.IPMatcher()
    for text, on_match in sorted(entries.items()):
        address, length = prefix_of(text)
        given = networks.range_matchers.add(on_match=on_match).ranges.add(address_prefix=address)
        given.prefix_len.value = length
    custom = wire.TypedExtensionConfig(name="networks")
    custom.typed_config.type_url = _NETWORKS
    custom.typed_config.value = encode(networks)
    return encode(wire.Matcher(matcher_tree=_Tree(input=_header(header), custom_match=custom)))


def equals(header: str, value: str) -> Predicate:
    """That a header has a value."""
    return _single(header, wire.StringMatcher(exact=value))


def begins(header: str, prefix: str) -> Predicate:
    """That a header's value begins so."""
    return _single(header, wire.StringMatcher(prefix=prefix))


def fits(header: str, regex: str) -> Predicate:
    """That a header's whole value fits a regular expression."""
    matcher = wire.RegexMatcher(regex=regex)
    matcher.google_re2.SetInParent()
    return _single(header, wire.StringMatcher(safe_regex=matcher))


@cache
def is_there(header: str) -> Predicate:
    """That there is such a header, and it is not empty."""
    return fits(header, ".+")


def in_networks(header: str, networks: Iterable[str]) -> Predicate:
    """That a header's value is an address in one of these networks."""
    ranges = [
        CidrRange(address_prefix=address, prefix_len=length) for address, length in map(prefix_of, sorted(networks))
    ]
    config = TypedExtensionConfig(name="networks", typed_config=pack(Ip(cidr_ranges=ranges, stat_prefix="networks")))
    custom = wire.TypedExtensionConfig.FromString(encode(config))
    return encode(_Predicate(single_predicate=_Predicate.SinglePredicate(input=_header(header), custom_match=custom)))


def _single(header: str, matcher: wire.StringMatcher) -> Predicate:
    return encode(_Predicate(single_predicate=_Predicate.SinglePredicate(input=_header(header), value_match=matcher)))


def any_of(predicates: Sequence[Predicate]) -> Predicate:
    """That one of them holds, of one or more."""
    if len(predicates) == 1:
        return predicates[0]
    return encode(_Predicate(or_matcher=_Predicate.PredicateList(predicate=predicates)))


def all_of(predicates: Sequence[Predicate]) -> Predicate:
    """That all of them hold, of one or more."""
    if len(predicates) == 1:
        return predicates[0]
    return encode(_Predicate(and_matcher=_Predicate.PredicateList(predicate=predicates)))


def unless(predicate: Predicate) -> Predicate:
    """That it does not hold."""
    return encode(_Predicate(not_matcher=predicate))


@cache
def _header(name: str) -> bytes:
    return encode(TypedExtensionConfig(name=name, typed_config=pack(HttpRequestHeaderMatchInput(header_name=name))))
