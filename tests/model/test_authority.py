"""The certificate authority: it binds certificates to identities, and refuses bad signing requests."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from model.authority import LEAF_LIFETIME, BadSigningRequest, create_authority, issue_server, sign_request
from model.entities import Role
from model.identity import XDS_SERVER_NAME, Identity, parse_uri
from model.repositories import authorities, worlds
from model.tables import AuthorityRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IDENTITY = Identity(UUID(int=1), Role.EXIT, UUID(int=2))


@pytest.fixture(scope="module")
def authority():
    return create_authority(NOW)


def pem(thing) -> str:
    return thing.public_bytes(serialization.Encoding.PEM).decode()


def request(key, *, names: list[x509.GeneralName] | None = None) -> x509.CertificateSigningRequest:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody else")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def verify(authority, certificate_pem: str, at: datetime) -> list[x509.GeneralName]:
    """Verify a client's certificate as a TLS peer that trusts only this authority does."""
    verifier = PolicyBuilder().store(Store(authority.roots)).time(at).build_client_verifier()
    leaf, *chain = x509.load_pem_x509_certificates(certificate_pem.encode())
    return list(verifier.verify(leaf, chain).subjects)


@pytest.mark.parametrize(
    "foreign",
    [
        x509.UniformResourceIdentifier("spiffe://exitplane/control-plane"),
        x509.UniformResourceIdentifier(f"{IDENTITY.uri}0"),
        x509.DNSName(XDS_SERVER_NAME),
        x509.IPAddress(ip_address("192.0.2.1")),
    ],
    ids=["uri", "longer", "dns", "ip"],
)
def test_request_for_foreign_name_is_refused(authority, foreign):
    own = x509.UniformResourceIdentifier(IDENTITY.uri)
    csr = pem(request(ec.generate_private_key(ec.SECP256R1()), names=[own, foreign]))
    with pytest.raises(BadSigningRequest, match="asks for the name") as refused:
        sign_request(authority, csr, IDENTITY, NOW)
    assert str(foreign.value) in refused.value.message
    assert "without names" in refused.value.hint


def test_request_with_malformed_extension_is_refused(authority):
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    names = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"no sequence")
    csr = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    with pytest.raises(BadSigningRequest, match="malformed"):
        sign_request(authority, pem(csr), IDENTITY, NOW)


def test_certificate_has_identity_and_key_but_no_subject_of_the_request(authority):
    key = ec.generate_private_key(ec.SECP256R1())
    own = [x509.UniformResourceIdentifier(IDENTITY.uri), x509.DNSName(IDENTITY.server_name)]
    signed = sign_request(authority, pem(request(key, names=own)), IDENTITY, NOW)
    names = verify(authority, signed, NOW)
    assert [type(name) for name in names] == [x509.UniformResourceIdentifier, x509.DNSName]
    assert parse_uri(names[0].value) == IDENTITY
    assert names[1].value == IDENTITY.server_name
    certificate = x509.load_pem_x509_certificate(signed.encode())
    assert certificate.public_key() == key.public_key()
    assert "somebody else" not in certificate.subject.rfc4514_string()


def test_certificate_is_backdated_and_valid_for_its_lifetime(authority):
    signed = sign_request(authority, pem(request(ec.generate_private_key(ec.SECP256R1()))), IDENTITY, NOW)
    for good in (NOW - timedelta(hours=24), NOW + LEAF_LIFETIME - timedelta(seconds=1)):
        assert verify(authority, signed, good)
    for bad in (NOW - timedelta(hours=26), NOW + LEAF_LIFETIME + timedelta(seconds=1)):
        with pytest.raises(VerificationError):
            verify(authority, signed, bad)


def test_a_certificate_of_another_authority_is_not_trusted(authority):
    signed = sign_request(create_authority(NOW), pem(request(ec.generate_private_key(ec.SECP256R1()))), IDENTITY, NOW)
    with pytest.raises(VerificationError):
        verify(authority, signed, NOW)


def test_leaf_cannot_sign_certificates(authority):
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = x509.load_pem_x509_certificate(sign_request(authority, pem(request(key)), IDENTITY, NOW).encode())
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is False
    root = x509.load_pem_x509_certificate(authority.certificate_pem.encode())
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 1)
    assert authority.issuer.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(
        True, 0
    )


def test_server_certificate_names_the_server_and_no_proxy(authority):
    names = verify(authority, issue_server(authority, NOW).certificate_pem, NOW)
    assert XDS_SERVER_NAME in [name.value for name in names]
    for name in names:
        with pytest.raises(ValueError, match="not an identity"):
            parse_uri(name.value)


def test_two_servers_have_keys_of_their_own(authority):
    assert issue_server(authority, NOW).key_pem != issue_server(authority, NOW).key_pem


@pytest.mark.parametrize(
    "text", ["", "hello", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"]
)
def test_text_that_is_no_signing_request_is_refused(authority, text):
    with pytest.raises(BadSigningRequest, match="not a PEM"):
        sign_request(authority, text, IDENTITY, NOW)


def test_a_certificate_in_place_of_a_request_is_refused(authority):
    with pytest.raises(BadSigningRequest, match="not a PEM"):
        sign_request(authority, authority.certificate_pem, IDENTITY, NOW)


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        (lambda own: spki(own)[-64:], bytes(64)),
        (lambda _own: b"\x02\x01\x00", b"\x02\x01\x01"),
        (lambda _own: b"=\x04\x03\x02", b"=\x04\x03\x7f"),
    ],
    ids=["a key off the curve", "an unknown version", "an unknown signature algorithm"],
)
def test_request_with_malformed_part_is_refused(authority, part, instead):
    own = request(ec.generate_private_key(ec.SECP256R1()))
    forged = own.public_bytes(serialization.Encoding.DER).replace(part(own), instead)
    text = (
        f"-----BEGIN CERTIFICATE REQUEST-----\n{base64.b64encode(forged).decode()}\n-----END CERTIFICATE REQUEST-----\n"
    )
    with pytest.raises(BadSigningRequest):
        sign_request(authority, text, IDENTITY, NOW)


@pytest.mark.parametrize(
    "make_key",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: ec.generate_private_key(ec.SECP256K1()),
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "secp256k1", "RSA"],
)
def test_a_key_of_another_kind_is_refused(authority, make_key):
    with pytest.raises(BadSigningRequest, match="P-256"):
        sign_request(authority, pem(request(make_key())), IDENTITY, NOW)


def test_a_request_that_its_key_did_not_sign_is_refused(authority):
    """The public key of one key pair, signed with another."""
    mine, theirs = (request(ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
    forged = mine.public_bytes(serialization.Encoding.DER).replace(spki(mine), spki(theirs))
    text = (
        f"-----BEGIN CERTIFICATE REQUEST-----\n{base64.encodebytes(forged).decode()}-----END CERTIFICATE REQUEST-----\n"
    )
    assert x509.load_pem_x509_csr(text.encode()).public_key() == theirs.public_key()
    with pytest.raises(BadSigningRequest, match="signature does not match"):
        sign_request(authority, text, IDENTITY, NOW)


def spki(csr: x509.CertificateSigningRequest) -> bytes:
    return csr.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


# -- identities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
def test_identity_round_trips_through_its_uri(role):
    identity = Identity(UUID(int=1), role, UUID(int=2))
    assert parse_uri(identity.uri) == identity


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://exitplane/control-plane",
        IDENTITY.uri.replace("spiffe:", "https:"),
        IDENTITY.uri.replace("exitplane", "elsewhere"),
        IDENTITY.uri.replace("/exit/", "/operator/"),
        IDENTITY.uri.replace("/fleet/", "/pool/"),
        re.sub(r"[^/]+$", "me", IDENTITY.uri),
        IDENTITY.uri + "/more",
        IDENTITY.uri.rpartition("/")[0],
    ],
)
def test_foreign_uri_is_refused_as_identity(uri):
    with pytest.raises(ValueError):
        parse_uri(uri)


# -- what is stored ----------------------------------------------------------------------------------------------------


@pytest.mark.postgres
async def test_all_replicas_share_the_first_authority(database):
    async def ensure():
        async with database.session() as session:
            return await authorities.ensure(session, lambda: create_authority(NOW))

    first = await ensure()
    assert await ensure() == first
    world, other = await worlds.load(database), await worlds.load(database)
    assert [each.certificate for each in world.authorities.values()] == [first.certificate_pem]
    assert world.secret_key == other.secret_key
    assert world.secret_key not in {b"", first.key_pem.encode()}


@pytest.mark.postgres
async def test_replicas_that_start_at_once_share_one_authority(database):
    """Both replicas find none and create one; all use the one that commits first."""
    async with database.session() as slow:
        made = []

        async def overtake():
            async with database.session() as session:
                made.append(await authorities.ensure(session, lambda: create_authority(NOW)))

        assert await slow.get(AuthorityRow, 1) is None
        await overtake()
        assert await authorities.ensure(slow, lambda: create_authority(NOW)) == made[0]
