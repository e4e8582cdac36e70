"""Check that names and prose follow docs/style.md: modules, classes, tests, how docstrings open, and withdrawn words.

`make lint` calls it. It prints one line for each finding, with the place and the cure, and ends with 1 when there is one.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
ING_NOUNS: Final = {
    *(
        "balancing",
        "binding",
        "coalescing",
        "encoding",
        "listing",
        "logging",
        "parsing",
        "pinning",
        "planning",
        "rendering",
    ),
    *("routing", "scaling", "scheduling", "string", "testing", "tuning"),
}
"""Words in -ing that the field uses as nouns."""
FEATURE_MODULES: Final = {"endpoints", "schemas", "service"}
"""Modules that a feature of the API has by convention."""
OPENINGS: Final = {
    *(
        "as",
        "how",
        "what",
        "whatever",
        "when",
        "where",
        "whether",
        "which",
        "whichever",
        "who",
        "whoever",
        "whose",
        "why",
    ),
    *("the same",),
}
"""Words that no docstring begins with: they announce a riddle where a subject and its effect belong."""
TEST_NAME_MAX: Final = 70
WITHDRAWN: Final = {
    "bear": "tolerate",
    "bears": "tolerates",
    "borne": "a threshold or limit",
    "bystander": "other clients",
    "disagreement": "conflict",
    "lanes": "slots",
    "mend": "hint, fix or restore",
    "mended": "fixed",
    "mends": "fixes",
    "pulse": "liveness",
    "silent_shrink": "shrink approval",
    "trouble": "error or failure",
    "troubles": "errors or failures",
    "vault": "encrypted store",
    "whither": "where to",
    "wish": "client intent, command, request or body",
    "wishes": "client intents, commands, requests or bodies",
    "wishing": "client intent",
}
"""Words of the former dialect, and what to write instead. Former names that are still stored or accepted stand in quotes."""
PROSE: Final = ("*.py", "*.md", "*.lua", "*.yaml", "*.proto", "*.toml", "Makefile")
HISTORY: Final = ("CHANGELOG.md", "docs/decisions/", "model/migrations/versions/", ".ci/check_language.py")
"""Files that quote former names."""
_WITHDRAWN_WORD: Final = re.compile(rf"(?<![A-Za-z])({'|'.join(WITHDRAWN)})(?![A-Za-z])", re.IGNORECASE)
_QUOTED_NAME: Final = re.compile(r'"\w+"')


class Finding(NamedTuple):
    """A place that breaks a rule, and the cure."""

    path: str
    line: int
    text: str


def main() -> int:
    """Check every tracked file; gives the exit status."""
    trees = {path: ast.parse((ROOT / path).read_text(), path) for path in tracked_files("*.py")}
    texts = {path: (ROOT / path).read_text() for path in tracked_files(*PROSE)}
    findings = sorted(
        [
            *check_modules(trees),
            *check_classes(trees),
            *check_docstrings(trees),
            *check_tests(trees),
            *check_words(texts),
        ]
    )
    for each in findings:
        print(f"{each.path}:{each.line}: {each.text}")
    return 1 if findings else 0


def tracked_files(*patterns: str) -> list[str]:
    """Paths of the repository's files, without migrations: these never change once they were applied."""
    listed = subprocess.run(
        ("git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns),
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = listed.stdout.split()
    return [path for path in paths if not path.startswith("model/migrations/versions/") and (ROOT / path).is_file()]


def check_modules(trees: Mapping[str, ast.Module]) -> Iterator[Finding]:
    """Modules are nouns, and no two in one top-level package share a name."""
    homes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in trees:
        top, name = Path(path).parts[0], Path(path).stem
        if top in {".ci", "tests"} or name.startswith("__"):
            continue
        word = name.rpartition("_")[2]
        if word.endswith("ing") and word not in ING_NOUNS:
            yield Finding(path, 1, f"module {name!r} is a gerund: name it with a noun of the field")
        if not (path.startswith("api/features/") and name in FEATURE_MODULES):
            homes[top, name].append(path)
    for (top, name), paths in homes.items():
        for path in paths[1:]:
            yield Finding(path, 1, f"{top} has another module {name!r} ({paths[0]}): name one of them otherwise")


def check_classes(trees: Mapping[str, ast.Module]) -> Iterator[Finding]:
    """A class name means one thing in the whole tree."""
    homes: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append((path, node.lineno))
    for name, places in homes.items():
        first = "{}:{}".format(*places[0])
        for path, line in places[1:]:
            yield Finding(path, line, f"class {name} is also at {first}: a class name means one thing")


def check_docstrings(trees: Mapping[str, ast.Module]) -> Iterator[Finding]:
    """Docstrings open with a subject or a verb."""
    for path, tree in trees.items():
        for text, line in docstrings(tree):
            opening = text.lower().removeprefix("`").split(maxsplit=2)[:2]
            for words in (" ".join(opening), "".join(opening[:1]).rstrip(":,;")):
                if words in OPENINGS:
                    yield Finding(
                        path, line, f"a docstring begins with {words.capitalize()!r}: write subject and effect"
                    )


def docstrings(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Texts of docstrings with their lines: of modules, classes, functions, and those below attributes."""
    for node in ast.walk(tree):
        for statement in getattr(node, "body", ()) if not isinstance(node, ast.Lambda | ast.IfExp) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                value = statement.value.value
                if isinstance(value, str) and value.strip():
                    yield value.strip(), statement.lineno


def check_tests(trees: Mapping[str, ast.Module]) -> Iterator[Finding]:
    """Names of tests are short enough to be read."""
    for path, tree in trees.items():
        for node in ast.walk(tree) if path.startswith("tests/") else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                excess = len(node.name) - TEST_NAME_MAX
                if excess > 0:
                    yield Finding(
                        path, node.lineno, f"{node.name} has {excess} characters too many: at most {TEST_NAME_MAX}"
                    )


def check_words(texts: Mapping[str, str]) -> Iterator[Finding]:
    """Withdrawn words appear nowhere, neither in names nor in prose."""
    for path, text in texts.items():
        if path.startswith(HISTORY):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            for found in _WITHDRAWN_WORD.finditer(_QUOTED_NAME.sub("", line)):
                yield Finding(path, number, f"{found[0]!r} is a withdrawn word: write {WITHDRAWN[found[0].lower()]}")


if __name__ == "__main__":
    sys.exit(main())
