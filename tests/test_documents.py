"""Tests that references in documents and code exist: links, anchors, cited documents, file paths, and settings."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from pydantic_core import PydanticUndefined

from model.settings import Settings

ROOT = Path(__file__).parent.parent
NOT_OURS = {"build", "dist", "wire"}
"""Folders of generated files."""
SUFFIXES = {".py", ".lua", ".yaml", ".yml", ".proto", ".toml"}
MARKDOWN = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CODE = sorted(
    path
    for top in ROOT.iterdir()
    if not top.name.startswith(".")
    for path in [top, *top.rglob("*")]
    if path.suffix in SUFFIXES
    and path.is_file()
    and NOT_OURS.isdisjoint(path.relative_to(ROOT).parts)
    and path != Path(__file__)
)
LINK = re.compile(r"\[[^\]\[]*\]\(([^()\s]+)\)")
CITATION = re.compile(r"docs/[\w./-]*\w(?:#[\w-]+)?")
BARE_NUMBER = re.compile(r"[Dd]ecisions? (?:[Rr]ecords? )?\d+")
PATHS_ARE_FILES = ("CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|toml|yml|yaml))`")
"""A file or folder in backticks."""


def unfenced(text: str) -> str:
    """Remove the code blocks from a text."""
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return the anchors that GitHub creates for a document's headings."""
    headings = re.findall(r"^#+ +(.+)$", unfenced(path.read_text()), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def resolves(target: Path, anchor: str) -> bool:
    return target.exists() and (not anchor or (target.suffix == ".md" and anchor in anchors(target)))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_documents_and_code_are_found():
    assert {"README.md", "docs/architecture.md", "docs/decisions/0001-the-house.md"} <= set(map(name, MARKDOWN))
    assert {"model/world.py", "envoy/client_intent.lua", "envoy/bootstrap.yaml"} <= set(map(name, CODE))


@pytest.mark.parametrize("document", MARKDOWN, ids=name)
def test_links_of_a_document_resolve(document):
    links = [link for link in LINK.findall(unfenced(document.read_text())) if not re.match(r"[a-z]+:", link)]
    parts = [(link, *link.partition("#")[::2]) for link in links]
    broken = [
        link for link, path, anchor in parts if not resolves(document.parent / path if path else document, anchor)
    ]
    assert broken == []


def test_cited_documents_and_anchors_exist():
    broken = [
        f"{name(path)}: {cited}"
        for path in [*CODE, *MARKDOWN]
        for cited in CITATION.findall(path.read_text())
        if not resolves(ROOT / cited.partition("#")[0], cited.partition("#")[2])
    ]
    assert broken == []


def test_nothing_cites_a_decision_by_bare_number():
    found = [
        f"{name(path)}: {cited}"
        for path in [*CODE, *MARKDOWN]
        if "ecision" in (text := path.read_text())  # much faster than the pattern alone
        for cited in BARE_NUMBER.findall(text)
    ]
    assert found == []


@pytest.mark.parametrize("document", PATHS_ARE_FILES)
def test_file_paths_in_a_document_exist(document):
    paths = PATH.findall(unfenced((ROOT / document).read_text()))
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("kind", ["docs", "docs/decisions"])
def test_the_index_lists_every_document(kind):
    index = (ROOT / "docs/README.md").read_text()
    linked = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in LINK.findall(index)}
    documents = {path.resolve() for path in (ROOT / kind).glob("*.md")} - {ROOT / "docs/README.md"}
    assert documents - linked == set()


def documented_settings() -> dict[str, str]:
    """Return the defaults in docs/settings.md by variable, as written there."""
    rows = re.findall(r"^\| `(EXITPLANE_\w+)` \| (.+?) \|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def test_settings_page_lists_every_setting():
    assert set(documented_settings()) == {f"EXITPLANE_{field.upper()}" for field in Settings.model_fields}


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_settings_page_states_the_default(field):
    documented = documented_settings()[f"EXITPLANE_{field.upper()}"]
    default = Settings.model_fields[field].default
    if default is PydanticUndefined:  # computed by default_state_dir, which tests/model/test_settings.py tests
        assert field == "state_dir"
        assert "`/var/lib/exitplane` for root" in documented
    elif default is None:
        assert documented.startswith("unset")
        assert type(None) in get_args(Settings.model_fields[field].annotation)
    elif default == "":
        assert documented == "empty"
    else:
        assert documented == f"`{str(default).lower()}`"


def test_threat_model_names_tests_that_exist():
    named = TEST.findall((ROOT / "docs/threat-model.md").read_text())
    assert len(named) > 30
    missing = [(file, test) for file, test in named if f"def {test}(" not in (ROOT / file).read_text()]
    assert missing == []
