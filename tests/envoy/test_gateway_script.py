"""The gateway's Lua script in a real Envoy, within the listener that gateways are sent."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPMessage
from uuid import UUID

import pytest
from betterproto2 import OutputFormat

from model.entities import Listener
from tests.envoy.envoy_process import BOUND_S
from tests.envoy.static_gateway import StaticGateway, running
from xds.translate import names
from xds.translate.gateway_listener import translate_gateway_listener

pytestmark = pytest.mark.envoy

ECHOED = (
    "x-ep-country",
    "x-ep-pool",
    "x-envoy-original-path",
    "x-envoy-retry-on",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-of-tomorrow",
    "exit-country",
    "proxy-authorization",
    "proxy-connection",
    "authorization",
    "x-epoch",
)
Ask = Callable[..., dict[str, str]]


DECLARED = Listener(UUID(int=1), UUID(int=2), "127.0.0.1", 0)
ALL = (*names.INTENT_HEADERS, ":authority")


def echoing_listener() -> dict:
    """Return a gateway listener whose only route answers with the request's headers after the script."""
    listener = translate_gateway_listener(DECLARED).to_dict(output_format=OutputFormat.PROTO_JSON, casing=str)
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    del manager["http_filters"][1]  # user groups come by ECDS
    echo = [
        {"header": {"key": f"saw-{name.strip(':')}", "value": f"%REQ({name})%"}}
        for name in dict.fromkeys((*ECHOED, *ALL))
    ]
    answer = {"direct_response": {"status": 200}, "response_headers_to_add": echo}
    routes = [{"match": {"prefix": "/"}, **answer}, {"match": {"connect_matcher": {}}, **answer}]
    manager["route_config"] = {"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": routes}]}
    return listener


@pytest.fixture(scope="module")
def gateway(tmp_path_factory) -> Iterator[StaticGateway]:
    with running({"listeners": [echoing_listener()]}, tmp_path_factory.mktemp("envoy")) as started:
        yield started


@pytest.fixture(scope="module")
def gateway_port(gateway: StaticGateway) -> int:
    (port,) = gateway.ports.values()
    return port


def exchange(port: int, method: str, target: str, headers: Iterable[tuple[str, str]]) -> tuple[int, HTTPMessage, bytes]:
    """Send one request on a new connection."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=BOUND_S)) as connection:
        connection.putrequest(method, target)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        reply = connection.getresponse()
        return reply.status, reply.headers, b"" if method == "CONNECT" else reply.read()


@pytest.fixture
def ask(gateway_port: int) -> Ask:
    """`ask(*headers)` sends a request and returns the echoed headers that it has after the script."""

    def send(*headers: tuple[str, str], method: str = "GET", target: str = "/") -> dict[str, str]:
        status, answered, _ = exchange(gateway_port, method, target, headers)
        assert status == 200, answered
        saw = {name: answered[f"saw-{name}"] for name in ECHOED}
        given_by_the_gateway = {("x-envoy-retry-on", "reset")}
        return {
            name: value
            for name, value in saw.items()
            if value not in (None, "", "-") and (name, value) not in given_by_the_gateway
        }

    return send


def basic(credentials: str | bytes) -> tuple[str, str]:
    raw = credentials.encode() if isinstance(credentials, str) else credentials
    return ("proxy-authorization", f"Basic {base64.b64encode(raw).decode()}")


def encoded(text: str) -> tuple[str, str]:
    return ("proxy-authorization", text)


@pytest.mark.parametrize(
    ("user", "country"),
    [
        ("alice-country-de", "de"),
        ("alice-country-DE", "de"),
        ("alice-country-uk", "gb"),
        ("alice-country-UK", "gb"),
        ("alice-country-de-session-x", "de"),
        ("alice-session-x-country-de", "de"),
        ("alice-country-de-country-us", "de"),
        ("alice-country-zz", "zz"),
        ("country-country-de", "de"),
    ],
)
def test_country_is_read_from_user_name(ask, user, country):
    assert ask(basic(f"{user}:secret")) == {"x-ep-country": country}


@pytest.mark.parametrize(
    "user",
    [
        "alice",
        "alice-country",
        "alice-country-",
        "country-de",
        "-country-de",
        "alice-session-country",
        "alice-session-country-de",
        "alicecountry-de",
        "alice-Country-de",
        "",
    ],
)
def test_user_name_without_country_pair_states_no_country(ask, user):
    assert ask(basic(f"{user}:secret")) == {}


@pytest.mark.parametrize(
    ("credentials", "country"),
    [
        ("alice-country-de", "de"),
        ("alice-country-de:", "de"),
        ("alice-country-de:se:cr:et", "de"),
        ("alice:-country-de", None),
        ("alice-country-de:pässwörd", "de"),
        (b"alice-country-de:\xff\xfe\x00", "de"),
    ],
)
def test_password_is_not_part_of_user_name(ask, credentials, country):
    assert ask(basic(credentials)).get("x-ep-country") == country


@pytest.mark.parametrize("padding", ["", "=", "==", "==="])
@pytest.mark.parametrize("user", ["a-country-de", "al-country-de", "ali-country-de"])
def test_base64_padding_is_optional(ask, user, padding):
    bare = base64.b64encode(f"{user}:x".encode()).decode().rstrip("=")
    assert ask(encoded(f"Basic {bare}{padding}")) == {"x-ep-country": "de"}


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic",
        "Basic !!!!",
        "Basic YWxpY2UtY291bnRyeS1kZTp4!",
        "Basic YWxpY2U=YWxpY2U",
        "Basic ====",
        "Basic YWxpY2UtY291bnRyeS1kZTp4 YWxpY2U=",
        "Bearer YWxpY2UtY291bnRyeS1kZTp4",
        "YWxpY2UtY291bnRyeS1kZTp4",
    ],
)
def test_malformed_authorization_states_no_country(ask, authorization):
    assert ask(encoded(authorization)) == {}


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC", "Basic  "])
def test_scheme_is_case_insensitive(ask, scheme):
    assert ask(encoded(f"{scheme} YWxpY2UtY291bnRyeS1kZTp4")) == {"x-ep-country": "de"}


@pytest.mark.parametrize(
    "credentials",
    [
        pytest.param("=" * 2_000 + "A", id="a long row of padding that is none"),
        pytest.param("A" * 2_000, id="a long user name without a pair"),
        pytest.param(base64.b64encode(b"a" + b"-" * 1_500).decode(), id="a long row of dashes"),
        pytest.param(base64.b64encode(b"a" + b"-b" * 750).decode(), id="very many pairs"),
        pytest.param("x" + " " * 1_000 + "y" + " " * 1_000 + "z", id="long rows of spaces"),
    ],
)
def test_longest_credentials_do_not_block_worker(gateway, ask, credentials):
    # a worker carries many tunnels, so a hostile request must not keep it busy
    used_s = gateway.envoy.processor_s()
    for _ in range(5):
        assert ask(encoded(f"Basic {credentials}")) == {}
    assert gateway.envoy.processor_s() - used_s < 1


def test_country_at_end_of_long_user_name_is_found(ask):
    assert ask(basic("alice" + "-key-value" * 100 + "-country-de:x")) == {"x-ep-country": "de"}


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_longer_credentials_are_refused(gateway_port, method):
    """They are not dropped: the client would leave from another place than it asked for."""
    status, _, _ = exchange(
        gateway_port, method, "/" if method == "GET" else "example.com:443", [encoded("Basic " + "A" * 2_043)]
    )
    assert status == 431


@pytest.mark.parametrize("value", ["de\r\nx", "d\0e", "de us", "dé"])
def test_invalid_country_becomes_unserved_country(ask, value):
    assert set(ask(basic(f"alice-country-{value}:x"))["x-ep-country"]) <= {*"deusx", "?"}
    assert "?" in ask(basic(f"alice-country-{value}:x"))["x-ep-country"]


@pytest.mark.parametrize(("value", "country"), [("us", "us"), ("US", "us"), ("uk", "gb"), ("de, us", "de??us")])
def test_country_is_read_from_header(ask, value, country):
    assert ask(("exit-country", value)) == {"x-ep-country": country}


def test_header_overrides_user_name(ask):
    assert ask(("exit-country", "us"), basic("alice-country-de:x")) == {"x-ep-country": "us"}


def test_repeated_header_states_no_single_country(ask):
    assert ask(("exit-country", "us"), ("exit-country", "de"))["x-ep-country"] not in ("us", "de")


@pytest.mark.parametrize("name", ["x-ep-country", "X-EP-Country", "x-ep-pool"])
def test_client_cannot_set_internal_header(ask, name):
    assert ask((name, "us")) == {}
    assert ask((name, "us"), (name, "jp"), basic("alice-country-de:x")) == {"x-ep-country": "de"}


def test_all_internal_headers_are_stripped_together(ask):
    claimed = [("x-ep-country", "us"), ("x-ep-pool", "us"), ("x-envoy-of-tomorrow", "1")]
    assert ask(*claimed) == ask(*claimed[::-1]) == {}


@pytest.mark.parametrize(
    "name", ["x-envoy-original-path", "x-envoy-retry-on", "x-envoy-upstream-rq-timeout-ms", "x-envoy-of-tomorrow"]
)
def test_client_cannot_set_envoy_headers(ask, name):
    assert ask((name, "1"), ("exit-country", "us")) == {"x-ep-country": "us"}


@pytest.mark.parametrize(
    ("method", "retried"),
    [
        *[(method, True) for method in ("CONNECT", "GET", "HEAD", "OPTIONS")],
        *[(method, False) for method in ("POST", "PUT", "PATCH", "DELETE")],
    ],
)
def test_only_safe_methods_are_retried_after_reset(gateway_port, method, retried):
    target = "example.com:443" if method == "CONNECT" else "/"
    _, answered, _ = exchange(gateway_port, method, target, [("content-length", "0")])
    assert (answered["saw-x-envoy-retry-on"] == "reset") is retried


def test_proxy_headers_are_not_forwarded(ask):
    meant = [basic("alice-country-de:x"), ("proxy-connection", "keep-alive"), ("exit-country", "us")]
    assert ask(*meant) == {"x-ep-country": "us"}


def test_target_headers_are_forwarded(ask):
    meant = {"authorization": "Basic dDp0", "x-epoch": "1"}
    assert ask(*meant.items()) == meant


def test_connect_states_country_in_same_way(ask):
    assert ask(basic("alice-country-de:x"), method="CONNECT", target="example.com:443") == {"x-ep-country": "de"}


def test_request_without_intent_states_none(ask):
    assert ask() == {}


# -- all internal headers ---------------------------------------------------------------------------------------------


@pytest.fixture
def understood(gateway_port: int) -> Ask:
    """`understood(*headers)` returns the internal headers of a request, without their prefix."""

    def send(*headers: tuple[str, str], method: str = "GET", target: str = "http://example.com/") -> dict[str, str]:
        status, answered, _ = exchange(gateway_port, method, target, headers)
        assert status == 200, answered
        saw = {name.removeprefix("x-ep-").strip(":"): answered[f"saw-{name.strip(':')}"] for name in ALL}
        return {name: value for name, value in saw.items() if value not in (None, "", "-")}

    return send


WHERE = ("country", "city", "pool", "session", "user")


@pytest.mark.parametrize(
    ("user", "headers", "expected"),
    [
        ("alice", {}, {"user": "alice"}),
        ("Alice-country-DE-city-New_York", {}, {"user": "alice", "country": "de", "city": "newyork"}),
        ("alice-city-berlin-country-de", {}, {"user": "alice", "country": "de", "city": "berlin"}),
        ("alice-pool-my-fast--one-session-x", {}, {"user": "alice", "pool": "my-fast--one", "session": "x"}),
        ("alice-country-us-pool-fast", {}, {"user": "alice", "pool": "fast"}),
        ("mary-ann-country-de", {}, {"user": "mary-ann", "country": "de"}),
        ("alice-city-berlin", {}, {"user": "alice", "city": "berlin"}),
        ("alice-country-de-session-Abc123", {}, {"user": "alice", "country": "de", "session": "abc123"}),
        ("alice-country-de-city-!!", {}, {"user": "alice", "country": "de", "city": "?"}),
        ("alice-country-de", {"exit-pool": "fast"}, {"user": "alice", "pool": "fast"}),
        ("alice-pool-fast", {"exit-country": "us"}, {"user": "alice", "country": "us"}),
        ("alice-country-de-city-berlin", {"exit-country": "us"}, {"user": "alice", "country": "us"}),
        ("alice-country-de", {"exit-city": "berlin"}, {"user": "alice", "city": "berlin"}),
        ("alice-session-one", {"exit-session": "two"}, {"user": "alice", "session": "two"}),
        ("alice-pool-" + "x" * 200, {}, {"user": "alice", "pool": "?"}),
        ("x" * 200, {}, {"user": "?"}),
        ("", {"exit-country": "de", "exit-city": "New York"}, {"country": "de", "city": "newyork"}),
        ("", {"exit-country": "de", "exit-pool": ""}, {"country": "de"}),
    ],
)
def test_intent_is_parsed(understood, user, headers, expected):
    sent = [*headers.items(), *([basic(f"{user}:x")] if user else [])]
    saw = understood(*sent)
    assert {name: saw[name] for name in WHERE if name in saw} == expected


@pytest.mark.parametrize(
    ("method", "target", "host", "port", "domain"),
    [
        ("CONNECT", "www.Example.com:443", "www.example.com", "443", "com.example.www."),
        ("CONNECT", "example.com.:8443", "example.com", "8443", "com.example."),
        ("CONNECT", "[2001:DB8::1]:443", "2001:db8::1", "443", None),
        ("CONNECT", "10.1.2.3:0443", "10.1.2.3", "443", None),
        ("CONNECT", "x..example.com:443", "?", "443", None),
        ("CONNECT", "203.0.113.002:443", "?", "443", None),
        ("CONNECT", "0203.0.113.2:443", "?", "443", None),
        ("CONNECT", "203.0.113.256:443", "?", "443", None),
        ("CONNECT", "203.0.28930:443", "?", "443", None),
        ("CONNECT", "3405803778.:443", "?", "443", None),
        ("CONNECT", "203.0.113.0x2:443", "?", "443", None),
        ("CONNECT", "0XCB007102:443", "?", "443", None),
        ("CONNECT", "1.2.3.4.5:443", "?", "443", None),
        ("CONNECT", "203.0.113.0:443", "203.0.113.0", "443", None),
        ("CONNECT", "4.3.2.1.example:443", "4.3.2.1.example", "443", "example.1.2.3.4."),
        ("GET", "http://example.com/", "example.com", "80", "com.example."),
        ("GET", "http://example.com:8080/", "example.com", "8080", "com.example."),
        ("GET", "http://[::1]/", "::1", "80", None),
        ("GET", "http://localhost/", "localhost", "80", "localhost."),
        ("GET", f"http://{'a' * 300}/", "?", "?", None),
    ],
)
def test_target_is_parsed(understood, method, target, host, port, domain):
    saw = understood(method=method, target=target)
    assert (saw.get("host"), saw.get("port"), saw.get("domain")) == (host, port, domain)


def test_huge_target_does_not_block_worker(gateway, understood):
    used_s = gateway.envoy.processor_s()
    assert understood(method="GET", target=f"http://{'1' * 20_000}/")["host"] == "?"
    assert gateway.envoy.processor_s() - used_s < 1


def test_time_is_gateways_in_utc(understood):
    before = datetime.now(UTC)
    said = understood()["time"]
    assert said in {f"{at.weekday()}-{at:%H%M}" for at in (before, datetime.now(UTC))}


@pytest.mark.parametrize("name", names.INTENT_HEADERS)
def test_client_cannot_set_internal_metadata(understood, name):
    assert "forged" not in understood((name, "forged"), (name.upper(), "forged")).values()
