"""Rules for certificates of listeners: chains, keys, names and times. Pure."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from model.authority import create_authority, create_fleet_authority, issue_listener
from model.certificate_rules import (
    BadServerCertificate,
    BadServerNames,
    check_pair,
    check_server_names,
    covers,
    is_near_expiry,
)
from model.identity import XDS_SERVER_NAME
from tests.certificates import NOW, Issued, issue

DAY = timedelta(days=1)


@cache
def chain() -> tuple[Issued, Issued, Issued]:
    """Return a leaf, the intermediate that issued it, and the root."""
    root = issue()
    intermediate = issue(issuer=root)
    return issue("Gateway.example", "*.gateway.example", issuer=intermediate), intermediate, root


def test_chain_is_read_with_its_names_and_times():
    leaf, intermediate, root = chain()
    for pem in (leaf.pem, leaf.pem + intermediate.pem, leaf.pem + intermediate.pem + root.pem):
        checked = check_pair(f"# made by somebody\n{pem}", leaf.key_pem(), NOW)
        assert checked.chain == pem
        assert checked.server_names == ("*.gateway.example", "gateway.example")
        assert (checked.valid_from, checked.expires_at) == (NOW - 30 * DAY, NOW + 60 * DAY)


def test_encrypted_key_is_stored_without_its_passphrase():
    leaf, *_ = chain()
    checked = check_pair(leaf.pem, leaf.key_pem("open"), NOW, "open")
    assert checked.key == leaf.key_pem()


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()], ids=lambda each: each.name)
def test_common_curves_are_accepted(curve):
    leaf = issue("a.example", key=ec.generate_private_key(curve))
    assert check_pair(leaf.pem, leaf.key_pem(), NOW).server_names == ("a.example",)


def bad_pairs():
    leaf, intermediate, root = chain()
    other = issue("other.example")
    yield "chain is no PEM", "x", leaf.key_pem(), "chain", "not a chain"
    yield "chain is empty", "", leaf.key_pem(), "chain", "not a chain"
    cut = leaf.pem.replace("\n", "\n!", 3)
    yield "chain is damaged", cut, leaf.key_pem(), "chain", "not a chain"
    yield "chain is a key", leaf.key_pem(), leaf.key_pem(), "chain", "not a chain"
    yield "chain is long", leaf.pem * 11, leaf.key_pem(), "chain", "more than 10"
    yield "key is no PEM", leaf.pem, "x", "key", "not a private key"
    yield "key is a certificate", leaf.pem, leaf.pem, "key", "not a private key"
    yield "key is cut", leaf.pem, leaf.key_pem()[:80], "key", "not a private key"
    yield "key is encrypted", leaf.pem, leaf.key_pem("open"), "key", "is encrypted"
    yield "key of another", leaf.pem, other.key_pem(), "key", "does not belong"
    yield "root first", root.pem + intermediate.pem + leaf.pem, leaf.key_pem(), "chain", "wrong order"
    yield "intermediates swapped", leaf.pem + root.pem + intermediate.pem, leaf.key_pem(), "chain", "wrong order"
    yield "chain of another", leaf.pem + other.pem, leaf.key_pem(), "chain", "certificate 1 of the chain was not issued"
    late = issue("a.example", begin=DAY)
    yield "not yet valid", late.pem, late.key_pem(), "chain", "not valid before 2026-01-02"
    old = issue("a.example", end=-DAY)
    yield "expired", old.pem, old.key_pem(), "chain", "expired at 2025-12-31"
    expired = issue(issuer=root, end=-DAY)
    of_expired = issue("a.example", issuer=expired)
    yield (
        "issuer expired",
        of_expired.pem + expired.pem,
        of_expired.key_pem(),
        "chain",
        "certificate 2 of the chain expired",
    )
    for key in (rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP521R1())):
        weak = issue("a.example", key=key)
        yield f"key of {key.key_size} bits", weak.pem, weak.key_pem(), "key", "do not support a key"
    odd = ed25519.Ed25519PrivateKey.generate()
    client = issue("a.example", usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
    yield "for clients", client.pem, client.key_pem(), "chain", "not for servers"
    yield "ed25519", leaf.pem, Issued(leaf.certificate, odd).key_pem(), "key", "do not support a key"


def test_bad_pairs_are_refused_with_part_reason_and_hint():
    for case, pem, key, part, reason in bad_pairs():
        with pytest.raises(BadServerCertificate) as error:
            check_pair(pem, key, NOW)
        assert (error.value.part, reason in error.value.message, bool(error.value.hint)) == (part, True, True), case
        assert "PRIVATE" not in str(error.value)


@pytest.mark.parametrize(("passphrase", "reason"), [("wrong", "passphrase does not fit"), (None, "is encrypted")])
def test_wrong_passphrase_is_refused(passphrase, reason):
    leaf, *_ = chain()
    with pytest.raises(BadServerCertificate, match=reason):
        check_pair(leaf.pem, leaf.key_pem("open"), NOW, passphrase)


def test_passphrase_of_a_key_that_has_none_is_refused():
    leaf, *_ = chain()
    with pytest.raises(BadServerCertificate, match="not encrypted"):
        check_pair(leaf.pem, leaf.key_pem(), NOW, "open")


def test_weak_signature_is_refused(monkeypatch):
    leaf, intermediate, _ = chain()
    monkeypatch.setattr("model.certificate_rules._WEAK_HASHES", (hashes.SHA256,))
    with pytest.raises(BadServerCertificate, match="signed with SHA256"):
        check_pair(leaf.pem + intermediate.pem, leaf.key_pem(), NOW)


# -- names and times ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "name", "covered"),
    [
        (["a.example"], "a.example", True),
        (["*.example"], "a.example", True),
        (["*.example"], "b.a.example", False),
        (["*.example"], "example", False),
        ([], "a.example", False),
    ],
)
def test_wildcard_covers_one_label(names, name, covered):
    assert covers(names, name) is covered


@pytest.mark.parametrize(
    ("wanted", "certificates", "reason"),
    [
        (["c.example"], [("one", ["a.example"]), ("two", ["b.example"])], "no certificate .* c.example"),
        ([], [("one", ["a.example", "b.example"]), ("two", ["b.example"])], "one and two .* b.example"),
        ([], [("one", []), ("one", [])], "twice"),
    ],
)
def test_names_that_certificates_lack_or_share_are_refused(wanted, certificates, reason):
    with pytest.raises(BadServerNames, match=reason) as error:
        check_server_names(wanted, certificates)
    assert error.value.hint


def test_wildcard_and_name_below_it_are_different_names():
    check_server_names(["x.a.example", "y.a.example"], [("one", ["*.a.example"]), ("two", ["x.a.example"])])


@pytest.mark.parametrize(
    ("lifetime", "left", "near"),
    [(90, 14, True), (90, 15, False), (6, 1.5, True), (6, 1.6, False), (None, 14, True), (None, 15, False)],
)
def test_near_end_depends_on_the_lifetime(lifetime, left, near):
    expires_at = NOW + left * DAY
    begin = None if lifetime is None else expires_at - lifetime * DAY
    assert is_near_expiry(begin, expires_at, NOW) is near


# -- issued ------------------------------------------------------------------------------------------------------------


def test_issued_certificate_is_for_servers_of_its_names_alone():
    authority = create_fleet_authority(UUID(int=1), NOW)
    pair = issue_listener(authority, NOW, ["gateway.example", "*.gateway.example", "127.0.0.1"])
    checked = check_pair(pair.certificate_pem, pair.key_pem, NOW)
    assert checked.expires_at - NOW == 90 * DAY
    leaf, root = x509.load_pem_x509_certificates(pair.certificate_pem.encode())
    leaf.verify_directly_issued_by(root)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each.value) for each in names] == ["gateway.example", "*.gateway.example", "127.0.0.1"]
    assert XDS_SERVER_NAME not in checked.server_names
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [*usage] == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_authority_of_a_fleet_is_not_that_of_proxies():
    own = [create_fleet_authority(UUID(int=number), NOW) for number in (1, 2)]
    subjects = {
        x509.load_pem_x509_certificate(each.certificate_pem.encode()).subject for each in (*own, create_authority(NOW))
    }
    assert len(subjects) == 3
