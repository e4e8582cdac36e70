"""End-to-end tests of exits behind parent proxies: stand-ins for gluetun, on loopback, without tunnels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.lab import Lab
from demo.setup import open_lab
from tests.e2e.labs import settings_of
from tests.gluetun import GluetunStandIn, running

NAME = "page.internet.test"
PASSWORD, ANOTHER = "correct horse", "battery staple"


@dataclass
class ParentLab:
    """A lab whose two exits have a parent each, with the parents and their credentials files."""

    lab: Lab
    parents: list[GluetunStandIn]
    files: list[Path]

    def ask(self, *, tunnel: bool):
        return self.lab.request("us", base_url=f"http://{NAME}:{self.lab.plan.page_port}", tunnel=tunnel)

    def is_served_by(self, *parents: GluetunStandIn) -> bool:
        """Return True if requests of both kinds succeed and leave through these parents alone."""
        try:
            answers = [self.ask(tunnel=tunnel) for _ in range(5) for tunnel in (True, False)]
        except OSError:
            return False
        seen = {answer.json()["source"] if answer.status == 200 else None for answer in answers}
        return seen == {parent.source for parent in parents}

    def sources(self) -> set[str]:
        """Send requests of both kinds, which must all succeed, and return the sources that the page saw."""
        answers = [self.ask(tunnel=tunnel) for _ in range(5) for tunnel in (True, False)]
        assert {answer.status for answer in answers} == {200}, [answer.text for answer in answers]
        return {answer.json()["source"] for answer in answers}

    def state_of(self, number: int) -> tuple[str, str]:
        (found,) = [each for each in self.lab.api("GET", "/exits")["items"] if each["name"] == f"us-{number}"]
        return found["state"], found["state_reason"]


@pytest.fixture(scope="module")
def parent_lab(tmp_path_factory) -> Iterator[ParentLab]:
    folder = tmp_path_factory.mktemp("credentials")
    with open_lab(settings_of("us", "us", tunnels=False)) as lab, ExitStack() as stack:
        made = ParentLab(lab, [], [])
        for number, exit_ in enumerate(lab.exits, 1):
            parent = GluetunStandIn(
                username="exit",
                password=PASSWORD,
                names={NAME: str(lab.plan.page_address)},
                source=f"127.0.0.{200 + number}",
                api_key="key",
            )
            stack.enter_context(running(parent))
            made.parents.append(parent)
            credentials, key = (folder / f"{kind}-{number}" for kind in ("parent", "key"))
            for file, text in ((credentials, f"exit\n{PASSWORD}\n"), (key, "key\n")):
                file.touch(mode=0o600)
                file.write_text(text)
            made.files.append(credentials)
            exit_.arguments += (
                *("--parent", f"127.0.0.1:{parent.proxy_port}", "--parent-credentials", str(credentials)),
                *("--gluetun", parent.control_url, "--gluetun-key-file", str(key)),
            )
        lab.start_page()
        for parent in made.parents:
            lab.set_geolocation(f"/ipinfo/{parent.source}", "us")
        lab.start_control_plane()
        lab.declare()
        lab.start_agents()
        lab.wait_until_healthy()
        yield made


@pytest.fixture(autouse=True)
def all_serve(parent_lab, eventually):
    for parent in parent_lab.parents:
        parent.status, parent.hangs = "running", False
    eventually(lambda: parent_lab.is_served_by(*parent_lab.parents))


def test_traffic_of_clients_leaves_through_the_parents(parent_lab):
    for parent in parent_lab.parents:
        assert {each.method for each in parent.requests} == {"CONNECT", "GET"}
    assert [each["parent"]["username"] for each in parent_lab.lab.api("GET", "/exits")["items"]] == ["exit", "exit"]


def test_traffic_of_parents_is_counted(parent_lab, eventually):
    eventually(lambda: all(each["month_gb"] for each in parent_lab.lab.api("GET", "/exits")["items"]))


def test_dead_parent_makes_its_exit_unreachable_with_a_reason(parent_lab, eventually):
    dead, alive = parent_lab.parents
    dead.die()
    assert parent_lab.sources() == {alive.source}
    eventually(lambda: parent_lab.state_of(1)[0] == "unreachable")
    assert "cannot be reached" in parent_lab.state_of(1)[1]
    dead.revive()


def test_connect_to_a_hanging_parent_is_retried_on_another_exit(parent_lab):
    mute, other = parent_lab.parents
    mute.hangs = True
    answers = [parent_lab.ask(tunnel=True) for _ in range(4)]
    assert [answer.status for answer in answers] == [200] * 4, [answer.text for answer in answers]
    assert {answer.json()["source"] for answer in answers} == {other.source}
    assert any(each.method == "CONNECT" and NAME in each.target for each in mute.requests)


def test_exit_is_unreachable_while_gluetun_reports_a_stopped_tunnel(parent_lab, eventually):
    parent_lab.parents[0].status = "stopped"
    eventually(lambda: "gluetun says that its tunnel is stopped" in parent_lab.state_of(1)[1])
    assert parent_lab.state_of(1)[0] == "unreachable"
    eventually(lambda: parent_lab.is_served_by(parent_lab.parents[1]))


def test_refused_parent_credentials_become_a_503_and_never_a_407(parent_lab, eventually):
    for parent in parent_lab.parents:
        parent.password = ANOTHER
    seen = {
        (answer.status, "exitplane" in answer.text)
        for answer in (parent_lab.ask(tunnel=it) for it in (True, False) * 5)
    }
    assert seen == {(503, True)}
    eventually(lambda: "refuses the exit's credentials" in parent_lab.state_of(1)[1])
    for number, file in enumerate(parent_lab.files, 1):
        file.write_text(f"exit\n{ANOTHER}\n")
        (found,) = [each for each in parent_lab.lab.api("GET", "/exits")["items"] if each["name"] == f"us-{number}"]
        parent_lab.lab.api("PATCH", f"/exits/{found['id']}", {"parent": {**found["parent"], "password": ANOTHER}})
    eventually(lambda: parent_lab.ask(tunnel=True).status == 200)


def test_no_password_is_in_logs_and_config_dumps(parent_lab):
    """Runs after the test above, which changed the passwords."""
    texts = [file.read_bytes() for file in parent_lab.lab.state_dir.rglob("*.log")]
    texts += [
        agent.query_admin("/config_dump?include_eds").encode()
        for agent in (parent_lab.lab.gateway, *parent_lab.lab.exits)
    ]
    assert len(texts) > 4
    for text in texts:
        for password in (PASSWORD, ANOTHER):
            assert password.encode() not in text
