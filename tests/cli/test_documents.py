"""Tests of declarative files: content, merging, and the file and line of each error."""

from __future__ import annotations

import textwrap

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as some

from api.features.declared.schemas import Declared
from cli.declared.documents import BadDocument, NoDocument, load
from cli.declared.yaml import BadYaml, compose, value_of
from cli.declared.yaml_output import as_yaml
from model.errors import ExitplaneError


@pytest.fixture
def read(tmp_path):
    """Load texts as the files a.yaml, b.yaml, …: `read(text, …)`."""

    def write_and_load(*texts):
        for name, text in zip("abcdef", texts, strict=False):
            (tmp_path / f"{name}.yaml").write_text(textwrap.dedent(text))
        return load([str(tmp_path)])

    return write_and_load


@pytest.fixture
def refused(read, tmp_path):
    """Load texts that are refused, and return the lines of the error without the folder: `refused(text, …)`."""

    def read_and_fail(*texts):
        with pytest.raises(ExitplaneError) as error:
            read(*texts)
        return str(error.value).replace(f"{tmp_path}/", "").splitlines()

    return read_and_fail


# -- content -----------------------------------------------------------------------------------------------------


def test_files_and_documents_are_merged(read):
    found = read(
        """
        fleets: [{name: demo}]
        pools:
          - {name: us, fleet: demo, country: us}
        ---
        ---
        pools:
          - {name: de, fleet: demo, country: de}
        """,
        "pools: [{name: fr, fleet: demo, country: fr}]\nusers:\n",
    ).document
    assert [pool.name for pool in found.pools] == ["us", "de", "fr"]
    assert (found.fleets[0].name, found.users, found.routes) == ("demo", None, None)


def test_empty_collection_differs_from_a_missing_one(read):
    assert read("users: []").document == Declared(users=[])


def test_folders_are_read_recursively_without_hidden_files(tmp_path):
    for name in ("one.yaml", "sub/two.yml", "sub/three.json", ".hidden.yaml", ".git/four.yaml", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'{{"fleets": [{{"name": "{path.stem.strip(".")}"}}]}}')
    assert sorted(fleet.name for fleet in load([str(tmp_path)]).document.fleets) == ["one", "three", "two"]


def test_plain_scalars_follow_yaml_1_2(read):
    found = read(
        """
        pools: [{name: norway, fleet: demo, country: no}]
        users: [{name: 007, fleet: demo, group: 12}, {name: on, fleet: demo, group: 2026-01-01}]
        routes:
          - name: night
            fleet: demo
            match: {ports: [443, 8000-8999], times: [{from: 22:30, to: 06:00}]}
            action: {allow: true}
        """
    ).document
    assert found.pools[0].country == "no"
    assert [(user.name, user.group) for user in found.users] == [("007", "12"), ("on", "2026-01-01")]
    assert (found.routes[0].match.ports, found.routes[0].match.times[0].begin) == (["443", "8000-8999"], "22:30")


def test_anchors_and_merge_keys_are_followed(read):
    found = read(
        """
        exits:
          - &first {name: us-1, fleet: demo, pool: us, address: 192.0.2.1, port: 8443}
          - <<: *first
            name: us-2
        """
    ).document
    assert [(each.name, each.port) for each in found.exits] == [("us-1", 8443), ("us-2", 8443)]


# -- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("pools:\n  - name: us\n    name: de", "a.yaml:3: the key 'name' occurs twice"),
        ("pools: []\npools: []", "a.yaml:2: the key 'pools' occurs twice"),
        ("colours: []", "a.yaml:1: colours: there is no such collection; name one of fleets, plans"),
        ("- name: us", "a.yaml:1: a document must be a mapping of collections"),
        ("pools: {name: us}", "a.yaml:1: pools: this must be a list"),
        ("pools: [\n", "a.yaml:2: this is not YAML"),
        ("pools:\n- *x", "a.yaml:2: there is no anchor 'x'"),
        ("pools:\n - !!python/object:os.system {}", "a.yaml:2: the tag tag:yaml.org,2002:python/object:os.system"),
        ("pools: [!!binary aGk=]", "a.yaml:1: the tag tag:yaml.org,2002:binary"),
        ("pools: [!!int x]", "a.yaml:1: 'x' is not a number"),
        ("pools: [{? {a: 1} : 2}]", "a.yaml:1: a key must be a scalar"),
        ("pools: [{<<: 5}]", "a.yaml:1: << needs a mapping"),
        ("pools: &x [*x]", "a.yaml:1: 'x' contains itself"),
        ("pools: " + "[" * 100 + "]" * 100, "a.yaml:1: this is nested too deeply"),
        ("pools: \x01", "a.yaml: this is not YAML"),
    ],
)
def test_invalid_yaml_is_refused_with_its_line(text, line, refused):
    assert refused(text)[0].startswith(line)


@pytest.mark.parametrize("brackets", ["[", "{a: ", "- "])
def test_hundred_thousand_brackets_are_refused(brackets, refused):
    assert "not YAML" in refused(brackets * 100_000)[0] or "too deeply" in refused(brackets * 100_000)[0]


def test_alias_bomb_is_refused_before_it_expands(refused):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert "aliases expand this to more than" in refused("\n".join(lines))[0]


def test_deep_nesting_through_aliases_is_refused(refused):
    lines = ["a0: &a0 " + "[" * 40 + "]" * 40]
    lines += [f"a{n}: &a{n} {'[' * 40}*a{n - 1}{']' * 40}" for n in range(1, 50)]
    assert "nested too deeply" in refused("\n".join(lines))[0]


def test_field_errors_name_file_line_value_and_hint(refused):
    lines = refused(
        """\
        pools:
          - name: us
            fleet: demo
            country: zz
            colour: red
          - fleet: demo
            country: de
        """,
        "exits:\n  - {name: a, fleet: demo, pool: us, address: 192.0.2.1, port: 70000}",
    )
    hint = "use an ISO 3166-1 alpha-2 code, for example us, gb or jp"
    assert lines == [
        f'a.yaml:4: country: this is not a country code of ISO 3166-1 (it is "zz"); {hint}',
        'a.yaml:5: colour: there is no such field (it is "red"); remove it; /docs lists the fields',
        "a.yaml:6: name: this is required; add it",
        'b.yaml:2: port: Input should be less than or equal to 65535 (it is "70000"); send at most 65535',
    ]


@pytest.mark.parametrize(("content", "expected"), [(b"\xff\xfe\x00", "not UTF-8"), (None, "cannot be read")])
def test_unreadable_file_is_named(content, expected, tmp_path):
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NoDocument, match=expected):
        load([str(path)])


def test_folder_without_yaml_is_refused(tmp_path):
    with pytest.raises(NoDocument, match="contains no YAML"):
        load([str(tmp_path)])


@given(some.text())
def test_any_text_is_read_or_refused(text):
    try:
        for node in compose(text, "x"):
            value_of(node)
    except (BadYaml, BadDocument):
        pass


# -- writing ---------------------------------------------------------------------------------------------------

JSON = some.recursive(
    some.none() | some.booleans() | some.integers(-(10**18), 10**18) | some.text(),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON.filter(lambda value: isinstance(value, dict | list)))
def test_written_yaml_reads_back_here_and_in_pyyaml(value):
    text = as_yaml(value)
    assert [value_of(node) for node in compose(text, "x")] == [value]
    assert yaml.safe_load(text) == value
