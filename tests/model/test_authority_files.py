"""Authorities from files: chains, keys and times that cannot be used are refused with the reason and a hint."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from model.authority import KeyPair, create_authority, create_intermediate_request, sign_intermediate, sign_request
from model.authority_files import UnusableAuthority, build_authority, check_chain, read_key
from model.entities import Role
from model.identity import Identity

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IDENTITY = Identity(UUID(int=1), Role.EXIT, UUID(int=2))


@pytest.fixture(scope="module")
def authority():
    return create_authority(NOW)


def pem_of(key) -> str:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()


def self_signed(key, *, ca: bool = True, path_length: int | None = 1) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "external root")])
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **usage), critical=True
        )
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )


def chain_below(key, root: x509.Certificate) -> list[x509.Certificate]:
    request = create_intermediate_request(ec.generate_private_key(ec.SECP384R1()))
    signed = sign_intermediate(
        KeyPair(root.public_bytes(serialization.Encoding.PEM).decode(), pem_of(key)), request, NOW
    )
    return [x509.load_pem_x509_certificate(signed.encode()), root]


def test_chain_with_its_key_becomes_an_authority(authority):
    built = build_authority(authority.chain_pem + authority.certificate_pem, authority.key_pem, NOW)
    assert (built.chain_pem, built.certificate_pem, built.version) == (
        authority.chain_pem,
        authority.certificate_pem,
        authority.version,
    )
    assert built.root_key_pem is None


def test_external_root_may_issue_by_itself():
    key = ec.generate_private_key(ec.SECP256R1())
    root = self_signed(key).public_bytes(serialization.Encoding.PEM).decode()
    built = build_authority(root, pem_of(key), NOW)
    assert built.chain_pem == ""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    csr = request.public_bytes(serialization.Encoding.PEM).decode()
    (leaf,) = x509.load_pem_x509_certificates(sign_request(built, csr, IDENTITY, NOW).encode())
    leaf.verify_directly_issued_by(self_signed(key))
    assert leaf.not_valid_after_utc == NOW + timedelta(days=10)  # not beyond its issuer's


@pytest.mark.parametrize(
    ("at", "reason"),
    [(NOW - timedelta(days=2), "is not valid before"), (NOW + timedelta(days=4000), "expired at")],
)
def test_authority_is_refused_before_and_after_its_time(authority, at, reason):
    with pytest.raises(UnusableAuthority, match=reason) as refused:
        check_chain([authority.issuer, *authority.roots], at)
    assert "clock" in refused.value.hint


@pytest.mark.parametrize(
    ("make_key", "reason"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), "weak or unusual"),
        (lambda: ec.generate_private_key(ec.SECP256K1()), "weak or unusual"),
        (ed25519.Ed25519PrivateKey.generate, "weak or unusual"),
    ],
    ids=["RSA 1024", "secp256k1", "Ed25519"],
)
def test_root_with_weak_or_unusual_key_is_refused(make_key, reason):
    with pytest.raises(UnusableAuthority, match=reason):
        check_chain([self_signed(make_key())], NOW)


def test_root_that_may_sign_no_certificates_is_refused():
    key = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(UnusableAuthority, match="not the certificate of an authority"):
        check_chain([self_signed(key, ca=False)], NOW)
    with pytest.raises(UnusableAuthority, match="does not allow 1 authorities below it"):
        check_chain(chain_below(key, self_signed(key, path_length=0)), NOW)


@pytest.mark.parametrize(
    ("key", "passphrase", "reason"),
    [
        (pem_of(ec.generate_private_key(ec.SECP521R1())), None, "not ECDSA on P-384 or P-256"),
        (pem_of(ed25519.Ed25519PrivateKey.generate()), None, "not ECDSA on P-384 or P-256"),
        ("nonsense", None, "holds no private key"),
        (pem_of(ec.generate_private_key(ec.SECP384R1())), "secret", "has no passphrase"),
    ],
    ids=["P-521", "Ed25519", "nonsense", "passphrase"],
)
def test_unusable_key_file_is_refused(tmp_path, key, passphrase, reason):
    file = tmp_path / "key.pem"
    file.write_text(key)
    file.chmod(0o600)
    with pytest.raises(UnusableAuthority, match=reason) as refused:
        read_key(file, passphrase)
    assert refused.value.hint
    file.chmod(0o644)
    with pytest.raises(UnusableAuthority, match=r"others can read .* \(mode 0644\)"):
        read_key(file, passphrase)
