"""Certificates of listeners over the API: uploaded, issued, read from folders, declared; and the listeners that use them."""

from __future__ import annotations

import json

import pytest
from cryptography import x509

from tests.certificates import issue

pytestmark = pytest.mark.postgres
CERTIFICATES, LISTENERS = "/api/v1/certificates", "/api/v1/listeners"


def upload(*names: str, passphrase: str | None = None) -> dict[str, str]:
    made = issue(*names)
    fields = {"chain": made.pem, "key": made.key_pem(passphrase)}
    return fields if passphrase is None else fields | {"passphrase": passphrase}


def write_pair(folder, *names: str) -> str:
    """Write a pair as an ACME client does, and return its chain."""
    made = issue(*names)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fullchain.pem").write_text(made.pem)
    (folder / "privkey.pem").touch(0o600)
    (folder / "privkey.pem").write_text(made.key_pem())
    return made.pem


@pytest.fixture
def watching(demo, make_api, database, tmp_path):
    """The API with a folder of certificates."""
    return make_api(database, certificate_folder=tmp_path)


async def create(api, name: str, **fields):
    reply = await api("POST", CERTIFICATES, {"name": name, "fleet": "demo", **fields})
    assert reply.status == 201, reply.body
    return reply.json


async def listen(api, **fields):
    return await api(
        "POST", LISTENERS, {"name": "secure", "fleet": "demo", "address": "127.0.0.1", "port": 9443, **fields}
    )


def error_of(reply) -> tuple[int, str, str]:
    assert reply.json["errors"][0]["hint"], reply.json
    return reply.status, reply.json["code"], reply.json["errors"][0]["field"]


# -- sources -----------------------------------------------------------------------------------------------------------


async def test_issued_certificate_has_its_names_and_the_authority_of_its_fleet(demo):
    made = [await create(demo, name, issued_for=["gw.example", "*.gw.example", "127.0.0.1"]) for name in ("a", "b")]
    assert (made[0]["source"], made[0]["chain"]) == ("issued", None)
    assert made[0]["server_names"] == ["*.gw.example", "gw.example"]
    chains = [x509.load_pem_x509_certificates(each["presented_chain"].encode()) for each in made]
    assert chains[0][1] == chains[1][1]
    chains[0][0].verify_directly_issued_by(chains[0][1])
    again = await demo("PATCH", f"{CERTIFICATES}/a", {"issued_for": ["gw.example", "*.gw.example", "127.0.0.1"]})
    assert again.json["presented_chain"] == made[0]["presented_chain"]
    other = await demo("PATCH", f"{CERTIFICATES}/a", {"issued_for": ["other.example"]})
    assert other.json["server_names"] == ["other.example"]


async def test_encrypted_key_is_uploaded_with_its_passphrase(demo):
    made = await create(demo, "a", **upload("gw.example", passphrase="open"))
    assert (made["source"], made["server_names"]) == ("uploaded", ["gw.example"])
    fields = {name: value for name, value in upload("gw.example", passphrase="open").items() if name != "passphrase"}
    assert error_of(await demo("PATCH", f"{CERTIFICATES}/a", fields)) == (422, "bad_certificate", "/key")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"issued_for": []},
        {"issued_for": ["a.example"], "folder": "a"},
        {"chain": "x", "issued_for": ["a.example"]},
    ],
)
async def test_certificate_has_exactly_one_source(fields, demo):
    reply = await demo("POST", CERTIFICATES, {"name": "a", "fleet": "demo", **fields})
    assert error_of(reply) == (422, "certificate_source", "/chain")


@pytest.mark.parametrize("folder", ["../other", "a/b", "/etc", "..", ".", ""])
async def test_folder_is_a_plain_name(folder, watching):
    reply = await watching("POST", CERTIFICATES, {"name": "a", "fleet": "demo", "folder": folder})
    assert reply.status == 422


async def test_certificate_is_read_from_the_folder_of_its_fleet(watching, tmp_path):
    chain = write_pair(tmp_path / "demo" / "gw.example", "gw.example")
    made = await create(watching, "a", folder="gw.example")
    assert (made["source"], made["presented_chain"], made["warnings"]) == ("folder", chain, [])
    write_pair(tmp_path / "other" / "hers.example", "hers.example")
    reply = await watching("POST", CERTIFICATES, {"name": "b", "fleet": "demo", "folder": "hers.example"})
    assert error_of(reply) == (422, "bad_certificate", "/folder")


async def test_key_file_that_others_can_read_is_refused(watching, tmp_path):
    write_pair(tmp_path / "demo" / "gw", "gw.example")
    (tmp_path / "demo" / "gw" / "privkey.pem").chmod(0o640)
    reply = await watching("POST", CERTIFICATES, {"name": "a", "fleet": "demo", "folder": "gw"})
    assert error_of(reply) == (422, "bad_certificate", "/folder")
    assert "chmod 600" in reply.json["errors"][0]["hint"]


async def test_folder_needs_the_setting(demo):
    reply = await demo("POST", CERTIFICATES, {"name": "a", "fleet": "demo", "folder": "gw"})
    assert error_of(reply) == (422, "no_certificate_folder", "/folder")


async def test_source_of_a_certificate_changes_and_is_not_lost(demo):
    await create(demo, "a", issued_for=["gw.example"])
    assert (await demo("PATCH", f"{CERTIFICATES}/a", {"issued_for": []})).json["code"] == "certificate_source"
    changed = await demo("PATCH", f"{CERTIFICATES}/a", upload("gw.example"))
    assert (changed.json["source"], changed.json["issued_for"]) == ("uploaded", [])
    assert (await demo("PATCH", f"{CERTIFICATES}/a", {"name": "b"})).json["source"] == "uploaded"


# -- documents ---------------------------------------------------------------------------------------------------------


async def test_document_declares_certificates_before_their_listeners(demo):
    uploaded = {"name": "up", "fleet": "demo", **upload("up.example")}
    issued = {"name": "own", "fleet": "demo", "issued_for": ["own.example"]}
    listener = {"name": "secure", "fleet": "demo", "address": "127.0.0.1", "port": 9443}
    listener |= {"certificate": "up", "additional_certificates": ["own"], "minimum_tls_version": "1.3"}
    document = {"certificates": [uploaded, issued], "listeners": [listener]}
    applied = await demo("PUT", "/api/v1/declared", document)
    assert [each["name"] for each in applied.json["steps"]] == ["up", "own", "secure"]
    assert (await demo("PUT", "/api/v1/declared", document)).json["steps"] == []

    exported = (await demo("GET", "/api/v1/declared")).json
    assert "PRIVATE" not in json.dumps(exported)
    assert (await demo("PUT", "/api/v1/declared?prune=true", exported)).json["steps"] == []

    renewed = document | {"certificates": [{"name": "up", "fleet": "demo", **upload("up.example")}, issued]}
    steps = (await demo("PUT", "/api/v1/declared", renewed)).json["steps"]
    assert [(each["action"], each["name"]) for each in steps] == [("changed", "up")]
    assert "PRIVATE" not in json.dumps(steps)

    without = {"certificates": [], "listeners": []}
    deleted = await demo("PUT", "/api/v1/declared?prune=true&fleet=demo", without)
    assert [each["name"] for each in deleted.json["steps"] if each["kind"] == "certificate"] == ["own", "up"]


# -- listeners ---------------------------------------------------------------------------------------------------------


async def test_listener_has_several_certificates(demo):
    for name in ("a", "b"):
        await create(demo, name, issued_for=[f"{name}.example"])
    made = await listen(demo, certificate="a", additional_certificates=["b"])
    assert (made.status, made.json["certificate"], made.json["additional_certificates"]) == (201, "a", ["b"])
    assert made.json["minimum_tls_version"] == "1.2"
    for name in ("a", "b"):
        assert (await demo("DELETE", f"{CERTIFICATES}/{name}")).json["code"] == "in_use"
    assert (await demo("PATCH", f"{LISTENERS}/secure", {"additional_certificates": []})).status == 200
    assert (await demo("DELETE", f"{CERTIFICATES}/b")).status == 204


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"certificate": "a", "additional_certificates": ["same"]}, ("bad_server_names", "/additional_certificates")),
        ({"certificate": "a", "additional_certificates": ["a"]}, ("bad_server_names", "/additional_certificates")),
        ({"certificate": "a", "countries_by_server_name": {"b.example": "de"}}, ("bad_server_names", "/certificate")),
        ({"additional_certificates": ["a"]}, ("no_tls", "/certificate")),
        (
            {"certificate": "a", "additional_certificates": ["none"]},
            ("unknown_certificate", "/additional_certificates/0"),
        ),
        ({"certificate": "a", "minimum_tls_version": "1.1"}, ("invalid_request", "/minimum_tls_version")),
        (
            {"certificate": "a", "countries_by_server_name": {"a.example": "de", "A.example": "us"}},
            ("duplicate_server_name", "/countries_by_server_name"),
        ),
    ],
)
async def test_bad_tls_of_a_listener_is_refused(fields, expected, demo):
    await create(demo, "a", issued_for=["a.example"])
    await create(demo, "same", issued_for=["a.example", "c.example"])
    reply = await listen(demo, **fields)
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, expected[1]), reply.json
    assert reply.json["errors"][0]["hint"]
    assert (await demo("GET", f"{LISTENERS}/secure")).status == 404


async def test_certificate_keeps_the_names_that_its_listeners_use(demo):
    await create(demo, "a", issued_for=["a.example", "b.example"])
    await create(demo, "other", issued_for=["c.example"])
    names = {"b.example": "de"}
    made = await listen(demo, certificate="a", additional_certificates=["other"], countries_by_server_name=names)
    assert made.status == 201
    for hosts in (["a.example"], ["b.example", "c.example"]):
        reply = await demo("PATCH", f"{CERTIFICATES}/a", {"issued_for": hosts})
        assert error_of(reply) == (422, "bad_server_names", "/chain")
        assert "listener secure" in reply.json["errors"][0]["message"]
    assert (await demo("GET", f"{CERTIFICATES}/a")).json["server_names"] == ["a.example", "b.example"]
    assert (await demo("PATCH", f"{CERTIFICATES}/a", {"issued_for": ["b.example"]})).status == 200
