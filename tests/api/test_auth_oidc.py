"""Logging in at an OIDC provider."""

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
    """`configure(role_claim=…)`: a replica of an API that knows the provider."""

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
    """Goes to the provider, and comes back with the cookie that it was given."""

    def __init__(self, provider):
        self.provider, self.cookie, self.address = provider, "", ""

    async def begin(self, api):
        reply = await api.anonymous("GET", LOGIN)
        assert reply.status == 302, reply.body
        self.cookie, self.address = reply.headers["set-cookie"].partition(";")[0], reply.headers["location"]
        return self.provider.authorize(self.address)

    async def finish(self, api, said, cookie=None):
        headers = {"cookie": self.cookie if cookie is None else cookie}
        return await api.anonymous("GET", f"{CALLBACK}?{oidc_provider.query_of(said)}", headers=headers)

    async def log_in(self, api):
        return await self.finish(api, await self.begin(api))


@pytest.fixture
def browser(provider):
    return Browser(provider)


def hmac_signed(claims, provider):
    """A token whose HMAC is by the provider's public key, which everybody knows."""
    pem = provider.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = {"alg": "HS256", "kid": provider.key_id}
    signed = ".".join(oidc_provider.encoded(json.dumps(part).encode()) for part in (head, claims))
    return f"{signed}.{oidc_provider.encoded(hmac.digest(pem, signed.encode(), 'sha256'))}"


def refused(reply, code="oidc_refused", status=401):
    assert (reply.status, reply.is_problem, reply.json["code"]) == (status, True, code), reply.body
    return True


async def test_an_account_logs_in_as_the_operator_it_is_bound_to(browser, replica, ada, query):
    reply = await browser.log_in(replica)
    assert reply.status == 200
    assert reply.headers["cache-control"] == "no-store"
    assert (await replica.holding(reply.json["access_token"])("GET", "/api/v1/auth/me")).json["id"] == str(ada.id)
    again = await replica.anonymous("POST", "/api/v1/auth/refresh", {"refresh_token": reply.json["refresh_token"]})
    assert again.status == 200
    (event,) = await query("SELECT * FROM audit_event")
    assert (event["action"], event["actor_id"], event["detail"]["by"]) == ("login", ada.id, "oidc")


async def test_any_replica_may_take_the_callback(browser, configure, ada):
    said = await browser.begin(configure())
    assert (await browser.finish(configure(), said)).status == 200


async def test_the_browser_is_sent_with_what_proves_it_later(browser, replica, provider):
    said = await browser.begin(replica)
    asked = {name: value for name, (value,) in parse_qs(urlsplit(browser.address).query).items()}
    assert asked["redirect_uri"] == f"http://localhost:8000{CALLBACK}"
    assert len(asked["nonce"]) == len(asked["code_challenge"]) == 43
    first, said_again = asked, await browser.begin(replica)
    asked = {name: value for name, (value,) in parse_qs(urlsplit(browser.address).query).items()}
    assert not {asked[name] for name in ("state", "nonce", "code_challenge")} & set(first.values())
    assert said["state"] != said_again["state"]


async def test_the_cookie_is_for_this_alone(replica):
    cookie = (await replica.anonymous("GET", LOGIN)).headers["set-cookie"].lower()
    for attribute in ("httponly", "samesite=lax", "path=/api/v1/auth/oidc", "max-age=600"):
        assert attribute in cookie


async def test_where_the_browser_comes_back_to_may_be_set(browser, configure, ada):
    elsewhere = "https://api.example.net/api/v1/auth/oidc/callback"
    api = configure(redirect_uri=elsewhere)
    assert (await browser.log_in(api)).status == 200
    assert elsewhere in parse_qs(urlsplit(browser.address).query)["redirect_uri"]


async def test_an_account_of_nobody_is_told_what_to_ask_for(browser, replica, provider, query):
    reply = await browser.log_in(replica)
    assert refused(reply, "account_not_bound", 403)
    assert f"{provider.issuer}#{provider.subject}" in reply.json["detail"]
    (event,) = await query("SELECT * FROM audit_event")
    assert (event["action"], event["object_id"], event["detail"]) == ("login_failed", None, {"reason": "not_bound"})
    assert provider.subject not in str(event)


async def test_who_is_disabled_does_not_log_in(browser, replica, ada, query):
    await query("UPDATE operator SET disabled = true WHERE name = 'ada'")
    assert refused(await browser.log_in(replica), "operator_disabled")


# -- what comes back ---------------------------------------------------------------------------------------------------


async def test_a_login_that_began_elsewhere_or_long_ago_is_refused(browser, replica, ada, clock, provider):
    said = await browser.begin(replica)
    for wrong in (
        {"state": "x"},
        {"state": said["state"][:-2]},
        {"state": ""},
        {"iss": "https://login.example.net"},
        {"code": ""},
        {"error": "access_denied"},
    ):
        assert refused(await browser.finish(replica, said | wrong)), wrong
    for cookie in ("", "exitplane_login=x", browser.cookie[:-1]):
        assert refused(await browser.finish(replica, said, cookie)), cookie
    another = await Browser(provider).begin(replica)
    assert refused(await browser.finish(replica, another))  # with the cookie of this one
    clock.advance(minutes=10)
    assert refused(await browser.finish(replica, said))
    clock.advance(minutes=-1)
    assert (await browser.finish(replica, said)).status == 200


async def test_an_access_token_is_no_state(browser, replica, ada, provider):
    token = (await browser.log_in(replica)).json["access_token"]
    assert refused(await browser.finish(replica, {"state": token, "code": "x"}))


async def test_a_code_is_good_once_and_with_its_own_login(browser, replica, ada, provider):
    said = await browser.begin(replica)
    assert (await browser.finish(replica, said)).status == 200
    assert refused(await browser.finish(replica, said))
    stolen = (await browser.begin(replica))["code"]
    other = Browser(provider)
    assert refused(await other.finish(replica, await other.begin(replica) | {"code": stolen}))  # PKCE


@pytest.mark.parametrize(
    "said",
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
async def test_an_id_token_that_says_anything_else_is_refused(said, browser, replica, ada, provider):
    provider.said = said
    assert refused(await browser.log_in(replica))


@pytest.mark.parametrize(
    "said", [{"aud": ["exitplane"]}, {"aud": ["exitplane", "b"], "azp": "exitplane"}, {"at_hash": None}]
)
async def test_an_id_token_may_say_it_in_other_words(said, browser, replica, ada, provider):
    provider.said = said
    assert (await browser.log_in(replica)).status == 200


async def test_an_id_token_that_the_provider_did_not_sign_is_refused(browser, replica, ada, provider):
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
        assert refused(await browser.log_in(replica))


async def test_a_provider_may_change_its_keys(browser, replica, ada, provider):
    assert (await browser.log_in(replica)).status == 200
    assert (await browser.log_in(replica)).status == 200
    assert provider.asked == ["metadata", "keys"]
    provider.key, provider.key_id = rsa.generate_private_key(65537, 2048), "k-2"
    assert (await browser.log_in(replica)).status == 200
    assert provider.asked == ["metadata", "keys", "keys"]


async def test_a_provider_that_is_down_is_none_of_the_operators_fault(browser, replica, ada, provider):
    provider.down = True
    reply = await replica.anonymous("GET", LOGIN)
    assert refused(reply, "oidc_unavailable", 503)
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
async def test_a_provider_that_says_what_none_would_is_not_used(metadata, replica, provider):
    provider.metadata = metadata
    assert refused(await replica.anonymous("GET", LOGIN), "oidc_unavailable", 503)


@pytest.mark.parametrize(("client", "secret"), [("app:1 é+%", "s e/c+r:e%t~&"), ("exitplane", None)])
async def test_client_authenticates_with_any_characters_or_as_public(client, secret, browser, provider, configure, ada):
    provider.client, provider.secret = client, secret
    assert (await browser.log_in(configure())).status == 200


async def test_token_endpoint_error_is_refusal_and_html_is_outage(browser, replica, provider, ada, query):
    provider.answer = lambda: web.json_response({"error": "invalid_client"}, status=401)
    reply = await browser.log_in(replica)
    assert refused(reply)
    assert "invalid_client" in reply.json["detail"]
    provider.answer = lambda: web.Response(status=502, text="<html>bad gateway</html>", content_type="text/html")
    assert refused(await browser.log_in(replica), "oidc_unavailable", 503)
    assert [row["action"] for row in await query("SELECT action FROM audit_event")] == ["login_failed"]
    provider.answer = None
    assert (await browser.log_in(replica)).status == 200


async def test_callbacks_cannot_be_tried_without_end(browser, replica, provider):
    replies = [await browser.finish(replica, {"state": "x", "code": "x"}) for _ in range(22)]
    assert [reply.status for reply in replies] == [401] * 20 + [429] * 2


async def test_without_a_provider_there_is_nothing_there(api):
    for path in (LOGIN, CALLBACK):
        assert refused(await api.anonymous("GET", path), "oidc_not_configured", 404)


# -- accounts that become operators ------------------------------------------------------------------------------------


@pytest.fixture
def provisioning(configure):
    return configure(role_claim="groups", roles=(("admin", "platform"), ("viewer", "staff")))


async def test_an_account_whose_claim_means_a_role_becomes_an_operator_once(browser, provisioning, provider, query):
    provider.said = {"groups": ["staff", "others"]}
    tokens = [(await browser.log_in(provisioning)).json for _ in range(2)]
    mine = [(await provisioning.holding(each["access_token"])("GET", "/api/v1/auth/me")).json for each in tokens]
    assert mine[0] == mine[1]
    assert (mine[0]["name"], mine[0]["role"], mine[0]["has_password"]) == ("ada-l", "viewer", False)
    actions = [row["action"] for row in await query("SELECT action FROM audit_event ORDER BY sequence")]
    assert actions == ["created", "login", "login"]
    everything = str(await query("SELECT * FROM audit_event"))
    assert "ada-l" not in everything
    assert provider.subject not in everything


async def test_the_highest_of_its_roles_counts(browser, provisioning, provider, query):
    provider.said = {"groups": ["staff", "platform"]}
    assert (await browser.log_in(provisioning)).status == 200
    assert await query("SELECT role FROM operator WHERE name = 'ada-l'") == [{"role": "admin"}]


async def test_a_claim_may_be_within_another(browser, configure, provider):
    api = configure(role_claim="realm_access.roles", roles=(("operator", "ops"),))
    provider.said = {"realm_access": {"roles": ["ops"]}}
    assert (await browser.log_in(api)).status == 200


@pytest.mark.parametrize("groups", [None, [], ["others"], "others", {"staff": True}, 7, ["Staff"]])
async def test_one_whose_claim_means_none_does_not(groups, browser, provisioning, provider, query):
    provider.said = {"groups": groups}
    assert refused(await browser.log_in(provisioning), "account_not_bound", 403)
    assert len(await query("SELECT id FROM operator")) == 1


async def test_a_name_that_is_taken_is_told_apart(browser, provisioning, provider, make_operator, query):
    await make_operator("ada-l", "viewer")
    provider.said = {"groups": "staff"}
    assert (await browser.log_in(provisioning)).status == 200
    names = [row["name"] for row in await query("SELECT name FROM operator WHERE name LIKE 'ada-l%' ORDER BY name")]
    assert len(names) == 2
    assert names[1].startswith("ada-l-")


@pytest.mark.parametrize(
    "said",
    [
        {"preferred_username": None, "email": "ada@example.net"},
        {"preferred_username": "é☃"},
        {"preferred_username": "0" * 32},
        {"preferred_username": "12345678-1234-1234-1234-123456789012"},
        {"preferred_username": ["x"]},
        {"preferred_username": "x" * 300},
    ],
)
async def test_whatever_an_account_is_called_its_operator_has_a_name_of_our_kind(
    said, browser, provisioning, provider, query
):
    provider.said = {"groups": "staff", **said}
    reply = await browser.log_in(provisioning)
    me = (await provisioning.holding(reply.json["access_token"])("GET", "/api/v1/auth/me")).json
    shown = await provisioning("PATCH", f"/api/v1/operators/{me['id']}", {"name": me["name"], "role": "viewer"})
    assert shown.status == 200, shown.body
