"""Asks for every country in every way and judges what the page saw."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, Final

from demo import http_client
from demo.http_client import HttpAnswer
from demo.lab import Lab

# What the client itself sends to the page, with every request: the page is to see this and nothing else.
SENT: Final[Mapping[str, str]] = {"Accept-Encoding": "identity", "User-Agent": "exitplane-demo"}
_UNSERVED: Final = ("aq", "bv", "tf")


@dataclass(frozen=True, slots=True)
class RequestCheck:
    """One request and its verdict. `problem` is None if all was as it has to be; `headers` are those the page saw."""

    country: str
    way: str
    """`plain` or `CONNECT`."""
    by: str
    """How the wish was stated: `user name` or `header`."""
    target: str
    status: int
    source: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    problem: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.problem is None


@dataclass(slots=True)
class CheckReport:
    """What a check found. `expected` names, for each country, the addresses of its exits."""

    mode: str
    reason: str
    host_source: str
    expected: Mapping[str, list[str]]
    findings: list[RequestCheck] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What is wrong beside the single requests."""
    seconds: float = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and all(finding.ok for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        findings = [{**asdict(finding), "ok": finding.ok} for finding in self.findings]
        return {"ok": self.ok, **asdict(self), "findings": findings}


def check_scene(scene: Lab) -> Iterator[RequestCheck | CheckReport]:
    """Ask and judge: every finding as it comes, and the report at last."""
    expected = {country: sorted(scene.egress_addresses(country)) for country in scene.countries}
    report = CheckReport(scene.mode, scene.reason, scene.host_source, expected)
    seen_before = scene.seen()
    for country in scene.countries:
        for finding in _ask_every_way(scene, country):
            report.findings.append(finding)
            yield finding
    refused = _ask_for_nobody(scene)
    report.findings.append(refused)
    yield refused
    report.problems += _leaks(scene, seen_before)
    yield report


def judge(finding: RequestCheck, answer: HttpAnswer, expected: Collection[str], host: str) -> RequestCheck:
    """`finding` with what `answer` tells: it has to be the page's, asked by one of `expected`, with no header added."""
    who = "the gateway" if answer.by_proxy else "the page, or the gateway,"
    if answer.status != 200:
        return _with(finding, answer, problem=f"{who} answered {answer.status}: {answer.text}")
    try:
        page = answer.json()
        source, headers = str(page["source"]), tuple((str(name), str(value)) for name, value in page["headers"])
    except (ValueError, KeyError, TypeError):
        return _with(finding, answer, problem=f"this is not the page's answer: {answer.text[:200]}")
    problem = None
    sent = {"host": host, **{name.lower(): value for name, value in SENT.items()}}
    added = [f"{name}: {value}" for name, value in headers if sent.get(name.lower()) != value]
    if source not in expected:
        problem = f"the page saw {source}, which is no exit of {finding.country} ({', '.join(sorted(expected))})"
    elif added:
        problem = f"the page saw headers that the client did not send: {'; '.join(added)}"
    return _with(finding, answer, source=source, headers=headers, problem=problem)


def _with(finding: RequestCheck, answer: HttpAnswer, **found: Any) -> RequestCheck:
    return RequestCheck(finding.country, finding.way, finding.by, finding.target, answer.status, **found)


def _ask_every_way(scene: Lab, country: str) -> Iterator[RequestCheck]:
    for way, by in product(("plain", "CONNECT"), ("user name", "header")):
        yield _ask(scene, RequestCheck(country, way, by, scene.page_url, 0))
    if scene.page_name_url:
        # This machine cannot resolve the page's name: an answer means that the exit did.
        yield _ask(scene, RequestCheck(country, "CONNECT", "user name", scene.page_name_url, 0))


def _ask(scene: Lab, finding: RequestCheck) -> RequestCheck:
    tunnel = finding.way == "CONNECT"
    try:
        answer = scene.ask(finding.country, tunnel=tunnel, by=finding.by, base_url=finding.target, headers=SENT)
    except OSError as error:
        return RequestCheck(finding.country, finding.way, finding.by, finding.target, 0, problem=f"no answer: {error}")
    expected = scene.egress_addresses(finding.country)
    return judge(finding, answer, expected, finding.target.removeprefix("http://"))


def _ask_for_nobody(scene: Lab) -> RequestCheck:
    """A country that has no pool has to be refused, not served from elsewhere."""
    country = next(country for country in _UNSERVED if country not in scene.countries)
    finding = RequestCheck(country, "CONNECT", "user name", scene.page_url, 0)
    try:
        answer = scene.ask(country)
    except OSError as error:
        return RequestCheck(country, finding.way, finding.by, finding.target, 0, problem=f"no answer: {error}")
    problem = None if answer.by_proxy else f"nobody serves {country}, and yet the gateway opened a tunnel"
    return _with(finding, answer, problem=problem)


def _leaks(scene: Lab, before: Mapping[str, int]) -> list[str]:
    """Whether the page was reached past the exits. It would notice: a request straight from this host shows its address."""
    during = scene.seen()
    exits = {exit_.egress_address for exit_ in scene.exits}
    strangers = sorted(source for source in during if during[source] > before.get(source, 0) and source not in exits)
    problems = [f"the page was reached by {source}, which is no exit" for source in strangers]
    straight = http_client.fetch(f"{scene.page_url}/straight").json()["source"]
    if straight != scene.host_source:
        problems.append(
            f"a request straight from this host shows {straight}, not {scene.host_source}: leaks would hide"
        )
    return problems
