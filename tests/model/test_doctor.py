"""The checks of `exitplane doctor`, from facts to findings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from model.doctor import agent_host, control_plane
from model.doctor.agent_host import RunningFacts, StateFacts
from model.doctor.control_plane import (
    ApiFacts,
    ApiKeyFact,
    DatabaseFacts,
    JoinTokenFact,
    ListenerFact,
    OperatorFact,
    SchemaFacts,
    SettingsFacts,
)
from model.doctor.findings import Check, CheckFinding, Severity, as_json, error, examine, exit_status, note, warning
from model.doctor.host import ClockFact, FileFact, ValidityFact
from model.entities import Role

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
IN_STEP = ClockFact("the database", 0.2)
NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR
ADA = OperatorFact("ada", "admin", has_password=True, has_second_factor=True)


def settings(**facts):
    return SettingsFacts(now=NOW, **facts)


def database(**facts):
    return DatabaseFacts(**{"now": NOW, "clock": IN_STEP, "operators": [ADA], "replicas": 2, **facts})


def gateway(**facts):
    return RunningFacts(role=Role.GATEWAY, **facts)


def exit_(*options, **facts):
    given = {name: ["given"] for name in options}
    return RunningFacts(
        role=Role.EXIT, **{"options": {"observe": ["https://x"], **given}, "switch_closed": True, **facts}
    )


def valid(*, of_days: int, left_days: float):
    expires = NOW + left_days * DAY
    return ValidityFact("the certificate", expires - of_days * DAY, expires, "renew it")


def key(**facts):
    given = {
        "operator": "ada",
        "name": "ci",
        "role": "operator",
        "expires": NOW + DAY,
        "created": NOW,
        "last_used": NOW,
    }
    return ApiKeyFact(**{**given, **facts})


ALL = {
    SettingsFacts: control_plane.SETTINGS_CHECKS,
    SchemaFacts: control_plane.SCHEMA_CHECKS,
    DatabaseFacts: control_plane.DATABASE_CHECKS,
    ApiFacts: control_plane.API_CHECKS,
    StateFacts: agent_host.STATE_CHECKS,
    RunningFacts: agent_host.RUNNING_CHECKS,
}
SOUND = [
    settings(),
    SchemaFacts(migration="2", newest="2"),
    database(),
    ApiFacts(url="http://127.0.0.1:8000", clock=IN_STEP),
    StateFacts(now=NOW, role=Role.EXIT),
    gateway(),
    exit_("tunnel"),
    exit_("parent", "tunnel_interface"),
]
OPEN_FILE = FileFact("/x", 0o640)


@pytest.mark.parametrize("facts", SOUND, ids=lambda facts: type(facts).__name__)
def test_sound_facts_are_in_order(facts):
    assert {each.severity for each in examine(ALL[type(facts)], facts)} == {Severity.OK}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (settings(refused=("no", "yes")), {"settings": ERROR}),
        (settings(plain_api=["0.0.0.0:8000"]), {"api-plaintext": WARNING}),
        (settings(plain_engine="tcp://192.0.2.1:2375"), {"container-engine": WARNING}),
        (settings(trusted_networks=["192.0.2.0/24"]), {}),
        (settings(trusted_networks=["192.0.2.0/24", "::/0"]), {"trusted-proxies": ERROR}),
        (settings(local_parents=True), {"local-parents": NOTE}),
        (settings(database_tls=False), {"database-connection": WARNING}),
        (settings(key_in_environment=True), {"encryption-key": NOTE}),
        (settings(key_problem=("there is no key", "copy it")), {"encryption-key": ERROR}),
        (settings(state_folder=FileFact("/x", 0o755)), {}),
        (settings(state_folder=FileFact("/x", 0o775)), {"state-folder": ERROR}),
        (settings(private_files=[OPEN_FILE]), {"private-files": ERROR}),
        (settings(private_files=[FileFact("/x", None, "Permission denied")]), {"private-files": WARNING}),
        (settings(certificates=[valid(of_days=90, left_days=0)]), {"api-certificate": ERROR}),
        (settings(descriptors=20_256), {}),
        (settings(descriptors=20_000), {"descriptors": NOTE}),
        (settings(descriptors=1_024), {"descriptors": WARNING}),
        (settings(sysctl={"net.core.somaxconn": "128"}), {"kernel": NOTE}),
        (SchemaFacts(away=("no answer", "start it")), {"database": ERROR}),
        (SchemaFacts(migration="1", newest="2"), {"database": ERROR}),
        (SchemaFacts(migration="3", newest="2", known=False), {"database": ERROR}),
        (database(secrets={None: 2, "a": 1}, keys=["a"]), {"sealed-secrets": ERROR}),
        (database(secrets={"a": 1, "b": 1}, keys=["a", "b"]), {"sealed-secrets": NOTE}),
        (database(secrets={"b": 1}, keys=["a"]), {"sealed-secrets": ERROR}),
        (database(certificates=[valid(of_days=365, left_days=20)]), {"certificates": WARNING}),
        (database(unverified={"home/us": 0}), {"unverified-exits": NOTE}),
        (database(unverified={"home/us": 3}), {"unverified-exits": WARNING}),
        (database(listeners=[ListenerFact("a", tls=True)]), {}),
        (database(listeners=[ListenerFact("a", tls=False)]), {"listeners": WARNING}),
        (database(operators=[]), {"admins": ERROR}),
        (database(operators=[OperatorFact("ada", "admin", True, False)]), {"second-factors": WARNING}),
        (database(operators=[ADA, OperatorFact("eve", "viewer", True, False)]), {"second-factors": NOTE}),
        (database(operators=[ADA, OperatorFact("bot", "operator", False, False)]), {}),
        (database(api_keys=[key()]), {}),
        (database(api_keys=[key(expires=None)]), {"api-keys": NOTE}),
        (database(api_keys=[key(role="admin", expires=NOW + 400 * DAY)]), {"api-keys": WARNING}),
        (database(api_keys=[key(last_used=None, created=NOW - 91 * DAY)]), {"api-keys": NOTE}),
        (database(join_tokens=[JoinTokenFact("a", 1, NOW + DAY)]), {}),
        (database(join_tokens=[JoinTokenFact("a", None, NOW + DAY)]), {"join-tokens": WARNING}),
        (database(join_tokens=[JoinTokenFact("a", 1, NOW + 8 * DAY)]), {"join-tokens": WARNING}),
        (database(replicas=1), {"replicas": NOTE}),
        (database(replicas=0), {"replicas": ERROR}),
        (database(clock=ClockFact("the database", -31)), {"database-clock": WARNING}),
        (ApiFacts(url="u", away="Connection refused"), {"api": ERROR}),
        (ApiFacts(url="u", failing={"xds": "not ready"}), {"api": ERROR}),
        (ApiFacts(url="u", closed=3), {"strangers": NOTE}),
        (ApiFacts(url="u", clock=ClockFact("u", 301)), {"api-clock": ERROR}),
        (StateFacts(now=NOW, unusable=("no folder", "name it")), {"agent-state": ERROR}),
        (StateFacts(now=NOW, runs=False), {"agent-process": WARNING}),
        (StateFacts(now=NOW, folder=FileFact("/x", 0o770)), {"agent-folder": ERROR}),
        (StateFacts(now=NOW, private_files=[OPEN_FILE]), {"agent-keys": ERROR}),
        (StateFacts(now=NOW, open_admin="127.0.0.1:9901"), {"agent-admin": ERROR}),
        (StateFacts(now=NOW, certificates=[valid(of_days=365, left_days=-1)]), {"agent-certificate": ERROR}),
        (gateway(envoy_runs=False), {"agent-envoy": ERROR}),
        (gateway(options={"api": ["http://127.0.0.1:8000"]}), {}),
        (gateway(options={"api": ["http://[::1]:8000"]}), {}),
        (gateway(options={"api": ["https://plane.example"]}), {}),
        (gateway(options={"api": ["http://plane.example"]}), {"agent-api": WARNING}),
        (gateway(api_away=("no", "yes")), {"agent-api": ERROR}),
        (gateway(clock=ClockFact("u", 40)), {"agent-clock": WARNING}),
        (gateway(option_files=[OPEN_FILE]), {"agent-files": ERROR}),
        (gateway(options={"metrics_listen": ["127.0.0.1:9902"]}), {}),
        (gateway(options={"metrics_listen": ["0.0.0.0:9902"]}), {"metrics": NOTE}),
        (gateway(descriptors=20_000), {"agent-descriptors": NOTE}),
        (gateway(sysctl={"net.ipv4.ip_local_port_range": "32768\t50000"}), {"agent-kernel": NOTE}),
        (exit_("tunnel", switch_closed=False), {"kill-switch": ERROR}),
        (exit_("tunnel_interface", switch_closed=None), {"kill-switch": NOTE}),
        (exit_("tunnel", "no_kill_switch"), {"kill-switch": WARNING}),
        (exit_(), {"kill-switch": WARNING}),
        (exit_("tunnel", options={"tunnel": ["a"]}), {"observation": WARNING}),
        (exit_("tunnel", sysctl={"net.netfilter.nf_conntrack_max": "4096"}), {"agent-kernel": WARNING}),
        (exit_("tunnel", sysctl={"net.ipv4.conf.all.rp_filter": "1"}), {}),
        (exit_("tunnel", sysctl={"net.ipv4.conf.all.rp_filter": "1"}, read_only_sysctl=True), {"agent-kernel": WARNING}),
    ],
)  # fmt: skip
def test_weak_fact_is_found_by_its_check_alone(facts, expected):
    found = [each for each in examine(ALL[type(facts)], facts) if each.severity > Severity.OK]
    assert {each.check: each.severity for each in found} == expected
    assert all(each.summary and each.hint for each in found)


@pytest.mark.parametrize(
    ("of_days", "left_days", "severity"),
    [(365, 31, None), (365, 29, WARNING), (1, 0.2, None), (1, 0.05, WARNING), (3650, 29, WARNING), (1, 1.1, ERROR)],
)
def test_certificate_is_found_near_its_end(of_days, left_days, severity):
    (found,) = examine(
        agent_host.STATE_CHECKS[-1:], StateFacts(now=NOW, certificates=[valid(of_days=of_days, left_days=left_days)])
    )
    assert found.severity == (severity or Severity.OK)


def test_checks_without_facts_are_notes():
    (found,) = examine([Check("a", "sound", lambda _: ())], None, unknown="it is away")
    assert (found.severity, found.summary) == (NOTE, "not checked: it is away")


@pytest.mark.parametrize(
    ("made", "status"), [([], 0), ([note], 0), ([note, warning], 1), ([warning, error, note], 2)]
)  # fmt: skip
def test_exit_status_is_that_of_worst_finding(made, status):
    findings = [*examine([Check("a", "sound", lambda facts: [each("b", "c") for each in facts])], made)]
    assert exit_status(findings) == status


def test_json_is_stable():
    findings = [CheckFinding("a", Severity.OK, "sound"), CheckFinding("b", WARNING, "weak", "do it")]
    assert as_json("agent", findings) == {
        "format": 1,
        "subject": "agent",
        "worst": "warning",
        "findings": [
            {"check": "a", "severity": "ok", "summary": "sound", "hint": None},
            {"check": "b", "severity": "warning", "summary": "weak", "hint": "do it"},
        ],
    }


def test_names_of_checks_are_unique():
    names = [check.name for checks in ALL.values() for check in checks]
    assert len({*names}) == len(names)
