"""The output of `exitplane demo` on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demo.agents import ExitAgent
from demo.check import CheckReport, RequestCheck
from demo.lab import Lab


def show_lab(console: Console, lab: Lab) -> None:
    """Print a table of the lab, and commands to copy."""
    console.print()
    console.print(_table(lab))
    for line in _curl_lines(lab):
        # not wrapped here, because a copied command must stay one line
        console.print(line, soft_wrap=True, markup=False)
    console.print()


def show_finding(console: Console, finding: RequestCheck) -> None:
    """Print the result of one request as a line."""
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
    """Print the problems that belong to no single request, then the result as a line."""
    for problem in report.problems:
        console.print(f"[red]✗[/] {escape(problem)}", soft_wrap=True)
    count = len(report.findings)
    if report.ok:
        result = f"[green]ok[/]: {count} requests, each from the requested country or refused"
    else:
        failed = sum(not finding.ok for finding in report.findings) + len(report.problems)
        result = f"[red]failed[/]: {failed} problems in {count} requests"
    console.print(f"{result}; {report.mode} ({report.reason}); {report.seconds:g} s", soft_wrap=True)


def _headers(finding: RequestCheck) -> str:
    return "headers " + ", ".join(name for name, _ in finding.headers)


def _table(lab: Lab) -> Table:
    table = Table(title=f"Exitplane demo: {lab.mode} ({lab.reason})", title_justify="left")
    for column in ("component", "address", "source that targets see"):
        table.add_column(column)
    table.add_row("control plane", f"{lab.api_url}/docs", "")
    table.add_row(f"gateway {lab.gateway.name}", lab.gateway_url, "")
    for exit_ in lab.exits:
        namespace = exit_.namespace and f"namespace {exit_.namespace}"
        table.add_row(
            f"exit {exit_.name}", namespace or f"{exit_.site.address}:{exit_.site.port}", exit_.egress_address
        )
    table.add_row("the internet's page", f"{lab.page_url}/", "")
    table.add_row("this host without an exit", "", lab.host_source)
    table.add_row("state and logs", str(lab.state_dir), "")
    return table


def _curl_lines(lab: Lab) -> list[str]:
    page, gateway = f"{lab.page_url}/", lab.gateway_address
    lines = ["", "Ask for a country, in the user name or in a header:"]
    for country in lab.countries:
        lines += [
            f"  curl -x http://demo-country-{country}:x@{gateway} {page}",
            f"  curl -p -x {lab.gateway_url} --proxy-header 'exit-country: {country}' {page}",
            f"  curl -x {lab.gateway_url} -H 'exit-country: {country}' {page}",
        ]
    if lab.page_name_url:
        lines += ["A name that only the exits can resolve:"]
        lines += [f"  curl -p -x http://demo-country-{lab.countries[0]}:x@{gateway} {lab.page_name_url}/"]
    status = f"  EXITPLANE_API_KEY_FILE={lab.api_key_file} exitplane status --api {lab.api_url}"
    return [*lines, "", "Show exits and proxies as the API sees them:", status, "", *_failover_lines(lab.exits[0])]


def _failover_lines(exit_: ExitAgent) -> list[str]:
    """Build the commands that break an exit's tunnel and its Envoy."""
    lines = [f"Break {exit_.name}, then ask for {exit_.country} again:"]
    if exit_.site.tunnel:
        inside = f"ip netns exec {exit_.namespace} ip"
        lines += [
            f"  {inside} link set {exit_.site.tunnel} down    # its tunnel; to restore it:",
            f"  {inside} link set {exit_.site.tunnel} up && {inside} route add default dev {exit_.site.tunnel}",
        ]
    return [*lines, f"  kill -9 {exit_.envoy_pid}    # its Envoy"]
