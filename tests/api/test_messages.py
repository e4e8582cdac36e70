"""The collections /channels, /message-rules and /messages."""

from __future__ import annotations

import pytest

CHANNELS, RULES, MESSAGES = "/api/v1/channels", "/api/v1/message-rules", "/api/v1/messages"
SECRET = "s3cr3t-path-of-a-hook"
KEY = "0123456789abcdef-key"
HOOK = {"name": "hook", "url": f"https://hooks.example.net/{SECRET}", "signing_key": KEY}
CHAT = {"name": "chat", "url": "ntfy://ntfy.example.net/topic"}
RULE = {"name": "lost", "events": ["exit_lost"], "channels": ["hook"]}


@pytest.fixture
async def hook(api):
    reply = await api("POST", CHANNELS, HOOK)
    assert reply.status == 201, reply.body
    return reply.json


async def test_channel_is_managed_without_showing_its_secrets(api, query, stored):
    before = await stored()
    replies = [await api("POST", CHANNELS, HOOK)]
    assert set(replies[0].json) == {"id", "name", "service", "created_at"}
    assert replies[0].json["service"] == "webhook"
    (row,) = await query("SELECT url, signing_key FROM message_channel")
    assert all(value.startswith("EPS1.") for value in row.values())
    replies += [await api("PATCH", f"{CHANNELS}/hook", {"name": "renamed"}), await api("GET", CHANNELS)]
    replies.append(await api("PUT", f"{CHANNELS}/renamed", {"name": "hook"}))
    assert [reply.status for reply in replies] == [201, 200, 200, 200]
    assert await query("SELECT url, signing_key FROM message_channel") == [row]
    replies.append(await api("PATCH", f"{CHANNELS}/hook", {"url": CHAT["url"]}))
    assert replies[-1].json["service"] == "ntfy"
    assert (await query("SELECT signing_key FROM message_channel"))[0]["signing_key"] is None
    assert (await api("DELETE", f"{CHANNELS}/hook")).status == 204
    audited = await query("SELECT action, detail FROM audit_event WHERE kind = 'channel' ORDER BY sequence")
    assert [each["action"] for each in audited] == ["created", "changed", "changed", "changed", "deleted"]
    assert not any(
        secret in f"{audited}{[reply.body for reply in replies]}" for secret in (SECRET, KEY, "ntfy.example")
    )
    assert await stored() == before


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"name": "x"}, "no_url", "/url"),
        ({"name": "x", "url": f"syslog://{SECRET}"}, "bad_channel_url", "/url"),
        ({"name": "x", "url": f"slack://{SECRET}?template=/etc/passwd"}, "bad_channel_url", "/url"),
        ({"name": "x", "url": f"tgram://{SECRET}"}, "bad_channel_url", "/url"),
        ({"name": "x", "url": f"http://169.254.169.254/{SECRET}", "signing_key": KEY}, "local_channel", "/url"),
        ({"name": "x", "url": f"http://[::ffff:127.0.0.1]/{SECRET}", "signing_key": KEY}, "local_channel", "/url"),
        ({"name": "x", "url": "gotify://127.0.0.1/AbCdEf-s3cr3t"}, "local_channel", "/url"),
        ({"name": "x", "url": HOOK["url"]}, "bad_signing_key", "/signing_key"),
        ({**CHAT, "signing_key": KEY}, "bad_signing_key", "/signing_key"),
        ({**HOOK, "signing_key": "too-short"}, "invalid", "/signing_key"),
        ({**HOOK, "url": f"https://{SECRET}/{'x' * 2_000}"}, "invalid", "/url"),
    ],
)
async def test_bad_channel_is_refused_without_its_secrets(body, code, field, api):
    reply = await api("POST", CHANNELS, body)
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, field)
    assert code in (reply.json["code"], "invalid")
    assert not any(secret.encode() in reply.body for secret in (SECRET, "s3cr3t", KEY, "too-short"))


async def test_local_channels_are_allowed_by_a_setting(make_api, database):
    api = make_api(database, allows_local_channels=True)
    assert (await api("POST", CHANNELS, {**HOOK, "url": "http://127.0.0.1:9/"})).status == 201


async def test_rule_is_managed_and_keeps_its_channel(api, hook, query, stored):
    before = await stored()
    made = await api("POST", RULES, RULE)
    assert made.status == 201, made.body
    assert made.json | {"id": "", "created_at": ""} == {
        "id": "",
        "created_at": "",
        "name": "lost",
        "enabled": True,
        "events": ["exit_lost"],
        "channels": ["hook"],
        "fleet": None,
        "pool": None,
        "exit": None,
        "threshold": 1,
        "within_s": 3600,
        "for_s": 0,
        "cooldown_s": 300,
        "recovery": True,
    }
    assert (await api("DELETE", f"{CHANNELS}/hook")).json["code"] == "in_use"
    await api("POST", CHANNELS, CHAT)
    changed = await api("PATCH", f"{RULES}/lost", {"channels": ["chat"], "pool": "us-*"})
    assert (changed.json["channels"], changed.json["pool"]) == (["chat"], "us-*")
    assert (await api("DELETE", f"{CHANNELS}/hook")).status == 204
    assert (await api("DELETE", f"{RULES}/lost")).status == 204
    audited = await query("SELECT action FROM audit_event WHERE kind = 'message-rule' ORDER BY sequence")
    assert [each["action"] for each in audited] == ["created", "changed", "deleted"]
    assert await stored() == before


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"channels": ["nobody"]}, "/channels/0"),
        ({"channels": []}, "/channels"),
        ({"channels": ["hook", "hook"]}, "/channels"),
        ({"events": []}, "/events"),
        ({"events": ["quota_reached"]}, "/events/0"),
        ({"events": ["exit_idle"], "for_s": 59}, "/for_s"),
        ({"cooldown_s": 59}, "/cooldown_s"),
        ({"pool": "US"}, "/pool"),
        ({"threshold": 0}, "/threshold"),
        ({"exit": "a\u0000"}, "/exit"),
    ],
)
async def test_bad_rule_is_refused(fields, field, api, hook):
    reply = await api("POST", RULES, RULE | fields)
    assert (reply.status, reply.json["errors"][0]["field"]) == (422, field), reply.body


async def test_test_message_is_listed_and_read(api, hook):
    sent = await api("POST", f"{CHANNELS}/hook/test")
    assert (sent.status, sent.json["state"], sent.json["rule"]) == (202, "pending", "test")
    assert (await api("GET", f"{MESSAGES}/{sent.json['id']}")).json == sent.json
    for query, count in (("state=pending", 1), ("state=failed", 0), ("channel=hook&rule=test&sort=-created_at", 1)):
        assert len((await api("GET", f"{MESSAGES}?{query}")).json["items"]) == count
    assert (await api("GET", f"{MESSAGES}/{2**63}")).status == 404
    assert (await api("DELETE", f"{CHANNELS}/hook")).status == 204
    assert (await api("GET", MESSAGES)).json["items"][0]["channel"] == "hook"


@pytest.mark.parametrize("path", [CHANNELS, RULES, MESSAGES])
async def test_operator_of_some_fleets_sees_nothing_of_messages(path, demo, make_operator, query):
    (fleet,) = await query("SELECT id FROM fleet WHERE name = 'demo'")
    mine = demo.holding((await make_operator("somebody", "admin", fleet_ids=[str(fleet["id"])])).key)
    assert [(await mine("GET", path)).status, (await mine("POST", path, CHAT)).status] in ([403, 403], [403, 405])
