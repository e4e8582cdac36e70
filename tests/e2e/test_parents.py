"""The whole plane with exits behind parent proxies: stand-ins for gluetun, on loopback, without tunnels."""

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
class Behind:
    """A lab whose two exits have a parent each."""

    lab: Lab
    parents: list[GluetunStandIn]
    files: list[Path]

    def ask(self, *, tunnel: bool):
        return self.lab.request("us", base_url=f"http://{NAME}:{self.lab.plan.page_port}", tunnel=tunnel)

    def sources(self) -> set[str]:
        """From where the page is reached, of some requests of both kinds. All of them have to be answered."""
        answers = [self.ask(tunnel=tunnel) for _ in range(5) for tunnel in (True, False)]
        assert {answer.status for answer in answers} == {200}, [answer.text for answer in answers]
        return {answer.json()["source"] for answer in answers}

    def state_of(self, number: int) -> tuple[str, str]:
        (found,) = [each for each in self.lab.api("GET", "/exits")["items"] if each["name"] == f"us-{number}"]
        return found["state"], found["state_reason"]


@pytest.fixture(scope="module")
def behind(tmp_path_factory) -> Iterator[Behind]:
    folder = tmp_path_factory.mktemp("credentials")
    with open_lab(settings_of("us", "us", tunnels=False)) as lab, ExitStack() as stack:
        made = Behind(lab, [], [])
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
def all_serve(behind, eventually):
    for parent in behind.parents:
        parent.status, parent.hangs = "running", False
    eventually(lambda: behind.ask(tunnel=True).status == 200)
    eventually(lambda: behind.sources() == {parent.source for parent in behind.parents})


def test_what_clients_ask_for_comes_out_of_the_parents(behind):
    for parent in behind.parents:
        assert {each.method for each in parent.requests} == {"CONNECT", "GET"}
    assert [each["parent"]["username"] for each in behind.lab.api("GET", "/exits")["items"]] == ["exit", "exit"]


def test_what_they_carry_is_counted(behind, eventually):
    eventually(lambda: all(each["month_gb"] for each in behind.lab.api("GET", "/exits")["items"]))


def test_while_a_parent_is_dead_the_other_exit_serves_and_the_agent_says_why(behind, eventually):
    dead, alive = behind.parents
    dead.die()
    assert behind.sources() == {alive.source}
    eventually(lambda: behind.state_of(1)[0] == "unreachable")
    assert "cannot be reached" in behind.state_of(1)[1]
    dead.revive()


def test_a_tunnel_that_a_parent_takes_and_never_answers_is_opened_by_way_of_the_other(behind):
    mute, other = behind.parents
    mute.hangs = True
    answers = [behind.ask(tunnel=True) for _ in range(4)]
    assert [answer.status for answer in answers] == [200] * 4, [answer.text for answer in answers]
    assert {answer.json()["source"] for answer in answers} == {other.source}
    assert any(each.method == "CONNECT" and NAME in each.target for each in mute.requests)


def test_while_gluetun_says_that_its_tunnel_is_down_its_exit_serves_nobody(behind, eventually):
    behind.parents[0].status = "stopped"
    eventually(lambda: "gluetun says that its tunnel is stopped" in behind.state_of(1)[1])
    assert behind.state_of(1)[0] == "unreachable"
    eventually(lambda: behind.sources() == {behind.parents[1].source})


def test_a_parent_that_refuses_all_exits_is_a_503_of_exitplane_and_never_a_407(behind, eventually):
    for parent in behind.parents:
        parent.password = ANOTHER
    seen = {
        (answer.status, "exitplane" in answer.text) for answer in (behind.ask(tunnel=it) for it in (True, False) * 5)
    }
    assert seen == {(503, True)}
    eventually(lambda: "refuses the exit's credentials" in behind.state_of(1)[1])
    for number, file in enumerate(behind.files, 1):
        file.write_text(f"exit\n{ANOTHER}\n")
        (found,) = [each for each in behind.lab.api("GET", "/exits")["items"] if each["name"] == f"us-{number}"]
        behind.lab.api("PATCH", f"/exits/{found['id']}", {"parent": {**found["parent"], "password": ANOTHER}})
    eventually(lambda: behind.ask(tunnel=True).status == 200)


def test_no_password_is_in_what_any_of_them_wrote(behind):
    """After it was changed, which the test before this one did."""
    texts = [file.read_bytes() for file in behind.lab.state_dir.rglob("*.log")]
    texts += [
        agent.query_admin("/config_dump?include_eds").encode() for agent in (behind.lab.gateway, *behind.lab.exits)
    ]
    assert len(texts) > 4
    for text in texts:
        for password in (PASSWORD, ANOTHER):
            assert password.encode() not in text
