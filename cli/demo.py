"""The command `exitplane demo`, which opens a lab, and either waits or checks it."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from demo.check import CheckReport, RequestCheck, check_lab
from demo.display import show_finding, show_lab, show_report
from demo.lab import Lab, LabSettings
from demo.plan import parse_countries
from demo.processes import interruptible
from demo.setup import open_lab


def demo(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Send test requests instead of waiting; exits with 0 or 1.")
    ] = False,
    exits: Annotated[str, typer.Option(help="The country of each exit, separated by commas.")] = "us,us,gb,jp",
    tunnels: Annotated[
        bool | None,
        typer.Option(
            "--tunnels/--plain",
            help="Run exits in namespaces with WireGuard, or as plain processes; by default tunnels where possible.",
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="A folder for state and logs that is kept; by default a temporary one, which is removed."),
    ] = None,
    gateway_port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port for clients; 0 takes a free one.")
    ] = 8080,
    api_port: Annotated[int, typer.Option(min=0, max=65535, help="The port of the API; 0 takes a free one.")] = 8000,
    xds_port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port of the xDS server; 0 takes a free one.")
    ] = 18000,
    as_json: Annotated[bool, typer.Option("--json", help="With --check, print the report as JSON.")] = False,
) -> None:
    """Run a complete Exitplane on this machine: control plane, gateway, exits with tunnels, and a small internet."""
    # with --json, standard output contains only the report
    console = Console(stderr=as_json, highlight=False)
    try:
        with interruptible():
            settings = LabSettings(
                exits=parse_countries(exits),
                tunnels=tunnels,
                state_dir=state,
                gateway_port=gateway_port,
                api_port=api_port,
                xds_port=xds_port,
            )
            status = _run(settings, console, check=check, as_json=as_json)
    except KeyboardInterrupt:
        console.print("interrupted; everything is removed")
        status = 130
    raise typer.Exit(status)


def _run(settings: LabSettings, console: Console, *, check: bool, as_json: bool) -> int:
    """Run the demo, and return the exit status: 0, or 1 after a failed check."""
    started = time.monotonic()
    with console.status("starting") as spinner, open_lab(settings, _progress_printer(console, started)) as lab:
        lab.start()
        console.print(f"[green]ready[/] after {time.monotonic() - started:.1f} s")
        spinner.stop()
        if check:
            report = _check(lab, console)
        else:
            show_lab(console, lab)
            _wait_for_interrupt(console)
            return 0
        spinner.update("removing everything")
        spinner.start()
    report.seconds = round(time.monotonic() - started, 1)
    show_report(console, report)
    if as_json:
        json.dump(report.as_json(), sys.stdout, indent=2)
        print()
    return 0 if report.ok else 1


def _check(lab: Lab, console: Console) -> CheckReport:
    for result in check_lab(lab):
        if isinstance(result, RequestCheck):
            show_finding(console, result)
        else:
            return result
    raise AssertionError("a check ends with its report")


def _wait_for_interrupt(console: Console) -> None:
    console.print("Ctrl-C ends the demo and removes everything.")
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("removing everything")


def _progress_printer(console: Console, started: float) -> Callable[[str], None]:
    """Return a function that prints each step with the seconds since the start."""

    def show(step: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:5.1f} s[/]  {step}", soft_wrap=True)

    return show
