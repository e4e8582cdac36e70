"""The check of a lab: requests for every country, by every method, and their evaluation."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, Final

from demo import http_client
from demo.http_client import HttpAnswer
from demo.lab import Lab

# The headers that the client sends to the page with every request; the page must see no others.
SENT: Final[Mapping[str, str]] = {"Accept-Encoding": "identity", "User-Agent": "exitplane-demo"}
_UNSERVED: Final = ("aq", "bv", "tf")


@dataclass(frozen=True, slots=True)
class RequestCheck:
    """One request and its result. `problem` is None after success; `headers` are those that the page received."""

    country: str
    way: str
    """`plain` or `CONNECT`."""
    by: str
    """The place of the country in the request: `user name` or `header`."""
    target: str
    status: int
    source: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    problem: str | None = None

    @property
    def ok(self) -> bool:
        """True if the request has no problem."""
        return self.problem is None


@dataclass(slots=True)
class CheckReport:
    """The results of a check. `expected` has the addresses of each country's exits."""

    mode: str
    reason: str
    host_source: str
    expected: Mapping[str, list[str]]
    findings: list[RequestCheck] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Problems that belong to no single request."""
    seconds: float = 0

    @property
    def ok(self) -> bool:
        """True if there is no problem."""
        return not self.problems and all(finding.ok for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        findings = [{**asdict(finding), "ok": finding.ok} for finding in self.findings]
        return {"ok": self.ok, **asdict(self), "findings": findings}


def check_lab(lab: Lab) -> Iterator[RequestCheck | CheckReport]:
    """Send the requests, and yield each result as it comes, then the report."""
    expected = {country: sorted(lab.egress_addresses(country)) for country in lab.countries}
    report = CheckReport(lab.mode, lab.reason, lab.host_source, expected)
    before = lab.count_requests()
    for country in lab.countries:
        for finding in _check_country(lab, country):
            report.findings.append(finding)
            yield finding
    refused = _check_unserved_country(lab)
    report.findings.append(refused)
    yield refused
    report.problems += _find_leaks(lab, before)
    yield report


def evaluate(finding: RequestCheck, answer: HttpAnswer, expected: Collection[str], host: str) -> RequestCheck:
    """Add the result of `answer` to `finding`: the page must answer, see a source of `expected`, and no added header."""
    server = "the gateway" if answer.by_proxy else "the page, or the gateway,"
    if answer.status != 200:
        return _complete(finding, answer, problem=f"{server} answered {answer.status}: {answer.text}")
    try:
        page = answer.json()
        source, headers = str(page["source"]), tuple((str(name), str(value)) for name, value in page["headers"])
    except (ValueError, KeyError, TypeError):
        return _complete(finding, answer, problem=f"this is not the page's answer: {answer.text[:200]}")
    problem = None
    sent = {"host": host, **{name.lower(): value for name, value in SENT.items()}}
    added = [f"{name}: {value}" for name, value in headers if sent.get(name.lower()) != value]
    if source not in expected:
        problem = f"the page saw {source}, which is no exit of {finding.country} ({', '.join(sorted(expected))})"
    elif added:
        problem = f"the page saw headers that the client did not send: {'; '.join(added)}"
    return _complete(finding, answer, source=source, headers=headers, problem=problem)


def _complete(finding: RequestCheck, answer: HttpAnswer, **found: Any) -> RequestCheck:
    return RequestCheck(finding.country, finding.way, finding.by, finding.target, answer.status, **found)


def _check_country(lab: Lab, country: str) -> Iterator[RequestCheck]:
    for way, by in product(("plain", "CONNECT"), ("user name", "header")):
        yield _request(lab, RequestCheck(country, way, by, lab.page_url, 0))
    if lab.page_name_url:
        # This machine cannot resolve the page's name, so an answer proves that the exit did.
        yield _request(lab, RequestCheck(country, "CONNECT", "user name", lab.page_name_url, 0))


def _request(lab: Lab, finding: RequestCheck) -> RequestCheck:
    tunnel = finding.way == "CONNECT"
    try:
        answer = lab.request(finding.country, tunnel=tunnel, by=finding.by, base_url=finding.target, headers=SENT)
    except OSError as error:
        return RequestCheck(finding.country, finding.way, finding.by, finding.target, 0, problem=f"no answer: {error}")
    expected = lab.egress_addresses(finding.country)
    return evaluate(finding, answer, expected, finding.target.removeprefix("http://"))


def _check_unserved_country(lab: Lab) -> RequestCheck:
    """Check that a country without a pool is refused, not served from elsewhere."""
    country = next(country for country in _UNSERVED if country not in lab.countries)
    finding = RequestCheck(country, "CONNECT", "user name", lab.page_url, 0)
    try:
        answer = lab.request(country)
    except OSError as error:
        return RequestCheck(country, finding.way, finding.by, finding.target, 0, problem=f"no answer: {error}")
    problem = None if answer.by_proxy else f"no pool serves {country}, but the gateway opened a tunnel"
    return _complete(finding, answer, problem=problem)


def _find_leaks(lab: Lab, before: Mapping[str, int]) -> list[str]:
    """List the sources past the exits that reached the page, and check that a direct request would be among them."""
    after = lab.count_requests()
    exits = {exit_.egress_address for exit_ in lab.exits}
    others = sorted(source for source in after if after[source] > before.get(source, 0) and source not in exits)
    problems = [f"the page was reached by {source}, which is no exit" for source in others]
    direct = http_client.fetch(f"{lab.page_url}/straight").json()["source"]
    if direct != lab.host_source:
        problems.append(
            f"a direct request from this host shows {direct}, not {lab.host_source}, so leaks would not be found"
        )
    return problems
