"""The control plane's own certificate authority: ECDSA P-384 root, P-256 leaves.

Pure functions over PEM text; `model.repositories.enrolment` stores the key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from model.errors import ExitplaneError
from model.identity import TRUST_DOMAIN, XDS_SERVER_NAME, Identity

ROOT_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=365)
"""The lifetime of certificates that nobody renews, and the longest one."""
_BACKDATED = timedelta(minutes=5)
"""The time before its issue from which a certificate is valid, so that a host with a slow clock accepts it at once."""


class BadSigningRequest(ExitplaneError):
    code = "bad_csr"


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A root certificate and its private key, both PEM."""

    certificate_pem: str
    key_pem: str


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A leaf certificate and its private key, both PEM."""

    certificate_pem: str
    key_pem: str


def create_authority(now: datetime) -> CertificateAuthority:
    """Create a self-signed root."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Exitplane authority")])
    certificate = (
        _builder(name, name, key.public_key(), now, ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    return CertificateAuthority(_pem(certificate), _key_pem(key))


def sign_request(
    authority: CertificateAuthority,
    csr_pem: str,
    identity: Identity,
    now: datetime,
    lifetime: timedelta = LEAF_LIFETIME,
) -> str:
    """Sign a certificate (PEM) that binds the key of a signing request to `identity`. The request's subject is ignored.

    Raises BadSigningRequest when the request is malformed, wrongly signed, not for a P-256 key, or asks for another's names.
    """
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
    except ValueError as error:
        raise BadSigningRequest("the CSR is not a PEM certificate signing request", hint="send one in PEM") from error
    public_key = request.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
        raise BadSigningRequest("the CSR's key is not ECDSA on P-256", hint="make the key on P-256 (prime256v1)")
    if not request.is_signature_valid:
        raise BadSigningRequest("the CSR's signature does not match its key", hint="sign it with the key it holds")
    names = [x509.UniformResourceIdentifier(identity.uri), x509.DNSName(identity.server_name)]
    foreign = [each for each in _requested_names(request) if each not in names]
    if foreign:
        raise BadSigningRequest(
            f"the CSR asks for the name {foreign[0].value!s:.200}, which is not this proxy's",
            hint="send a CSR without names: the control plane assigns them",
        )
    return _sign_leaf(authority, public_key, str(identity.proxy_id), names, now, lifetime)


def _requested_names(request: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    """Return the subject alternative names of a signing request. Raises BadSigningRequest for extensions that are malformed."""
    try:
        return [*request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]
    except x509.ExtensionNotFound:
        return []
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise BadSigningRequest("the CSR's extensions are malformed", hint="send a CSR without extensions") from error


def issue_server(authority: CertificateAuthority, now: datetime, hosts: Iterable[str] = ()) -> KeyPair:
    """Issue a certificate and key for the xDS port of this replica, or for its API, which is dialled at `hosts`.

    A host is a DNS name in ASCII or an IP address.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    names = [
        x509.DNSName(XDS_SERVER_NAME),
        x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/control-plane"),
        *map(_name_of_host, hosts),
    ]
    signed = _sign_leaf(authority, key.public_key(), XDS_SERVER_NAME, names, now, LEAF_LIFETIME)
    return KeyPair(signed, _key_pem(key))


def _name_of_host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _sign_leaf(
    authority: CertificateAuthority,
    public_key: ec.EllipticCurvePublicKey,
    common_name: str,
    names: list[x509.GeneralName],
    now: datetime,
    lifetime: timedelta,
) -> str:
    root = x509.load_pem_x509_certificate(authority.certificate_pem.encode())
    root_key = serialization.load_pem_private_key(authority.key_pem.encode(), password=None)
    assert isinstance(root_key, ec.EllipticCurvePrivateKey)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    certificate = (
        _builder(subject, root.subject, public_key, now, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA384())
    )
    return _pem(certificate)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
