"""Declarative files: what they may hold, how they are merged, and how each refusal names its file and line."""

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
    """`read(text, …)`: what the files a.yaml, b.yaml, … say together."""

    def write_and_load(*texts):
        for name, text in zip("abcdef", texts, strict=False):
            (tmp_path / f"{name}.yaml").write_text(textwrap.dedent(text))
        return load([str(tmp_path)])

    return write_and_load


@pytest.fixture
def refused(read, tmp_path):
    """`refused(text, …)`: the lines in which it is refused, without the folder."""

    def read_in_vain(*texts):
        with pytest.raises(ExitplaneError) as error:
            read(*texts)
        return str(error.value).replace(f"{tmp_path}/", "").splitlines()

    return read_in_vain


# -- what they say -----------------------------------------------------------------------------------------------------


def test_several_files_and_documents_are_one(read):
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


def test_a_collection_that_is_empty_is_one_that_is_there(read):
    assert read("users: []").document == Declared(users=[])


def test_folders_are_read_with_those_in_them_and_without_hidden_ones(tmp_path):
    for name in ("one.yaml", "sub/two.yml", "sub/three.json", ".hidden.yaml", ".git/four.yaml", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'{{"fleets": [{{"name": "{path.stem.strip(".")}"}}]}}')
    assert sorted(fleet.name for fleet in load([str(tmp_path)]).document.fleets) == ["one", "three", "two"]


def test_words_mean_what_they_look_like(read):
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


def test_anchors_save_writing(read):
    found = read(
        """
        exits:
          - &first {name: us-1, fleet: demo, pool: us, address: 192.0.2.1, port: 8443}
          - <<: *first
            name: us-2
        """
    ).document
    assert [(each.name, each.port) for each in found.exits] == [("us-1", 8443), ("us-2", 8443)]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("pools:\n  - name: us\n    name: de", "a.yaml:3: 'name' is here twice"),
        ("pools: []\npools: []", "a.yaml:2: 'pools' is here twice"),
        ("colours: []", "a.yaml:1: colours: there is no such collection; name one of fleets, plans"),
        ("- name: us", "a.yaml:1: a document has collections"),
        ("pools: {name: us}", "a.yaml:1: pools: this is a list"),
        ("pools: [\n", "a.yaml:2: this is not YAML"),
        ("pools:\n- *x", "a.yaml:2: there is no anchor 'x'"),
        ("pools:\n - !!python/object:os.system {}", "a.yaml:2: the tag tag:yaml.org,2002:python/object:os.system"),
        ("pools: [!!binary aGk=]", "a.yaml:1: the tag tag:yaml.org,2002:binary"),
        ("pools: [!!int x]", "a.yaml:1: 'x' is no number"),
        ("pools: [{? {a: 1} : 2}]", "a.yaml:1: a key is a word"),
        ("pools: [{<<: 5}]", "a.yaml:1: << takes a mapping over"),
        ("pools: &x [*x]", "a.yaml:1: 'x' is within itself"),
        ("pools: " + "[" * 100 + "]" * 100, "a.yaml:1: this is nested too deeply"),
        ("pools: \x01", "a.yaml: this is not YAML"),
    ],
)
def test_what_is_no_good_yaml_is_refused_with_its_line(text, line, refused):
    assert refused(text)[0].startswith(line)


@pytest.mark.parametrize("brackets", ["[", "{a: ", "- "])
def test_a_hundred_thousand_brackets_are_refused(brackets, refused):
    assert "not YAML" in refused(brackets * 100_000)[0] or "too deeply" in refused(brackets * 100_000)[0]


def test_a_bomb_of_aliases_is_refused_before_it_goes_off(refused):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert "its aliases make this more than" in refused("\n".join(lines))[0]


def test_aliases_of_aliases_are_not_nested_too_deeply_either(refused):
    lines = ["a0: &a0 " + "[" * 40 + "]" * 40]
    lines += [f"a{n}: &a{n} {'[' * 40}*a{n - 1}{']' * 40}" for n in range(1, 50)]
    assert "nested too deeply" in refused("\n".join(lines))[0]


def test_every_wrong_field_is_named_with_its_file_and_line_value_and_hint(refused):
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
    hint = "use one of ISO 3166-1 alpha-2, for example us, gb or jp"
    assert lines == [
        f'a.yaml:4: country: this is not a country code of ISO 3166-1 (it is "zz"); {hint}',
        'a.yaml:5: colour: there is no such field (it is "red"); remove it; /docs lists the fields',
        "a.yaml:6: name: this is required; add it",
        'b.yaml:2: port: Input should be less than or equal to 65535 (it is "70000"); send at most 65535',
    ]


@pytest.mark.parametrize(("content", "said"), [(b"\xff\xfe\x00", "no UTF-8"), (None, "cannot be read")])
def test_a_file_that_cannot_be_read_is_named(content, said, tmp_path):
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NoDocument, match=said):
        load([str(path)])


def test_a_folder_without_yaml_is_no_empty_state(tmp_path):
    with pytest.raises(NoDocument, match="holds no YAML"):
        load([str(tmp_path)])


@given(some.text())
def test_any_text_is_read_or_refused(text):
    try:
        for node in compose(text, "x"):
            value_of(node)
    except (BadYaml, BadDocument):
        pass


# -- what is written ---------------------------------------------------------------------------------------------------

JSON = some.recursive(
    some.none() | some.booleans() | some.integers(-(10**18), 10**18) | some.text(),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON.filter(lambda value: isinstance(value, dict | list)))
def test_what_is_written_is_read_as_it_was_by_this_and_by_any_other_reader(value):
    text = as_yaml(value)
    assert [value_of(node) for node in compose(text, "x")] == [value]
    assert yaml.safe_load(text) == value
