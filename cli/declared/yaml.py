"""A safe YAML reader for declarative files, which keeps the line of every value.

Scalars follow the core schema of YAML 1.2: `no` is Norway and `09:30` a time of day. Duplicate keys, tags and documents that
aliases expand beyond VALUES_MAX are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import yaml

from model.errors import ExitplaneError

VALUES_MAX: Final = 2_000_000
"""The greatest number of values with all aliases expanded."""
DEPTH_MAX: Final = 64
_MERGE: Final = "tag:yaml.org,2002:merge"
_STRING: Final = "tag:yaml.org,2002:str"
_READ: Final[Mapping[str, Callable[[str], Any]]] = {
    "tag:yaml.org,2002:null": lambda _: None,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    _STRING: str,
}


class BadYaml(ExitplaneError):
    code = "bad_yaml"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A loader that yields events, and resolves tags by the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as the base class has it


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    # longer digits are text, because no field takes such a number
    ("int", r"[-+]?(0|[1-9][0-9]{0,18})", list("-+0123456789")),
    ("float", r"[-+]?[0-9]{1,18}\.[0-9]{1,18}", list("-+0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def compose(text: str, source: str) -> Iterator[yaml.Node]:
    """Yield the documents of a text, as nodes with their lines. Raises BadYaml."""
    try:
        loader = _Loader(text)
        try:
            while loader.check_event():
                event = loader.get_event()
                if isinstance(event, yaml.DocumentStartEvent):
                    node = _Composer(loader, source).compose()
                    _check(node, source, {})
                    yield node
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        where = f"{source}:{error.problem_mark.line + 1}" if error.problem_mark else source
        raise BadYaml(
            f"{where}: this is not YAML ({error.problem})", hint="correct this line, or the one above"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadYaml(f"{source}: this is not YAML ({reason})", hint="write UTF-8 text") from error


class _Composer:
    """A composer of one document's nodes without recursion, because PyYAML's own overflows the stack on deep nesting."""

    def __init__(self, loader: Any, source: str) -> None:
        self._loader = loader
        self._source = source
        self._anchors: dict[str, yaml.Node | None] = {}
        """Nodes by anchor; None while a node is not complete."""
        self._open: list[tuple[Any, yaml.Node]] = []

    def compose(self) -> yaml.Node:
        while True:
            event = self._loader.get_event()
            where = f"{self._source}:{event.start_mark.line + 1}"
            if isinstance(event, yaml.CollectionStartEvent):
                if len(self._open) >= DEPTH_MAX:
                    raise BadYaml(f"{where}: this is nested too deeply", hint="write it with less nesting")
                self._open.append((event, self._begin(event)))
                continue
            if isinstance(event, yaml.CollectionEndEvent):
                begun, node = self._open.pop()
                if isinstance(node, yaml.MappingNode):
                    node.value = list(zip(node.value[::2], node.value[1::2], strict=True))
                event = begun
            elif isinstance(event, yaml.AliasEvent):
                node = self._follow(event.anchor or "", where)
            else:
                tag = self._tag(yaml.ScalarNode, event, event.value)
                node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
            if event.anchor is not None:
                self._anchors[event.anchor] = node
            if not self._open:
                return node
            self._open[-1][1].value.append(node)

    def _begin(self, event: Any) -> yaml.Node:
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        kind = yaml.MappingNode if isinstance(event, yaml.MappingStartEvent) else yaml.SequenceNode
        return kind(self._tag(kind, event, None), [], event.start_mark, event.end_mark)

    def _tag(self, kind: type[yaml.Node], event: Any, value: str | None) -> str:
        given = event.tag
        tag: str = self._loader.resolve(kind, value, event.implicit) if given in (None, "!") else given
        return tag

    def _follow(self, anchor: str, where: str) -> yaml.Node:
        if anchor not in self._anchors:
            raise BadYaml(f"{where}: there is no anchor {anchor!r}", hint=f"define &{anchor} above")
        node = self._anchors[anchor]
        if node is None:
            raise BadYaml(f"{where}: {anchor!r} contains itself", hint="write the value without the alias")
        return node


def value_of(node: yaml.Node) -> Any:
    """Return the value of a checked node: None, bool, int, float, str, list or dict."""
    if isinstance(node, yaml.MappingNode):
        return {key: value_of(value) for key, value in entries(node).items()}
    if isinstance(node, yaml.SequenceNode):
        return [value_of(each) for each in node.value]
    return _READ[node.tag](node.value)


def entries(node: yaml.MappingNode) -> dict[str, yaml.Node]:
    """Return the values of a mapping by key, with those of merged mappings (`<<`)."""
    own: dict[str, yaml.Node] = {}
    merged: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if key.tag == _MERGE:
            for other in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                merged = entries(other) | merged
        else:
            own[key.value] = value
    return merged | own


def _check(node: yaml.Node, source: str, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Check a node, and return its number of values and its depth with aliases expanded. Raises BadYaml."""
    if id(node) in known:
        return known[id(node)]
    where = f"{source}:{node.start_mark.line + 1}"
    inner: list[tuple[int, int]] = []
    if isinstance(node, yaml.MappingNode):
        _check_tag(node, where, "tag:yaml.org,2002:map")
        seen: set[str] = set()
        for key, value in node.value:
            _check_key(key, value, seen, source)
            inner.append(_check(value, source, known))
    elif isinstance(node, yaml.SequenceNode):
        _check_tag(node, where, "tag:yaml.org,2002:seq")
        inner = [_check(each, source, known) for each in node.value]
    else:
        _check_tag(node, where, *_READ)
        _check_number(node, where)
    count, depth = 1 + sum(count for count, _ in inner), 1 + max((depth for _, depth in inner), default=0)
    if count > VALUES_MAX:
        raise BadYaml(f"{where}: aliases expand this to more than {VALUES_MAX:,} values", hint="use fewer aliases")
    if depth > DEPTH_MAX + 1:
        raise BadYaml(f"{where}: this is nested too deeply", hint="write it with less nesting")
    known[id(node)] = count, depth
    return count, depth


def _check_key(key: yaml.Node, value: yaml.Node, seen: set[str], source: str) -> None:
    where = f"{source}:{key.start_mark.line + 1}"
    if key.tag == _MERGE:
        others = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(other, yaml.MappingNode) for other in others):
            raise BadYaml(f"{where}: << needs a mapping", hint="refer to the anchor of a mapping")
        return
    if not isinstance(key, yaml.ScalarNode):
        raise BadYaml(f"{where}: a key must be a scalar", hint="write it as KEY: VALUE")
    if key.value in seen:
        raise BadYaml(f"{where}: the key {key.value!r} occurs twice", hint="remove one of them")
    seen.add(key.value)


def _check_number(node: yaml.Node, where: str) -> None:
    """Check that a number can be read, because an explicit tag may be on any text. Raises BadYaml."""
    try:
        _READ[node.tag](node.value)
    except ValueError as error:
        raise BadYaml(f"{where}: {node.value!r} is not a number", hint="remove the tag") from error


def _check_tag(node: yaml.Node, where: str, *known: str) -> None:
    if node.tag not in known:
        raise BadYaml(f"{where}: the tag {node.tag} is not allowed", hint="remove the tag")
