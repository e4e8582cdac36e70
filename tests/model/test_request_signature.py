"""Request signatures: they bind a heartbeat to a certificate, a path, a body and a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from model import request_signature
from model.authority import create_authority, sign_request
from model.entities import Role
from model.identity import Identity
from model.request_signature import BadSignature, public_key_of, thumbprint_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PATH, BODY = "/api/v1/exits/1/heartbeat", b'{"tunnel": "up"}'


class Holder:
    """A key and the certificate for it."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        plain = serialization.NoEncryption()
        self.key = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        pem = csr.public_bytes(serialization.Encoding.PEM).decode()
        identity = Identity(UUID(int=1), Role.EXIT, UUID(int=2))
        certificate = sign_request(create_authority(NOW), pem, identity, NOW)
        self.thumbprint, self.public_key = thumbprint_of(certificate), public_key_of(certificate)

    def sign(self, *, path: str = PATH, body: bytes = BODY, now: datetime = NOW) -> str:
        return f"Bearer {request_signature.sign(self.key, self.thumbprint, path, body, now)}"

    def verify(self, authorization: str, *, path: str = PATH, body: bytes = BODY, now: datetime = NOW) -> None:
        request_signature.verify(request_signature.read(authorization), self.public_key, path, body, now)


@pytest.fixture(scope="module")
def holder() -> Holder:
    return Holder()


def test_signature_names_the_certificate_and_verifies_its_request(holder):
    authorization = holder.sign()
    assert request_signature.read(authorization).thumbprint == holder.thumbprint
    holder.verify(authorization)


def test_the_scheme_may_be_written_in_any_case(holder):
    holder.verify(holder.sign().replace("Bearer", "bearer"))


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic YTpi"])
def test_request_without_a_signature_is_refused(authorization):
    with pytest.raises(BadSignature, match="carries no signature"):
        request_signature.read(authorization)


@pytest.mark.parametrize(
    "token",
    ["x", "a.b.c", jwt.encode({"aud": PATH}, "k" * 32, algorithm="HS256")],
    ids=["word", "dots", "no thumbprint"],
)
def test_a_token_that_names_no_certificate_is_refused(token):
    with pytest.raises(BadSignature, match="names a certificate"):
        request_signature.read(f"Bearer {token}")


@pytest.mark.parametrize("path", ["/api/v1/exits/2/heartbeat", PATH + "/", ""])
def test_signature_for_another_path_is_refused(holder, path):
    with pytest.raises(BadSignature, match="not valid"):
        holder.verify(holder.sign(path=path))


@pytest.mark.parametrize("body", [b"", BODY + b" ", b'{"tunnel": "down"}'])
def test_signature_for_another_body_is_refused(holder, body):
    with pytest.raises(BadSignature, match="another body"):
        holder.verify(holder.sign(), body=body)


def test_signature_of_another_key_is_refused(holder):
    with pytest.raises(BadSignature, match="not valid"):
        holder.verify(Holder().sign())


@pytest.mark.parametrize("part", [0, 1, 2])
def test_tampered_signature_is_refused(holder, part):
    parts = holder.sign().split(".")
    middle = len(parts[part]) // 2
    swapped = "A" if parts[part][middle] != "A" else "B"
    parts[part] = parts[part][:middle] + swapped + parts[part][middle + 1 :]
    with pytest.raises(BadSignature):
        holder.verify(".".join(parts))


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
def test_signature_with_a_weaker_algorithm_is_refused(holder, algorithm):
    claims = {"aud": PATH, "iat": NOW, "exp": NOW + timedelta(minutes=1), "sha256": "x"}
    key = "k" * 32 if algorithm == "HS256" else None
    token = jwt.encode(claims, key, algorithm=algorithm, headers={"x5t#S256": holder.thumbprint})
    with pytest.raises(BadSignature, match="not valid"):
        holder.verify(f"Bearer {token}")


@pytest.mark.parametrize("missing", ["aud", "iat", "exp", "sha256"])
def test_signature_without_a_required_claim_is_refused(holder, missing):
    claims = {"aud": PATH, "iat": NOW, "exp": NOW + timedelta(minutes=1), "sha256": request_signature._digest(BODY)}
    del claims[missing]
    token = jwt.encode(claims, holder.key, algorithm="ES256", headers={"x5t#S256": holder.thumbprint})
    with pytest.raises(BadSignature):
        holder.verify(f"Bearer {token}")


@pytest.mark.parametrize("off", [timedelta(minutes=-6), timedelta(minutes=-1), timedelta(), timedelta(minutes=6)])
def test_clock_skew_of_some_minutes_is_accepted(holder, off):
    holder.verify(holder.sign(now=NOW + off))


@pytest.mark.parametrize("off", [timedelta(minutes=-7), timedelta(minutes=7), timedelta(days=-365)])
def test_signature_from_another_time_is_refused(holder, off):
    with pytest.raises(BadSignature, match="another time"):
        holder.verify(holder.sign(now=NOW + off))


@pytest.mark.parametrize("made_at", [float("nan"), float("inf")])
def test_signature_with_no_finite_time_is_refused(holder, made_at):
    claims = jwt.decode(holder.sign().removeprefix("Bearer "), options={"verify_signature": False})
    token = jwt.encode(
        claims | {"iat": made_at}, holder.key, algorithm="ES256", headers={"x5t#S256": holder.thumbprint}
    )
    with pytest.raises(BadSignature):
        holder.verify(f"Bearer {token}")
