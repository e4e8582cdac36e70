"""Declarative files: reading, merging and validation, with file and line of each error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from api.features.declared.schemas import Declared
from api.http.field_errors import FieldError, show_value
from api.http.validators import field_errors
from cli.declared.yaml import compose, entries, value_of
from model.errors import ExitplaneError

_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
_BYTES_MAX: Final = 64 * 1024 * 1024
STDIN: Final = "-"


class BadDocument(ExitplaneError):
    """Errors in declarative files, one on each line of the message."""

    code = "bad_document"


class NoDocument(ExitplaneError):
    code = "no_document"


@dataclass(slots=True)
class Documents:
    """Several documents merged into one, with the position of each part."""

    document: Declared = field(default_factory=Declared)
    _items: dict[str, list[tuple[str, yaml.Node]]] = field(default_factory=dict)
    """The items of each collection in order: the file of each, and its node there."""

    def find_position(self, pointer: str) -> str | None:
        """Return the file and line of a JSON pointer into the merged document; None if it points to no item."""
        _, *parts = (part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/"))
        if len(parts) < 2 or not parts[1].isdecimal() or int(parts[1]) >= len(self._items.get(parts[0], ())):
            return None
        source, node = self._items[parts[0]][int(parts[1])]
        return f"{source}:{_deepest(node, parts[2:]).start_mark.line + 1}"

    def error_of(self, errors: Iterable[FieldError]) -> BadDocument:
        """Build the error that has a line for each field error: file, line, field, value and hint."""
        return BadDocument("\n".join(self._format_error(error) for error in errors))

    def _format_error(self, error: FieldError) -> str:
        where = self.find_position(error.field)
        field_ = error.field.split("/", 3)[-1] if where and error.field.count("/") > 2 else error.field
        value = show_value(error.value)
        message = error.message + ("" if value is None else f' (it is "{value}")')
        return ": ".join(part for part in (where, field_, message) if part) + (f"; {error.hint}" if error.hint else "")


def load(places: Sequence[str]) -> Documents:
    """Load and merge files, the files in folders, and standard input (`-`). Raises ExitplaneError."""
    return load_texts(_read_texts(places))


def load_texts(texts: Iterable[tuple[str, str]]) -> Documents:
    """Load and merge texts, each with the name that errors show. Raises ExitplaneError."""
    documents = Documents()
    merged: dict[str, list[Any]] = {}
    for source, text in texts:
        for node in compose(text, source):
            _merge(documents, merged, node, source)
    documents.document = _validated(documents, merged)
    return documents


def _read_texts(places: Sequence[str]) -> Iterator[tuple[str, str]]:
    for place in places:
        if place == STDIN:
            yield "standard input", _decoded(sys.stdin.buffer.read(_BYTES_MAX + 1), "standard input")
            continue
        path = Path(place)
        files = sorted(_files_in(path)) if path.is_dir() else [path]
        if not files:
            raise NoDocument(f"{path} contains no YAML", hint="name a folder with *.yaml, *.yml or *.json in it")
        for file in files:
            try:
                with file.open("rb") as opened:
                    content = opened.read(_BYTES_MAX + 1)
            except OSError as error:
                raise NoDocument(
                    f"{file} cannot be read ({error.strerror})", hint="give another file with -f"
                ) from error
            yield str(file), _decoded(content, str(file))


def _files_in(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in _SUFFIXES and path.is_file() and not hidden:
            yield path


def _decoded(content: bytes, source: str) -> str:
    if len(content) > _BYTES_MAX:
        raise NoDocument(f"{source} has more than {_BYTES_MAX} bytes", hint="split it, and apply the parts")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NoDocument(f"{source} is not UTF-8 text", hint="save it as UTF-8") from error


def _merge(documents: Documents, merged: dict[str, list[Any]], node: yaml.Node, source: str) -> None:
    """Add the items of one document to those of the others."""
    if isinstance(node, yaml.ScalarNode) and value_of(node) is None:
        return  # an empty document between two ---
    collections = ", ".join(Declared.model_fields)
    if not isinstance(node, yaml.MappingNode):
        where = f"{source}:{node.start_mark.line + 1}"
        raise BadDocument(
            f"{where}: a document must be a mapping of collections", hint=f"begin with one of {collections}"
        )
    for name, items in entries(node).items():
        where = f"{source}:{items.start_mark.line + 1}"
        if name not in Declared.model_fields:
            raise BadDocument(f"{where}: {name}: there is no such collection", hint=f"name one of {collections}")
        if isinstance(items, yaml.ScalarNode) and value_of(items) is None:
            continue  # the API, too, takes null for a missing collection
        if not isinstance(items, yaml.SequenceNode):
            raise BadDocument(f"{where}: {name}: this must be a list", hint="write `- name: …` below it")
        merged.setdefault(name, []).extend(value_of(each) for each in items.value)
        documents._items.setdefault(name, []).extend((source, each) for each in items.value)  # noqa: SLF001 - its own file


def _validated(documents: Documents, merged: dict[str, list[Any]]) -> Declared:
    try:
        return Declared.model_validate(merged)
    except ValidationError as error:
        if not _restore_texts(documents, merged, error):
            raise _error_of(documents, error) from error
    try:
        return Declared.model_validate(merged)
    except ValidationError as error:
        raise _error_of(documents, error) from error


def _error_of(documents: Documents, error: ValidationError) -> BadDocument:
    return documents.error_of(field_errors({**each, "loc": ("body", *each["loc"])} for each in error.errors()))


def _restore_texts(documents: Documents, merged: dict[str, list[Any]], error: ValidationError) -> bool:
    """Take numbers as written where a field is text, so that `443` needs no quotes. Return True if there were any."""
    restored = False
    for each in error.errors():
        collection, place, *path = each["loc"]
        if each["type"] != "string_type" or not path or not isinstance(place, int):
            continue
        _, item = documents._items[str(collection)][place]  # noqa: SLF001 - likewise
        node = _deepest(item, [str(part) for part in path])
        if isinstance(node, yaml.ScalarNode) and isinstance(value_of(node), int | float):
            holder: Any = merged[str(collection)][place]
            for part in path[:-1]:
                holder = holder[part]
            holder[path[-1]] = node.value
            restored = True
    return restored


def _deepest(node: yaml.Node, path: Sequence[str]) -> yaml.Node:
    """Return the node at a path, or the deepest existing one on the way."""
    for part in path:
        if isinstance(node, yaml.MappingNode) and part in entries(node):
            node = entries(node)[part]
        elif isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
            node = node.value[int(part)]
        else:
            break
    return node
