"""Envoy's generic matchers (xds.type.matcher.v3), in the classes compiled from proto/. Each part is encoded as it is built.

Tests hold what was observed on Envoy 1.40: a nested matcher that decides nothing counts as no match. A list then tries its next
entry, a trie of prefixes or networks the next shorter one, and both then leave the decision to the matcher around them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Final, TypeAlias

from envoy_data_plane.envoy.config.core.v3 import CidrRange
from envoy_data_plane.envoy.extensions.matching.common_inputs.ssl.v3 import UriSanInput
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


def nest(matcher: Matcher) -> OnMatch:
    """Let another matcher decide."""
    return encode(_OnMatch(matcher=matcher))


def first_of(entries: Iterable[tuple[Predicate, OnMatch]], otherwise: OnMatch | None = None) -> Matcher:
    """Build a list: the first entry that matches and decides wins. Takes at least one entry."""
    matchers = [_List.FieldMatcher(predicate=predicate, on_match=on_match) for predicate, on_match in entries]
    return encode(wire.Matcher(matcher_list=_List(matchers=matchers), on_no_match=otherwise or b""))


def by_value(header: str, entries: Mapping[str, OnMatch], otherwise: OnMatch | None = None) -> Matcher:
    """Build a hash table of a header's values. Takes at least one entry."""
    tree = _Tree(input=_header(header), exact_match_map=_Tree.MatchMap(map=entries))
    return encode(wire.Matcher(matcher_tree=tree, on_no_match=otherwise or b""))


def by_peer(entries: Mapping[str, OnMatch]) -> Matcher:
    """Build a hash table of the URI name in the certificate of a connection's peer. Takes at least one entry."""
    return encode(wire.Matcher(matcher_tree=_Tree(input=_peer(), exact_match_map=_Tree.MatchMap(map=entries))))


def by_prefix(header: str, entries: Mapping[str, OnMatch]) -> Matcher:
    """Build a trie of prefixes of a header's value: the longest that decides wins."""
    tree = _Tree(input=_header(header), prefix_match_map=_Tree.MatchMap(map=entries))
    return encode(wire.Matcher(matcher_tree=tree))


def by_network(header: str, entries: Mapping[str, OnMatch]) -> Matcher:
    """Build a trie of networks for the address in a header: the smallest that decides wins."""
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
    """Match a header's exact value."""
    return _single(header, wire.StringMatcher(exact=value))


def starts_with(header: str, prefix: str) -> Predicate:
    """Match a prefix of a header's value."""
    return _single(header, wire.StringMatcher(prefix=prefix))


def matches_regex(header: str, regex: str) -> Predicate:
    """Match a header's whole value against a regular expression."""
    matcher = wire.RegexMatcher(regex=regex)
    matcher.google_re2.SetInParent()
    return _single(header, wire.StringMatcher(safe_regex=matcher))


@cache
def is_present(header: str) -> Predicate:
    """Match a header that is present and not empty."""
    return matches_regex(header, ".+")


def in_networks(header: str, networks: Iterable[str]) -> Predicate:
    """Match a header whose value is an address in one of these networks."""
    ranges = [
        CidrRange(address_prefix=address, prefix_len=length) for address, length in map(prefix_of, sorted(networks))
    ]
    config = TypedExtensionConfig(name="networks", typed_config=pack(Ip(cidr_ranges=ranges, stat_prefix="networks")))
    custom = wire.TypedExtensionConfig.FromString(encode(config))
    return encode(_Predicate(single_predicate=_Predicate.SinglePredicate(input=_header(header), custom_match=custom)))


def _single(header: str, matcher: wire.StringMatcher) -> Predicate:
    return encode(_Predicate(single_predicate=_Predicate.SinglePredicate(input=_header(header), value_match=matcher)))


def any_of(predicates: Sequence[Predicate]) -> Predicate:
    """Match any of one or more predicates."""
    if len(predicates) == 1:
        return predicates[0]
    return encode(_Predicate(or_matcher=_Predicate.PredicateList(predicate=predicates)))


def all_of(predicates: Sequence[Predicate]) -> Predicate:
    """Match all of one or more predicates."""
    if len(predicates) == 1:
        return predicates[0]
    return encode(_Predicate(and_matcher=_Predicate.PredicateList(predicate=predicates)))


def negate(predicate: Predicate) -> Predicate:
    """Match when a predicate does not."""
    return encode(_Predicate(not_matcher=predicate))


@cache
def _header(name: str) -> bytes:
    return encode(TypedExtensionConfig(name=name, typed_config=pack(HttpRequestHeaderMatchInput(header_name=name))))


@cache
def _peer() -> bytes:
    return encode(TypedExtensionConfig(name="envoy.matching.inputs.uri_san", typed_config=pack(UriSanInput())))
