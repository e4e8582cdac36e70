"""GET /api/v1/authority/crl: the certificates of proxies that were removed or taken over."""

from __future__ import annotations

import pytest
from cryptography import x509

from model.entities import Role

PATH = "/api/v1/authority/crl"
DER = {"accept": "application/pkix-crl"}


def serial_of(proxy) -> int:
    return x509.load_pem_x509_certificate(proxy.certificate.encode()).serial_number


@pytest.fixture
def read_serials(demo):
    """`await read_serials()`: the serial numbers of a list that the authority signed."""

    async def read() -> set[int]:
        reply = await demo("GET", PATH)
        assert reply.status == 200, reply.body
        crl = x509.load_pem_x509_crl(reply.body)
        assert crl.is_signature_valid(demo.context.authority.value.issuer.public_key())
        return {each.serial_number for each in crl}

    return read


async def test_list_has_certificates_that_a_takeover_ended(demo, exit_proxy, make_proxy, make_token, read_serials):
    assert await read_serials() == set()
    newcomer = make_proxy(Role.EXIT)
    token = await make_token(Role.EXIT, uses=1, proxy_name="one", takes_over=True)
    assert (await newcomer.enrol(token)).status == 201
    assert await read_serials() == {serial_of(exit_proxy)}
    assert (await demo("DELETE", f"/api/v1/exits/{newcomer.id}?approve=shrink")).status < 300
    assert await read_serials() == {serial_of(exit_proxy), serial_of(newcomer)}


async def test_list_comes_in_pem_or_der_and_has_no_names(demo, exit_proxy):
    assert (await demo("DELETE", f"/api/v1/exits/{exit_proxy.id}?approve=shrink")).status < 300
    pem, der = await demo("GET", PATH), await demo("GET", PATH, headers=DER)
    assert pem.headers["content-type"].startswith("application/x-pem-file")
    assert (der.headers["content-type"], der.headers["vary"]) == ("application/pkix-crl", "Accept")
    both = x509.load_pem_x509_crl(pem.body), x509.load_der_x509_crl(der.body)
    assert [[each.serial_number for each in crl] for crl in both] == [[serial_of(exit_proxy)]] * 2
    assert exit_proxy.id.encode() not in der.body


async def test_list_is_for_operators_and_keys_with_its_scope(demo):
    assert (await demo.anonymous("GET", PATH)).status == 401
    for name, status in (("authority", 200), ("pools", 403)):
        made = await demo("POST", "/api/v1/api-keys", {"name": name, "role": "viewer", "scopes": [f"{name}:read"]})
        assert (await demo.holding(made.json["key"])("GET", PATH)).status == status
