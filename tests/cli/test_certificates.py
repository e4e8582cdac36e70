"""Tests of `exitplane certificates`."""

from __future__ import annotations

import json

import pytest
from cryptography import x509

from api.features.fleets.schemas import FirstListenerIn, FleetIn
from tests.certificates import issue

pytestmark = pytest.mark.postgres
OF = ("--fleet", "demo")


@pytest.fixture
async def demo(api):
    await api.fleets.create(FleetIn(name="demo", listener=FirstListenerIn(address="127.0.0.1", port=8080)))
    return api


@pytest.fixture
def files(tmp_path, clock):
    """Write a pair, whose key has a passphrase, and return the options that name the files."""
    made = issue("gw.example", now=clock())
    contents = {"chain": made.pem, "key": made.key_pem("open"), "passphrase-file": "open\n"}
    for name, content in contents.items():
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(content)
    return [word for name in contents for word in (f"--{name}", str(tmp_path / name))]


async def test_certificate_is_uploaded_replaced_listed_and_deleted(demo, exitplane, files):
    for _ in range(2):
        done = await exitplane("certificates", "upload", "gateway", *OF, *files)
        assert (done.status, done.out.startswith("gateway: gw.example; expires at ")) == (0, True), done.err
    assert "gw.example" in (await exitplane("certificates", "list", *OF)).out
    (listed,) = json.loads((await exitplane("certificates", "list", "--json")).out)
    assert (listed["name"], listed["source"], "key" in listed) == ("gateway", "uploaded", False)
    assert (await exitplane("certificates", "delete", "gateway", *OF)).out == "deleted gateway\n"
    assert json.loads((await exitplane("certificates", "list", "--json")).out) == []


async def test_key_file_that_others_can_read_is_refused(demo, exitplane, files, tmp_path):
    (tmp_path / "key").chmod(0o644)
    done = await exitplane("certificates", "upload", "gateway", *OF, *files)
    assert (done.status, f"chmod 600 {tmp_path / 'key'}" in done.err) == (1, True)
    assert json.loads((await exitplane("certificates", "list", "--json")).out) == []


async def test_authority_of_an_issued_certificate_is_printed(demo, exitplane):
    made = await exitplane("certificates", "issue", "gateway", "gw.example", "*.gw.example", *OF, "--json")
    leaf, root = x509.load_pem_x509_certificates(json.loads(made.out)["presented_chain"].encode())
    printed = (await exitplane("certificates", "authority", "gateway", *OF)).out
    assert x509.load_pem_x509_certificate(printed.encode()) == root
    leaf.verify_directly_issued_by(root)


async def test_watched_folder_needs_the_setting(demo, exitplane):
    done = await exitplane("certificates", "watch", "gateway", *OF, "--folder", "gw.example")
    assert (done.status, "EXITPLANE_CERTIFICATE_FOLDER" in done.err) == (1, True)
