"""Certificates are renewed by the key that owns the name, for hours, and nobody else renews them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from model.authority import LEAF_LIFETIME
from model.entities import Role
from model.repositories import enrolment
from model.request_signature import thumbprint_of


def expiry_of(certificate_pem: str):
    return x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_after_utc


@pytest.mark.parametrize(("renews", "lifetime"), [(True, timedelta(hours=48)), (False, LEAF_LIFETIME)])
async def test_only_agents_that_renew_get_certificates_for_hours(demo, make_proxy, make_token, clock, renews, lifetime):
    proxy = make_proxy(Role.EXIT)
    await proxy.enrol(await make_token(Role.EXIT), renews=renews)
    assert expiry_of(proxy.certificate) == clock() + lifetime
    clock.advance(seconds=lifetime.total_seconds())
    assert "expired" in (await proxy.beat()).json["detail"]


@pytest.mark.parametrize("role", Role)
async def test_renewal_gives_a_new_certificate_without_a_revision(role, demo, make_proxy, make_token, stored, clock):
    proxy = make_proxy(role)
    await proxy.enrol(await make_token(role), renews=True)
    former, before = replace(proxy), await stored()
    reply = await proxy.renew()
    assert reply.status == 201
    assert reply.json["authority"] == proxy.enrolled["authority"]
    assert proxy.certificate != former.certificate
    assert expiry_of(proxy.certificate) == clock() + timedelta(hours=48)
    assert await stored() == before | {"certificate": 2}
    assert (await former.beat()).status == (await proxy.beat()).status == 202


async def test_expired_certificate_is_renewed_after_days(exit_proxy, clock):
    clock.advance(seconds=(LEAF_LIFETIME + timedelta(days=9)).total_seconds())
    assert (await exit_proxy.beat()).status == 401
    assert (await exit_proxy.renew()).status == 201
    assert (await exit_proxy.beat()).status == 202


async def test_replayed_renewal_is_refused(exit_proxy, demo, make_api, database, clock):
    path = f"/api/v1/exits/{exit_proxy.id}/certificate"
    body = json.dumps({"csr": exit_proxy.csr}).encode()
    recorded = exit_proxy.sign(body, path)
    assert (await exit_proxy.send_signed(path, body, recorded)).status == 201
    other = make_api(database)
    for api in (demo, other):
        refused = await api("POST", path, body=body, headers=recorded)
        assert (refused.status, refused.json["code"]) == (401, "stale_signature")
        assert refused.json["errors"][0]["value"] == exit_proxy.signed_at.isoformat()
    assert (await exit_proxy.renew()).status == 201
    clock.advance(minutes=7)
    assert (await exit_proxy.send_signed(path, body, recorded)).json["code"] == "bad_signature"


async def test_removed_proxy_is_told_so(exit_proxy, demo):
    assert (await demo("DELETE", f"/api/v1/exits/{exit_proxy.id}")).status == 204
    refused = await exit_proxy.renew()
    assert (refused.status, refused.json["code"]) == (410, "deregistered")
    exit_proxy.id = str(uuid4())
    assert (await exit_proxy.renew()).status == 404


async def test_proxy_whose_name_was_taken_over_is_told_so(exit_proxy, make_proxy, make_token):
    newcomer = make_proxy(Role.EXIT)
    await newcomer.enrol(await make_token(Role.EXIT, uses=1, proxy_name="one", takes_over=True))
    refused = await exit_proxy.renew()
    assert (refused.status, refused.json["code"]) == (410, "replaced")
    assert "--takes-over" in refused.json["hint"]
    assert (await newcomer.renew()).status == 201


async def test_only_its_own_key_renews_a_certificate(exit_proxy, gateway, make_proxy, stored):
    before = await stored()
    path = f"/api/v1/exits/{exit_proxy.id}/certificate"
    stranger = make_proxy(Role.EXIT)
    for signer in (gateway, stranger):
        refused = await signer.renew(path=path)
        assert (refused.status, refused.json["code"]) == (401, "bad_signature")
    foreign = await exit_proxy.renew(csr=stranger.csr)
    assert (foreign.status, foreign.json["code"], "another key" in foreign.json["detail"]) == (422, "bad_csr", True)
    assert await stored() == before


def csr_of(key, *names: x509.GeneralName) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


async def test_bad_request_is_refused_and_nothing_is_written(exit_proxy, stored):
    before = await stored()
    cases = {
        "asks for the name": csr_of(exit_proxy.key, x509.DNSName("other.exit.exitplane.internal")),
        "not ECDSA on P-256": csr_of(ec.generate_private_key(ec.SECP384R1()), x509.DNSName("a")),
        "not a PEM": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----",
    }
    for reason, csr in cases.items():
        refused = await exit_proxy.renew(csr=csr)
        assert (refused.status, refused.json["errors"][0]["field"]) == (422, "/csr")
        assert reason in refused.json["detail"]
        assert refused.json["errors"][0]["hint"]
    assert await stored() == before


async def test_expired_certificates_are_forgotten_but_the_newest(exit_proxy, database, clock, query):
    first = exit_proxy.certificate
    for _ in range(2):
        assert (await exit_proxy.renew()).status == 201
        clock.advance(seconds=60)
    clock.advance(seconds=(LEAF_LIFETIME + timedelta(days=8)).total_seconds())
    async with database.session() as session:
        await enrolment.forget_expired(session, clock())
    kept = [row["thumbprint"] for row in await query("SELECT thumbprint FROM certificate")]
    assert kept == [thumbprint_of(exit_proxy.certificate)] != [thumbprint_of(first)]
    assert (await exit_proxy.renew()).status == 201
