"""Enrolment: a join token and a signing request become a certificate."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from model.entities import Role
from model.identity import Identity, parse_uri


def identity_in(certificate_pem: str) -> Identity:
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return parse_uri(uri)


async def test_enrolling_exit_is_declared_and_gets_certificate(demo, make_proxy, make_token):
    proxy = make_proxy(Role.EXIT)
    token = await make_token(Role.EXIT)
    reply = await proxy.enrol(token, "us-1", bind_address="127.0.0.5", egress_address="192.0.2.9")
    assert reply.status == 201
    assert reply.headers["location"] == f"/api/v1/exits/{proxy.id}"
    assert reply.json["xds"] == {"address": None, "port": 18000}
    assert reply.json["heartbeat"] == {"interval_s": 10}
    identity = identity_in(proxy.certificate)
    assert (str(identity.proxy_id), identity.role) == (proxy.id, Role.EXIT)
    assert str(identity.fleet_id) == reply.json["fleet_id"] == (await demo("GET", "/api/v1/fleets/demo")).json["id"]
    shown = (await demo("GET", f"/api/v1/exits/{proxy.id}")).json
    assert (shown["name"], shown["pool"], shown["state"], shown["address"]) == (
        "us-1",
        "us",
        "registering",
        "198.51.100.7",
    )
    assert (shown["bind_address"], shown["egress_address"]) == ("127.0.0.5", "192.0.2.9")
    assert shown["state_reason"] == "enrolled, no heartbeat yet"


async def test_certificate_has_requested_key_and_authority_signature(exit_proxy):
    certificate = x509.load_pem_x509_certificate(exit_proxy.certificate.encode())
    assert certificate.public_key() == exit_proxy.key.public_key()
    _, intermediate = x509.load_pem_x509_certificates(exit_proxy.certificate.encode())
    certificate.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(x509.load_pem_x509_certificate(exit_proxy.enrolled["authority"].encode()))


async def test_enrolling_gateway_joins_fleet_of_its_token(demo, make_proxy, make_token):
    await demo.declare("other", "us", "us")
    proxy = make_proxy(Role.GATEWAY)
    reply = await proxy.enrol(await make_token(Role.GATEWAY, fleet="other"), "gateway-1")
    assert reply.status == 201
    assert identity_in(proxy.certificate).role is Role.GATEWAY
    shown = (await demo("GET", f"/api/v1/proxies/{proxy.id}")).json
    assert (shown["name"], shown["role"], shown["fleet"]) == ("gateway-1", "gateway", "other")


@pytest.mark.parametrize("role", Role)
async def test_reenrolment_with_its_key_keeps_proxy_and_renews_certificate(role, demo, make_proxy, make_token, stored):
    token = await make_token(role, uses=1)
    proxy = make_proxy(role)
    await proxy.enrol(token, "one")
    former, before = replace(proxy), await stored()
    reply = await proxy.enrol(token, "one")
    assert (reply.status, reply.revision) == (201, before["revision"])
    assert proxy.id == former.id
    assert proxy.certificate != former.certificate
    assert await stored() == before | {"certificate": 2}
    assert (await former.beat()).status == (await proxy.beat()).status == 202


async def test_key_is_renewed_by_a_request_that_the_former_key_signs(clock, exit_proxy, make_proxy, make_token):
    renewed = make_proxy(Role.EXIT)
    reply = await renewed.enrol(await make_token(Role.EXIT), signer=exit_proxy)
    assert (reply.status, renewed.id) == (201, exit_proxy.id)
    assert (await exit_proxy.beat()).status == 202
    clock.advance(seconds=1)
    assert (await renewed.beat()).status == 202


async def test_reenrolment_at_new_address_needs_a_heartbeat(demo, make_proxy, make_token, query):
    token = await make_token(Role.EXIT)
    proxy = make_proxy(Role.EXIT)
    await proxy.enrol(token)
    await query("UPDATE exit SET state = 'healthy' RETURNING id")
    await proxy.enrol(token)
    assert (await demo("GET", f"/api/v1/exits/{proxy.id}")).json["state"] == "healthy"
    await proxy.enrol(token, address="198.51.100.8", port=9000)
    shown = (await demo("GET", f"/api/v1/exits/{proxy.id}")).json
    assert (shown["state"], shown["endpoint"], shown["port"]) == ("registering", "198.51.100.8", 9000)


@pytest.mark.parametrize("role", Role)
async def test_reenrolment_updates_locality_only_if_stated(role, demo, make_proxy, make_token, stored):
    token = await make_token(role)
    proxy = make_proxy(role)
    await proxy.enrol(token, locality="eu-west/a")
    path = f"/api/v1/{proxy.collection}/{proxy.id}"
    assert (await demo("GET", path)).json["locality"] == "eu-west/a"
    before = await stored()
    for silent in ({}, {"locality": None}):
        reply = await proxy.enrol(token, **silent)
        assert (reply.status, reply.revision) == (201, before["revision"])
        assert (await demo("GET", path)).json["locality"] == "eu-west/a"
    reply = await proxy.enrol(token, locality="us")
    assert (reply.status, reply.revision) == (201, before["revision"] + 1)
    assert (await demo("GET", path)).json["locality"] == "us"
    assert (await demo("GET", f"/api/v1/proxies/{proxy.id}")).json["locality"] == "us"


async def test_changed_locality_alone_keeps_exit_healthy(demo, make_proxy, make_token, query):
    token = await make_token(Role.EXIT)
    proxy = make_proxy(Role.EXIT)
    await proxy.enrol(token)
    await query("UPDATE exit SET state = 'healthy' RETURNING id")
    await proxy.enrol(token, locality="eu")
    shown = (await demo("GET", f"/api/v1/exits/{proxy.id}")).json
    assert (shown["state"], shown["locality"]) == ("healthy", "eu")


async def test_enrolment_keeps_declared_locality(demo, make_proxy, make_token):
    made = await demo.declare_exit(name="us-1", locality="us-east")
    await make_proxy(Role.EXIT).enrol(await make_token(Role.EXIT), "us-1")
    assert (await demo("GET", f"/api/v1/exits/{made['id']}")).json["locality"] == "us-east"


async def test_disabled_exit_stays_disabled_after_reenrolment(demo, make_proxy, make_token):
    token = await make_token(Role.EXIT)
    proxy = make_proxy(Role.EXIT)
    await proxy.enrol(token)
    await demo("PATCH", f"/api/v1/exits/{proxy.id}", {"enabled": False})
    await proxy.enrol(token, port=9000)
    shown = (await demo("GET", f"/api/v1/exits/{proxy.id}")).json
    assert (shown["state"], shown["port"]) == ("disabled", 9000)


async def test_enrolment_uses_exit_that_was_declared_before(demo, make_proxy, make_token):
    made = await demo.declare_exit(name="us-1")
    proxy = make_proxy(Role.EXIT)
    assert (await proxy.enrol(await make_token(Role.EXIT), "us-1")).status == 201
    assert proxy.id == made["id"]


async def test_one_token_enrols_many_exits_concurrently(demo, make_proxy, make_token, stored):
    token = await make_token(Role.EXIT)
    replies = await asyncio.gather(*(make_proxy(Role.EXIT).enrol(token, f"us-{n}") for n in range(20)))
    assert {reply.status for reply in replies} == {201}
    assert (await stored())["exit"] == 20


async def test_concurrent_enrolments_of_one_name_create_one_exit(demo, make_proxy, make_token, stored):
    token = await make_token(Role.EXIT)
    replies = await asyncio.gather(*(make_proxy(Role.EXIT).enrol(token, "us-1") for _ in range(10)))
    assert Counter(reply.status for reply in replies) == {201: 1, 409: 9}
    assert {reply.json["code"] for reply in replies if reply.status == 409} == {"name_in_use"}
    after = await stored()
    assert (after["exit"], after["proxy"], after["certificate"]) == (1, 1, 1)


async def test_token_of_another_role_is_refused(demo, make_proxy, make_token, stored):
    tokens = {role: await make_token(role) for role in Role}
    before = await stored()
    for mine, other in ((Role.EXIT, Role.GATEWAY), (Role.GATEWAY, Role.EXIT)):
        reply = await make_proxy(mine).enrol(tokens[other])
        assert (reply.status, reply.json["code"]) == (403, "join_token_of_another_role")
        assert mine in reply.json["hint"]
        assert tokens[other].encode() not in reply.body
    assert await stored() == before


async def test_unknown_or_expired_token_is_refused(demo, make_proxy, make_token, stored, clock):
    short = await make_token(Role.EXIT, ttl=timedelta(minutes=5))
    before = await stored()
    clock.advance(minutes=5)
    for token, code in ((short, "join_token_expired"), ("ep-exit-unknown", "bad_join_token")):
        reply = await make_proxy(Role.EXIT).enrol(token)
        assert (reply.status, reply.json["code"]) == (401, code)
        assert reply.headers["www-authenticate"].startswith("Bearer")
        assert [(error["field"], error["value"]) for error in reply.json["errors"]] == [("/join_token", None)]
    assert await stored() == before


async def test_pool_outside_fleet_of_token_is_refused_as_an_unknown_one(demo, make_proxy, make_token, stored):
    await demo.declare("other", "elsewhere", "de")
    token = await make_token(Role.EXIT)
    before = await stored()
    for pool in ("elsewhere", "nowhere"):
        reply = await make_proxy(Role.EXIT).enrol(token, pool=pool)
        assert (reply.status, reply.json["code"]) == (403, "join_token_of_another_fleet")
        assert [(error["field"], error["value"]) for error in reply.json["errors"]] == [("/pool", pool)]
    assert await stored() == before


async def test_name_of_exit_in_another_pool_is_duplicate(demo, make_proxy, make_token, stored):
    await demo("POST", "/api/v1/pools", {"name": "jp", "fleet": "demo", "country": "jp"})
    token = await make_token(Role.EXIT)
    await make_proxy(Role.EXIT).enrol(token, "one", pool="jp")
    before = await stored()
    reply = await make_proxy(Role.EXIT).enrol(token, "one", pool="us")
    assert (reply.status, reply.json["code"]) == (409, "duplicate")
    assert await stored() == before


def request_for(key, hash_) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hash_)
    return request.public_bytes(serialization.Encoding.PEM).decode()


P256 = ec.generate_private_key(ec.SECP256R1())
GOOD = request_for(P256, hashes.SHA256())
TAMPERED = GOOD.replace(GOOD.splitlines()[-2][:4], "AAAA")
REQUESTS = {
    "no PEM": "hello",
    "a certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "PEM of nonsense": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    "another curve": request_for(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
    "another algorithm": request_for(ed25519.Ed25519PrivateKey.generate(), None),
    "a broken signature": TAMPERED,
    "the longest": "x" * 16_384,
    "NUL": "\0",
}


@pytest.mark.parametrize("case", REQUESTS)
async def test_bad_signing_request_is_refused(case, demo, make_proxy, make_token, stored):
    token = await make_token(Role.EXIT)
    before = await stored()
    reply = await make_proxy(Role.EXIT).enrol(token, csr=REQUESTS[case])
    assert (reply.status, reply.json["code"]) == (422, "bad_csr")
    assert [(error["field"], error["value"]) for error in reply.json["errors"]] == [("/csr", None)]
    assert await stored() == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"port": 0}, "/port"),
        ({"address": "a b"}, "/address"),
        ({"name": "A"}, "/name"),
        ({"version": "x" * 65}, "/version"),
        ({"version": "\0"}, "/version"),
        ({"join_token": "x" * 201}, "/join_token"),
        ({"csr": "x" * 16_385}, "/csr"),
        ({"fleet": "demo"}, "/fleet"),
        ({"locality": "eu/a/b"}, "/locality"),
    ],
)
async def test_bad_enrolment_field_is_named(change, field, demo, make_proxy, make_token, stored):
    token = await make_token(Role.EXIT)
    before = await stored()
    reply = await make_proxy(Role.EXIT).enrol(**({"token": token} | change))
    assert (reply.status, [error["field"] for error in reply.json["errors"]]) == (422, [field])
    assert await stored() == before
