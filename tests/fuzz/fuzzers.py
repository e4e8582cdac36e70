"""Fuzzers of the parsers that read what strangers send: each has inputs, and a check that fails on a crash or a broken promise."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, Final
from uuid import UUID

import dns.message
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import ValidationError

from agent.net.dns_client import BadDnsAnswer, parse_answer
from agent.vpn.errors import BadTunnelFile
from agent.vpn.openvpn.client_file import parse_openvpn
from agent.vpn.openvpn.file_options import INLINE, PASSED_ON
from agent.vpn.wireguard.wg_quick import parse_wg_quick
from api.features.enrolment.schemas import ExitEnrolmentIn
from api.features.explain.service import _parse_target
from api.features.heartbeats.schemas import ExitHeartbeatIn, ProxyHeartbeatIn
from api.features.heartbeats.service import read_heartbeat
from api.http.problems import Problem
from model import authority, request_signature
from model.identity import Identity, Role, parse_uri
from tests.fuzz.damage import damaged_bytes, damaged_text
from tests.fuzz.lua_script import LuaScript
from xds.translate.client_intent import NO_LOCATION, RequestedLocation, parse_target, read_intent
from xds.translate.forbidden_targets import forbidden_addresses
from xds.translate.gateway_filters import CLIENT_INTENT_SCRIPT
from xds.translate.parent_failures import PARENT_SCRIPT

NOW: Final = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Fuzzer:
    """A parser under test. `check` raises for an input that the parser neither reads nor refuses as it documents."""

    name: str
    inputs: SearchStrategy[Any]
    check: Callable[[Any], None]


# -- tunnels' files, which a provider or a web site hands out

_KEYS: Final = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
_WIREGUARD: Final = (
    f"[Interface]\nPrivateKey = {_KEYS[0]}\nAddress = 10.64.0.2/32, fd00::2/128\nDNS = 10.64.0.1\nMTU = 1420\n"
    f"[Peer]\nPublicKey = {_KEYS[1]}\nEndpoint = vpn.example.net:51820\nAllowedIPs = 0.0.0.0/0, ::/0\n"
)
_WIREGUARD_PIECES: Final = [
    *("PostUp = id\n", "Table = off\n", "FwMark = 0x1\n", "PresharedKey = ", "PersistentKeepalive = ", "[Peer]\n"),
    *("[Interface]\n", "#", "=", ",", "/", "[::1]:1", "0.0.0.0/0", "\r", "\n", "\0", "\u2028", "SaveConfig = true\n"),
]
_OPENVPN: Final = (
    "client\ndev tun\nproto udp\nremote vpn.example.net 1194\nauth-user-pass\ncipher AES-256-GCM\n"
    "<ca>\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n</ca>\n<tls-auth>\nKEY\n</tls-auth>\n"
)
_OPENVPN_PIECES: Final = [
    *("up id\n", "--up id\n", "plugin x\n", "script-security 2\n", "management 0 1\n", "</ca>", " </ca>\n", "<ca>\n"),
    *(
        "</tls-auth>\n",
        "<tls-auth>\n",
        "<key>\n",
        "A" * 255,
        "A" * 254,
        '"',
        "'",
        "\\",
        "#",
        ";",
        "\r",
        "\0",
        "\t",
        "\f",
    ),
]
_LINE: Final = 255
"""OpenVPN reads a file in stretches of so many bytes, also within a line (OPTION_LINE_SIZE in its source, less one)."""


def _check_wireguard(text: str) -> None:
    message = ""
    try:
        parse_wg_quick(text, "wg0.conf")
    except BadTunnelFile as error:
        message = str(error)
    assert _KEYS[0] not in message


def _check_openvpn(text: str) -> None:
    with suppress(BadTunnelFile):
        for option in _options_that_openvpn_reads(parse_openvpn(text, "a.ovpn").render()):
            assert option in PASSED_ON, option


def _options_that_openvpn_reads(config: str) -> Iterator[str]:
    """Yield the name of each option outside of blocks, as OpenVPN finds them (`read_inline_file` in its source)."""
    block = None
    for line in config.encode().split(b"\n"):
        for start in range(0, len(line) or 1, _LINE):
            words = line[start : start + _LINE].lstrip(b" \t\n\v\f\r").split()
            first = words[0].decode(errors="replace") if words else ""
            if block is not None:
                block = None if first.startswith(f"</{block}>") else block
            elif first[1:-1] in INLINE and first[0] == "<":
                block = first[1:-1]
            elif first:
                yield first


# -- what agents send

_CERTIFICATE_KEY: Final = ec.derive_private_key(7, ec.SECP256R1())
_PRIVATE_PEM: Final = _CERTIFICATE_KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
_PUBLIC_PEM: Final = (
    _CERTIFICATE_KEY.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
_HEARTBEAT: Final = (
    b'{"envoy": "up", "tunnel": "up", "open_requests": 1, "carried_bytes": 2, "reason": "a", "version": "1",'
    b' "observation": {"address": "192.0.2.1", "country": "de", "city": "Berlin", "leak": "", "error": ""},'
    b' "order_results": []}'
)
_ENROLMENT: Final = (
    b'{"join_token": "ep-exit-1", "csr": "-----BEGIN CERTIFICATE REQUEST-----", "name": "us-1", "pool": "us",'
    b' "address": "198.51.100.7", "port": 8443, "bind_address": "::", "egress_address": "198.51.100.8",'
    b' "locality": "eu/de", "version": "1", "parent": {"address": "10.0.0.1", "port": 8888, "username": "a", "password": "b"}}'
)
_PATH: Final = "/api/v1/exits/00000000-0000-0000-0000-000000000001/heartbeat"
_TOKENS: Final = [
    f"Bearer {request_signature.sign(_PRIVATE_PEM, 'thumbprint', _PATH, _HEARTBEAT, NOW)}",
    "Bearer eyJhbGciOiJub25lIiwieDV0I1MyNTYiOiJhIn0.e30.",
]
_IDENTITY: Final = Identity(UUID(int=1), Role.EXIT, UUID(int=2))
_AUTHORITY: Final = authority.create_authority(NOW)


def _signing_request(key: Any, *names: x509.GeneralName) -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "exit")])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


_REQUESTS: Final = [
    _signing_request(_CERTIFICATE_KEY),
    _signing_request(_CERTIFICATE_KEY, x509.UniformResourceIdentifier(_IDENTITY.uri), x509.DNSName("a")),
    _signing_request(ec.derive_private_key(7, ec.SECP384R1())),
]


def _as_pem(der: bytes) -> str:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


_DER: Final = [each.public_bytes(serialization.Encoding.DER) for each in _REQUESTS]
_SIGNING_REQUESTS: Final = damaged_bytes(_DER).map(_as_pem) | damaged_text([_as_pem(each) for each in _DER])


def _check_heartbeat(body: bytes) -> None:
    for schema in (ExitHeartbeatIn, ProxyHeartbeatIn):
        with suppress(Problem):
            assert read_heartbeat(schema, body, NOW).reason.isprintable()


def _check_enrolment(body: bytes) -> None:
    with suppress(ValidationError):
        assert ExitEnrolmentIn.model_validate_json(body).name


def _check_signature(authorization: str) -> None:
    with suppress(request_signature.BadSignature):
        claim = request_signature.read(authorization)
        assert request_signature.verify(claim, _PUBLIC_PEM, _PATH, _HEARTBEAT, NOW) == NOW


def _check_signing_request(pem: str) -> None:
    with suppress(authority.BadSigningRequest):
        certificate = x509.load_pem_x509_certificate(authority.sign_request(_AUTHORITY, pem, _IDENTITY, NOW).encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [each.value for each in names] == [_IDENTITY.uri, _IDENTITY.server_name]


def _check_identity(uri: str) -> None:
    with suppress(ValueError):
        assert parse_uri(uri).role in Role


# -- what clients and their targets send

_CLIENT_INTENT: Final = LuaScript('local LISTENER = { country = "de", countries = {} }\n' + CLIENT_INTENT_SCRIPT)
_PARENT: Final = LuaScript(PARENT_SCRIPT)
_USERS: Final = ["alice", "alice-country-de-city-new_york-session-a1", "a-pool-us-east-session-x", "--", "country-uk"]
_USER_PIECES: Final = ["-", "-country-", "-pool-", "-session-", "-city-", "country", "uk", "é", "\x7f", " ", "?", "İ"]
_HOSTS: Final = [
    *("example.com", "192.0.2.1", "10.0.0.1", "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "[::1]", "[2001:db8::1]"),
    *("[2606:4700::1111]", "8.8.8.8", "localhost", "a.home.arpa", "xn--bcher-kva.example", "[::ffff:10.0.0.1]"),
]
_HOST_PIECES: Final = [".", "..", "0", "0x", "1", "255", "256", "%", ":", "[", "]", "_", "-", "local", "é", "10", "127"]
_QUESTION: Final = dns.message.make_query("example.com", "A", id=7)


_CREDENTIALS: Final = st.binary(max_size=40) | damaged_bytes(
    [b"Basic " + base64.b64encode(b"alice-country-de-session-a:secret"), b"basic  YTpi==", b"Bearer a.b.c"]
)
_FORBIDDEN: Final = [
    ip_network(f"{each.address_prefix}/{each.prefix_len}") for each in forbidden_addresses(None).ranges
]


def _dns_answers() -> list[bytes]:
    answer = dns.message.make_response(_QUESTION)
    answer.find_rrset(answer.answer, _QUESTION.question[0].name, 1, 1, create=True)
    return [_QUESTION.to_wire(), answer.to_wire()]


def _check_credentials(authorization: bytes) -> None:
    outcome = _CLIENT_INTENT.run(
        {b":method": b"GET", b":authority": b"a.example:80", b"proxy-authorization": authorization}
    )
    assert b"proxy-authorization" not in outcome.headers
    for name, value in outcome.headers.items():
        assert name.startswith((b":", b"x-ep-", b"x-envoy-retry-on")), name
        assert value.isascii()
        assert value.decode().isprintable()


def _check_user_name(user: str) -> None:
    """The script and its counterpart for `explain` read the same intent."""
    user = user.replace(":", "")  # ends the user name in credentials
    encoded = base64.b64encode(f"{user}:secret".encode())
    headers = {b":method": b"CONNECT", b":authority": b"a.example:443", b"proxy-authorization": b"Basic " + encoded}
    outcome = _CLIENT_INTENT.run(headers)
    if outcome.status is not None:
        assert len(encoded) + len("Basic ") > 2048
        return
    intent = read_intent(NO_LOCATION, None, user, NO_LOCATION, RequestedLocation(country="de"))
    read = [intent.location.country, intent.location.city, intent.location.pool, intent.session, intent.user]
    written = [outcome.headers.get(f"x-ep-{key}".encode()) for key in ("country", "city", "pool", "session", "user")]
    assert [None if each is None else each.decode() for each in written] == read


def _check_target(host: str) -> None:
    """The script and its counterpart for `explain` normalise the same target."""
    if set(host) & set("[]:"):
        return
    outcome = _CLIENT_INTENT.run({b":method": b"CONNECT", b":authority": f"{host}:443".encode()})
    target = parse_target(host, 443)
    assert outcome.headers[b"x-ep-host"].decode() == target.host
    assert outcome.headers.get(b"x-ep-domain", b"").decode() == (target.domain or "")


def _check_parent_target(host: str) -> None:
    """The script lets nothing through that any resolver could take for a private address."""
    outcome = _PARENT.run({b":method": b"CONNECT", b":authority": f"{host}:443".encode(errors="surrogatepass")})
    if outcome.status is None:
        address = _address_of(host)
        assert address is None or not any(address in network for network in _FORBIDDEN), address


def _address_of(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a lenient resolver takes a host for, as inet_aton(3) does; None for a name."""
    try:
        if host.startswith("["):
            return IPv6Address(host[1:-1])
        return IPv4Address(socket.inet_aton(host.rstrip(".")))
    except (OSError, ValueError):
        return None


def _check_explained_target(text: str) -> None:
    with suppress(Problem):
        host, port = _parse_target(text)
        assert host
        assert 1 <= port <= 65535


def _check_dns_answer(wire: bytes) -> None:
    with suppress(BadDnsAnswer):
        parse_answer(wire, _QUESTION)


FUZZERS: Final = (
    Fuzzer("wireguard_file", damaged_text([_WIREGUARD], _WIREGUARD_PIECES), _check_wireguard),
    Fuzzer("openvpn_file", damaged_text([_OPENVPN], _OPENVPN_PIECES), _check_openvpn),
    Fuzzer("heartbeat", damaged_bytes([_HEARTBEAT]), _check_heartbeat),
    Fuzzer("enrolment", damaged_bytes([_ENROLMENT]), _check_enrolment),
    Fuzzer("signature", damaged_text(_TOKENS, [".", "=", "Bearer ", "\\ud800", "é"]), _check_signature),
    Fuzzer("signing_request", _SIGNING_REQUESTS, _check_signing_request),
    Fuzzer("identity", damaged_text([_IDENTITY.uri], ["/", "exit", "gateway"]), _check_identity),
    Fuzzer("credentials", _CREDENTIALS, _check_credentials),
    Fuzzer("user_name", damaged_text(_USERS, _USER_PIECES), _check_user_name),
    Fuzzer("target", damaged_text(_HOSTS, _HOST_PIECES), _check_target),
    Fuzzer("parent_target", damaged_text(_HOSTS, _HOST_PIECES), _check_parent_target),
    Fuzzer("explained_target", damaged_text(_HOSTS, [*_HOST_PIECES, "https://", "@", "/"]), _check_explained_target),
    Fuzzer("dns_answer", damaged_bytes(_dns_answers()), _check_dns_answer),
)
