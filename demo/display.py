"""What `exitplane demo` shows on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demo.agents import ExitAgent
from demo.check import CheckReport, RequestCheck
from demo.lab import Lab


def show_scene(console: Console, scene: Lab) -> None:
    """A table of what runs, and lines to copy and paste."""
    console.print()
    console.print(_table(scene))
    for line in _curl_lines(scene):
        # Not wrapped by us: a line that is copied has to stay one line.
        console.print(line, soft_wrap=True, markup=False)
    console.print()


def show_finding(console: Console, finding: RequestCheck) -> None:
    """One line: what was asked for, how, and what the page saw."""
    mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
    how = f"{finding.way} by {finding.by}"
    if finding.source is None:
        saw = f"refused with {finding.status}" if finding.ok else ""
    else:
        saw = f"the page at {finding.target} saw {finding.source}, {_headers(finding)}"
    console.print(f"{mark} [bold]{finding.country}[/]  {how:<21} {escape(saw)}", soft_wrap=True)
    if finding.problem:
        console.print(f"     [red]{escape(finding.problem)}[/]", soft_wrap=True)


def show_report(console: Console, report: CheckReport) -> None:
    """The verdict, in one line after the problems that belong to no single request."""
    for problem in report.problems:
        console.print(f"[red]✗[/] {escape(problem)}", soft_wrap=True)
    asked = len(report.findings)
    if report.ok:
        verdict = f"[green]ok[/]: {asked} requests, each from the country asked for or refused"
    else:
        bad = sum(not finding.ok for finding in report.findings) + len(report.problems)
        verdict = f"[red]failed[/]: {bad} problems in {asked} requests"
    console.print(f"{verdict}; {report.mode} ({report.reason}); {report.seconds:g} s", soft_wrap=True)


def _headers(finding: RequestCheck) -> str:
    return "headers " + ", ".join(name for name, _ in finding.headers)


def _table(scene: Lab) -> Table:
    table = Table(title=f"Exitplane demo: {scene.mode} ({scene.reason})", title_justify="left")
    for column in ("what", "where", "targets see"):
        table.add_column(column)
    table.add_row("control plane", f"{scene.api_url}/docs", "")
    table.add_row(f"gateway {scene.gateway.name}", scene.gateway_url, "")
    for exit_ in scene.exits:
        where = exit_.namespace and f"namespace {exit_.namespace}"
        table.add_row(f"exit {exit_.name}", where or f"{exit_.site.address}:{exit_.site.port}", exit_.egress_address)
    table.add_row("the internet's page", f"{scene.page_url}/", "")
    table.add_row("this host, past the exits", "", scene.host_source)
    table.add_row("state and logs", str(scene.state_dir), "")
    return table


def _curl_lines(scene: Lab) -> list[str]:
    page, gateway = f"{scene.page_url}/", scene.gateway_address
    lines = ["", "Ask for a country, in the user name or in a header:"]
    for country in scene.countries:
        lines += [
            f"  curl -x http://demo-country-{country}:x@{gateway} {page}",
            f"  curl -p -x {scene.gateway_url} --proxy-header 'exit-country: {country}' {page}",
            f"  curl -x {scene.gateway_url} -H 'exit-country: {country}' {page}",
        ]
    if scene.page_name_url:
        lines += ["A name that only the exits can resolve:"]
        lines += [f"  curl -p -x http://demo-country-{scene.countries[0]}:x@{gateway} {scene.page_name_url}/"]
    status = f"  EXITPLANE_API_KEY_FILE={scene.api_key_file} exitplane status --api {scene.api_url}"
    return [*lines, "", "See what runs, as the API tells an operator:", status, "", *_failover_lines(scene.exits[0])]


def _failover_lines(exit_: ExitAgent) -> list[str]:
    """How to take an exit away, and its tunnel: then ask for its country again."""
    lines = [f"Take {exit_.name} away, then ask for {exit_.country} again:"]
    if exit_.site.tunnel:
        inside = f"ip netns exec {exit_.namespace} ip"
        lines += [
            f"  {inside} link set {exit_.site.tunnel} down    # its tunnel; to bring it back:",
            f"  {inside} link set {exit_.site.tunnel} up && {inside} route add default dev {exit_.site.tunnel}",
        ]
    return [*lines, f"  kill -9 {exit_.envoy_pid}    # its Envoy"]
