"""The control plane's own certificate authority: a root and an intermediate, ECDSA P-384, and P-256 leaves.

Pure functions over PEM text; `model.repositories.authorities` stores the keys.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from ipaddress import ip_address
from typing import Final
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from model.errors import ExitplaneError
from model.identity import TRUST_DOMAIN, XDS_SERVER_NAME, Identity

ROOT_LIFETIME = timedelta(days=3650)
INTERMEDIATE_LIFETIME = timedelta(days=730)
LISTENER_LIFETIME = timedelta(days=90)
LEAF_LIFETIME = timedelta(days=365)
"""The lifetime of certificates that nobody renews, and the longest one."""
CRL_LIFETIME = timedelta(days=7)
_COMMON_NAME_OF_LISTENERS: Final = "Exitplane listener"
_BACKDATED = timedelta(hours=25)
"""The time before its issue from which a certificate is valid, so that a host whose clock is a day behind accepts it at once; for
certificates that live for less than twice as long, half of their lifetime."""
_VERSION_LENGTH: Final = 22


_TRUST_DOMAIN_NAME: Final = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}")])
"""The name of an authority (SPIFFE X.509-SVID, section 3)."""
_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384"}


class BadSigningRequest(ExitplaneError):
    code = "bad_csr"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate, with its chain if it has one, and its private key, both PEM."""

    certificate_pem: str
    key_pem: str = field(repr=False)


@dataclass(frozen=True)
class CertificateAuthority:
    """The issuer of certificates, and the roots by which they are verified; all PEM.

    `certificate_pem` has the root of the issuer, and behind it other roots that are trusted too while roots change. `chain_pem` has
    the issuer's certificate and those between it and its root, in this order; it is empty where the root issues itself.
    `root_key_pem` is None where the root's key is kept elsewhere.
    """

    certificate_pem: str
    key_pem: str = field(repr=False)
    chain_pem: str = ""
    root_key_pem: str | None = field(default=None, repr=False)

    @cached_property
    def issuer(self) -> x509.Certificate:
        """The certificate whose key signs."""
        return x509.load_pem_x509_certificate((self.chain_pem or self.certificate_pem).encode())

    @cached_property
    def roots(self) -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates(self.certificate_pem.encode())

    @cached_property
    def version(self) -> str:
        """A digest of chain and roots, by which a proxy sees that it should renew its certificate."""
        ders = sorted(each.public_bytes(serialization.Encoding.DER) for each in self.roots)
        digest = hashlib.sha256(self.chain_pem.encode() + b"".join(ders)).digest()
        return base64.urlsafe_b64encode(digest).decode()[:_VERSION_LENGTH]

    @cached_property
    def issuer_id(self) -> str:
        return key_id_of(self.issuer)


def create_authority(now: datetime) -> CertificateAuthority:
    """Create a root, and an intermediate that issues."""
    root = create_root(now)
    return issue_intermediate(root, (root.certificate_pem,), now)


def create_root(now: datetime) -> KeyPair:
    """Create a self-signed root."""
    return _create_root(_authority_name("root", now), now, levels=1, name=_TRUST_DOMAIN_NAME)


def create_fleet_authority(fleet: UUID, now: datetime) -> CertificateAuthority:
    """Create the root that issues the certificates of a fleet's listeners.

    It is another one than that of proxies and the API, so that no operator can have a certificate issued that passes for those.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Exitplane fleet {fleet}")])
    root = _create_root(subject, now, levels=0)
    return CertificateAuthority(root.certificate_pem, root.key_pem)


def _create_root(
    subject: x509.Name, now: datetime, *, levels: int, name: x509.SubjectAlternativeName | None = None
) -> KeyPair:
    """Create a self-signed root that may have so many levels of intermediates."""
    key = ec.generate_private_key(ec.SECP384R1())
    builder = (
        _builder(subject, subject, key.public_key(), now, now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=levels), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    if name is not None:
        builder = builder.add_extension(name, critical=False)
    return KeyPair(_pem(builder.sign(key, hashes.SHA384())), key_pem_of(key))


def issue_intermediate(root: KeyPair, roots: Iterable[str], now: datetime) -> CertificateAuthority:
    """Create an intermediate below a root whose key is at hand. `roots` (PEM) are trusted, the root among them."""
    key = ec.generate_private_key(ec.SECP384R1())
    chain = sign_intermediate(root, create_intermediate_request(key), now)
    others = "".join(each for each in roots if each != root.certificate_pem)
    return CertificateAuthority(root.certificate_pem + others, key_pem_of(key), chain, root.key_pem)


def create_intermediate_request(key: ec.EllipticCurvePrivateKey) -> str:
    """Build the signing request (PEM) of an intermediate. The root gives the names."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA384())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def sign_intermediate(root: KeyPair, csr_pem: str, now: datetime) -> str:
    """Sign the certificate (PEM) of an intermediate, with a root that may be offline.

    Raises BadSigningRequest, unless the request is for a P-384 key, which signed it.
    """
    public_key = _requested_key(csr_pem, ec.SECP384R1())[0]
    issuer = x509.load_pem_x509_certificate(root.certificate_pem.encode())
    root_key = _load_key(root.key_pem)
    until = min(now + INTERMEDIATE_LIFETIME, issuer.not_valid_after_utc)
    certificate = (
        _builder(_authority_name("intermediate", now), issuer.subject, public_key, now, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(_TRUST_DOMAIN_NAME, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA384())
    )
    return _pem(certificate)


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
    public_key, request = _requested_key(csr_pem, ec.SECP256R1())
    names = [x509.UniformResourceIdentifier(identity.uri), x509.DNSName(identity.server_name)]
    foreign = [each for each in _requested_names(request) if each not in names]
    if foreign:
        raise BadSigningRequest(
            f"the CSR asks for the name {foreign[0].value!s:.200}, which is not this proxy's",
            hint="send a CSR without names: the control plane assigns them",
        )
    return _sign_leaf(authority, public_key, str(identity.proxy_id), names, now, lifetime)


def _requested_key(
    csr_pem: str, curve: ec.EllipticCurve
) -> tuple[ec.EllipticCurvePublicKey, x509.CertificateSigningRequest]:
    """Parse a signing request that a key on this curve signed. Raises BadSigningRequest."""
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        public_key, is_signed = request.public_key(), request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise BadSigningRequest("the CSR is not a PEM certificate signing request", hint="send one in PEM") from error
    name = _CURVES[curve.name]
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or public_key.curve.name != curve.name:
        raise BadSigningRequest(f"the CSR's key is not ECDSA on {name}", hint=f"make the key on {name} ({curve.name})")
    if not is_signed:
        raise BadSigningRequest("the CSR's signature does not match its key", hint="sign it with the key it holds")
    return public_key, request


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
    return KeyPair(signed, key_pem_of(key))


def issue_listener(authority: CertificateAuthority, now: datetime, hosts: Sequence[str]) -> KeyPair:
    """Issue a certificate, with the authority's after it, and a key for listeners that clients dial at `hosts`.

    A host is a DNS name, with `*` for its first label if any, or an IP address.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = _sign_leaf(
        authority,
        key.public_key(),
        _COMMON_NAME_OF_LISTENERS,
        [_name_of_host(each) for each in hosts],
        now,
        lifetime=LISTENER_LIFETIME,
        usages=[ExtendedKeyUsageOID.SERVER_AUTH],
    )
    return KeyPair(leaf + authority.certificate_pem, key_pem_of(key))


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
    usages: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH),
) -> str:
    issuer, issuer_key = authority.issuer, _load_key(authority.key_pem)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    until = min(now + lifetime, issuer.not_valid_after_utc)
    certificate = (
        _builder(subject, issuer.subject, public_key, now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA384())
    )
    return _pem(certificate) + authority.chain_pem


@dataclass(frozen=True, slots=True)
class RevokedCertificate:
    """A certificate that ended before it expires. `serial` is hexadecimal."""

    serial: str
    at: datetime


def sign_crl(
    authority: CertificateAuthority, revoked: Iterable[RevokedCertificate], now: datetime
) -> x509.CertificateRevocationList:
    """Sign the revocation list of the issuer (RFC 5280, section 5)."""
    key = _load_key(authority.key_pem)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.issuer.subject)
        .last_update(now - _BACKDATED)
        .next_update(min(now + CRL_LIFETIME, authority.issuer.not_valid_after_utc))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.CRLNumber(int(now.timestamp() * 1_000_000)), critical=False)
    )
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(int(each.serial, 16)).revocation_date(each.at)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, hashes.SHA384())


def key_id_of(certificate: x509.Certificate) -> str:
    """Return the id of a certificate's key, in hexadecimal (RFC 5280, section 4.2.1.2, method 1)."""
    key = certificate.public_key()
    return x509.SubjectKeyIdentifier.from_public_key(key).digest.hex()


def _authority_name(kind: str, now: datetime) -> x509.Name:
    """Name an authority by its time, so that clients tell issuers of different keys apart."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Exitplane {kind} {now:%Y-%m-%d %H:%M:%S.%f}")])


def _load_key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - min(_BACKDATED, (until - now) / 2))
        .not_valid_after(until)
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


def key_pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
