"""Login by OIDC."""

from __future__ import annotations

import hmac
import json
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.runtime.auth_state import AuthState
from api.runtime.oidc import OidcProvider as Client
from model.settings import OidcSettings
from tests.api import oidc_provider

LOGIN, CALLBACK = "/api/v1/auth/oidc/login", "/api/v1/auth/oidc/callback"


@pytest.fixture
async def provider(clock):
    async with oidc_provider.run_provider(clock) as running:
        yield running


@pytest.fixture
def configure(make_api, database, provider):
    """`configure(role_claim=…)`: a replica of the API that uses the provider."""

    def make(**more):
        settings = OidcSettings(provider.issuer, provider.client, provider.secret, **more)
        return make_api(database, auth_state=AuthState(oidc_provider=Client(settings)))

    return make


@pytest.fixture
def replica(configure):
    return configure()


@pytest.fixture
async def ada(make_operator, provider):
    return await make_operator("ada", "operator", oidc_subject=f"{provider.issuer}#{provider.subject}")


class Browser:
    """A browser that visits the provider and returns with the login cookie."""

    def __init__(self, provider):
        self.provider, self.cookie, self.address = provider, "", ""

    async def begin(self, api):
        reply = await api.anonymous("GET", LOGIN)
        assert reply.status == 302, reply.body
        self.cookie, self.address = reply.headers["set-cookie"].partition(";")[0], reply.headers["location"]
        return self.provider.authorize(self.address)

    async def finish(self, api, callback, cookie=None):
        headers = {"cookie": self.cookie if cookie is None else cookie}
        return await api.anonymous("GET", f"{CALLBACK}?{oidc_provider.query_of(callback)}", headers=headers)

    async def log_in(self, api):
        return await self.finish(api, await self.begin(api))


@pytest.fixture
def browser(provider):
    return Browser(provider)


def hmac_signed(claims, provider):
    """Sign a token by HMAC with the provider's public key as the secret."""
    pem = provider.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = {"alg": "HS256", "kid": provider.key_id}
    signed = ".".join(oidc_provider.encoded(json.dumps(part).encode()) for part in (head, claims))
    return f"{signed}.{oidc_provider.encoded(hmac.digest(pem, signed.encode(), 'sha256'))}"


def is_refused(reply, code="oidc_refused", status=401):
    assert (reply.status, reply.is_problem, reply.json["code"]) == (status, True, code), reply.body
    return True


async def test_oidc_account_logs_in_as_bound_operator(browser, replica, ada, query):
    reply = await browser.log_in(replica)
    assert reply.status == 200
    assert reply.headers["cache-control"] == "no-store"
    assert (await replica.holding(reply.json["access_token"])("GET", "/api/v1/auth/me")).json["id"] == str(ada.id)
    again = await replica.anonymous("POST", "/api/v1/auth/refresh", {"refresh_token": reply.json["refresh_token"]})
    assert again.status == 200
    (event,) = await query("SELECT * FROM audit_event")
    assert (event["action"], event["actor_id"], event["detail"]["by"]) == ("login", ada.id, "oidc")


async def test_any_replica_accepts_the_callback(browser, configure, ada):
    callback = await browser.begin(configure())
    assert (await browser.finish(configure(), callback)).status == 200


async def test_redirect_carries_state_nonce_and_pkce_challenge(browser, replica, provider):
    callback = await browser.begin(replica)
    parameters = {name: value for name, (value,) in parse_qs(urlsplit(browser.address).query).items()}
    assert parameters["redirect_uri"] == f"http://localhost:8000{CALLBACK}"
    assert len(parameters["nonce"]) == len(parameters["code_challenge"]) == 43
    first, other_callback = parameters, await browser.begin(replica)
    parameters = {name: value for name, (value,) in parse_qs(urlsplit(browser.address).query).items()}
    assert not {parameters[name] for name in ("state", "nonce", "code_challenge")} & set(first.values())
    assert callback["state"] != other_callback["state"]


async def test_login_cookie_is_restricted(replica):
    cookie = (await replica.anonymous("GET", LOGIN)).headers["set-cookie"].lower()
    for attribute in ("httponly", "samesite=lax", "path=/api/v1/auth/oidc", "max-age=600"):
        assert attribute in cookie


async def test_redirect_uri_is_configurable(browser, configure, ada):
    elsewhere = "https://api.example.net/api/v1/auth/oidc/callback"
    api = configure(redirect_uri=elsewhere)
    assert (await browser.log_in(api)).status == 200
    assert elsewhere in parse_qs(urlsplit(browser.address).query)["redirect_uri"]


async def test_unbound_account_is_refused_with_its_subject(browser, replica, provider, query):
    reply = await browser.log_in(replica)
    assert is_refused(reply, "account_not_bound", 403)
    assert f"{provider.issuer}#{provider.subject}" in reply.json["detail"]
    (event,) = await query("SELECT * FROM audit_event")
    assert (event["action"], event["object_id"], event["detail"]) == ("login_failed", None, {"reason": "not_bound"})
    assert provider.subject not in str(event)


async def test_disabled_operator_cannot_log_in_by_oidc(browser, replica, ada, query):
    await query("UPDATE operator SET disabled = true WHERE name = 'ada'")
    assert is_refused(await browser.log_in(replica), "operator_disabled")


# -- the callback ------------------------------------------------------------------------------------------------------


async def test_foreign_or_expired_login_state_is_refused(browser, replica, ada, clock, provider):
    callback = await browser.begin(replica)
    for wrong in (
        {"state": "x"},
        {"state": callback["state"][:-2]},
        {"state": ""},
        {"iss": "https://login.example.net"},
        {"code": ""},
        {"error": "access_denied"},
    ):
        assert is_refused(await browser.finish(replica, callback | wrong)), wrong
    for cookie in ("", "exitplane_login=x", browser.cookie[:-1]):
        assert is_refused(await browser.finish(replica, callback, cookie)), cookie
    another = await Browser(provider).begin(replica)
    assert is_refused(await browser.finish(replica, another))  # with the cookie of the first login
    clock.advance(minutes=10)
    assert is_refused(await browser.finish(replica, callback))
    clock.advance(minutes=-1)
    assert (await browser.finish(replica, callback)).status == 200


async def test_access_token_is_refused_as_state(browser, replica, ada, provider):
    token = (await browser.log_in(replica)).json["access_token"]
    assert is_refused(await browser.finish(replica, {"state": token, "code": "x"}))


async def test_code_works_once_and_for_its_own_login(browser, replica, ada, provider):
    callback = await browser.begin(replica)
    assert (await browser.finish(replica, callback)).status == 200
    assert is_refused(await browser.finish(replica, callback))
    stolen = (await browser.begin(replica))["code"]
    other = Browser(provider)
    assert is_refused(await other.finish(replica, await other.begin(replica) | {"code": stolen}))  # PKCE


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://login.example.net"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"aud": ["exitplane", "another"]},
        {"aud": ["exitplane", "another"], "azp": "another"},
        {"azp": "another"},
        {"nonce": "another"},
        {"nonce": None},
        {"sub": None},
        {"exp": None},
        {"exp": 1},
        {"exp": "soon"},
        {"iat": 2**33},
        {"nbf": 2**33},
        {"at_hash": "another"},
    ],
)
async def test_id_token_with_wrong_claims_is_refused(claims, browser, replica, ada, provider):
    provider.claims = claims
    assert is_refused(await browser.log_in(replica))


@pytest.mark.parametrize(
    "claims", [{"aud": ["exitplane"]}, {"aud": ["exitplane", "b"], "azp": "exitplane"}, {"at_hash": None}]
)
async def test_equivalent_id_token_claims_are_accepted(claims, browser, replica, ada, provider):
    provider.claims = claims
    assert (await browser.log_in(replica)).status == 200


async def test_id_token_with_foreign_signature_is_refused(browser, replica, ada, provider):
    stranger = rsa.generate_private_key(65537, 2048)
    for sign in (
        lambda claims: jwt.encode(claims, stranger, "RS256", headers={"kid": provider.key_id}),
        lambda claims: jwt.encode(claims, stranger, "RS256", headers={"kid": "k-2"}),
        lambda claims: jwt.encode(claims, None, "none", headers={"kid": provider.key_id}),
        lambda claims: hmac_signed(claims, provider),
        lambda claims: jwt.encode(claims, oidc_provider.SECRET * 3, "HS256", headers={"kid": provider.key_id}),
        lambda _: "a.b.c",
        lambda _: "",
        lambda _: None,
    ):
        provider.sign = sign
        assert is_refused(await browser.log_in(replica))


async def test_rotated_provider_keys_are_accepted(browser, replica, ada, provider):
    assert (await browser.log_in(replica)).status == 200
    assert (await browser.log_in(replica)).status == 200
    assert provider.requests == ["metadata", "keys"]
    provider.key, provider.key_id = rsa.generate_private_key(65537, 2048), "k-2"
    assert (await browser.log_in(replica)).status == 200
    assert provider.requests == ["metadata", "keys", "keys"]


async def test_provider_outage_is_503(browser, replica, ada, provider):
    provider.down = True
    reply = await replica.anonymous("GET", LOGIN)
    assert is_refused(reply, "oidc_unavailable", 503)
    assert reply.headers["retry-after"]
    provider.down = False
    assert (await browser.log_in(replica)).status == 200


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://login.example.net"},
        {"token_endpoint": "ftp://x/token"},
        {"token_endpoint": "https://[x"},
        {"jwks_uri": None},
    ],
)
async def test_invalid_provider_metadata_is_an_outage(metadata, replica, provider):
    provider.metadata = metadata
    assert is_refused(await replica.anonymous("GET", LOGIN), "oidc_unavailable", 503)


@pytest.mark.parametrize(("client", "secret"), [("app:1 é+%", "s e/c+r:e%t~&"), ("exitplane", None)])
async def test_client_authenticates_with_any_characters_or_as_public(client, secret, browser, provider, configure, ada):
    provider.client, provider.secret = client, secret
    assert (await browser.log_in(configure())).status == 200


async def test_token_endpoint_error_is_refusal_and_html_is_outage(browser, replica, provider, ada, query):
    provider.answer = lambda: web.json_response({"error": "invalid_client"}, status=401)
    reply = await browser.log_in(replica)
    assert is_refused(reply)
    assert "invalid_client" in reply.json["detail"]
    provider.answer = lambda: web.Response(status=502, text="<html>bad gateway</html>", content_type="text/html")
    assert is_refused(await browser.log_in(replica), "oidc_unavailable", 503)
    assert [row["action"] for row in await query("SELECT action FROM audit_event")] == ["login_failed"]
    provider.answer = None
    assert (await browser.log_in(replica)).status == 200


async def test_callbacks_are_throttled(browser, replica, provider):
    replies = [await browser.finish(replica, {"state": "x", "code": "x"}) for _ in range(22)]
    assert [reply.status for reply in replies] == [401] * 20 + [429] * 2


async def test_oidc_endpoints_are_404_without_provider(api):
    for path in (LOGIN, CALLBACK):
        assert is_refused(await api.anonymous("GET", path), "oidc_not_configured", 404)


# -- provisioning of operators -----------------------------------------------------------------------------------------


@pytest.fixture
def provisioning(configure):
    return configure(role_claim="groups", roles=(("admin", "platform"), ("viewer", "staff")))


async def test_account_with_mapped_role_is_provisioned_once(browser, provisioning, provider, query):
    provider.claims = {"groups": ["staff", "others"]}
    tokens = [(await browser.log_in(provisioning)).json for _ in range(2)]
    mine = [(await provisioning.holding(each["access_token"])("GET", "/api/v1/auth/me")).json for each in tokens]
    assert mine[0] == mine[1]
    assert (mine[0]["name"], mine[0]["role"], mine[0]["has_password"]) == ("ada-l", "viewer", False)
    actions = [row["action"] for row in await query("SELECT action FROM audit_event ORDER BY sequence")]
    assert actions == ["created", "login", "login"]
    everything = str(await query("SELECT * FROM audit_event"))
    assert "ada-l" not in everything
    assert provider.subject not in everything


async def test_highest_mapped_role_counts(browser, provisioning, provider, query):
    provider.claims = {"groups": ["staff", "platform"]}
    assert (await browser.log_in(provisioning)).status == 200
    assert await query("SELECT role FROM operator WHERE name = 'ada-l'") == [{"role": "admin"}]


async def test_role_claim_may_be_nested(browser, configure, provider):
    api = configure(role_claim="realm_access.roles", roles=(("operator", "ops"),))
    provider.claims = {"realm_access": {"roles": ["ops"]}}
    assert (await browser.log_in(api)).status == 200


@pytest.mark.parametrize("groups", [None, [], ["others"], "others", {"staff": True}, 7, ["Staff"]])
async def test_account_without_mapped_role_is_not_provisioned(groups, browser, provisioning, provider, query):
    provider.claims = {"groups": groups}
    assert is_refused(await browser.log_in(provisioning), "account_not_bound", 403)
    assert len(await query("SELECT id FROM operator")) == 1


async def test_taken_name_gets_a_suffix(browser, provisioning, provider, make_operator, query):
    await make_operator("ada-l", "viewer")
    provider.claims = {"groups": "staff"}
    assert (await browser.log_in(provisioning)).status == 200
    names = [row["name"] for row in await query("SELECT name FROM operator WHERE name LIKE 'ada-l%' ORDER BY name")]
    assert len(names) == 2
    assert names[1].startswith("ada-l-")


@pytest.mark.parametrize(
    "claims",
    [
        {"preferred_username": None, "email": "ada@example.net"},
        {"preferred_username": "é☃"},
        {"preferred_username": "0" * 32},
        {"preferred_username": "12345678-1234-1234-1234-123456789012"},
        {"preferred_username": ["x"]},
        {"preferred_username": "x" * 300},
    ],
)
async def test_any_account_name_becomes_a_valid_operator_name(claims, browser, provisioning, provider, query):
    provider.claims = {"groups": "staff", **claims}
    reply = await browser.log_in(provisioning)
    me = (await provisioning.holding(reply.json["access_token"])("GET", "/api/v1/auth/me")).json
    shown = await provisioning("PATCH", f"/api/v1/operators/{me['id']}", {"name": me["name"], "role": "viewer"})
    assert shown.status == 200, shown.body
