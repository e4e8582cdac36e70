"""`exitplane demo`: opens a scene, shows it, and either waits in it or checks it."""

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

from demo.check import CheckReport, RequestCheck, check_scene
from demo.display import show_finding, show_report, show_scene
from demo.lab import Lab, LabSettings
from demo.plan import parse_countries
from demo.processes import interruptible
from demo.setup import open_scene


def demo(
    *,
    check: Annotated[bool, typer.Option("--check", help="Assert instead of waiting; ends with 0 or 1.")] = False,
    exits: Annotated[str, typer.Option(help="The exits' countries, one for each exit.")] = "us,us,gb,jp",
    tunnels: Annotated[
        bool | None,
        typer.Option("--tunnels/--plain", help="Namespaces with WireGuard, or processes; unset: what can be had."),
    ] = None,
    state: Annotated[Path | None, typer.Option(help="A folder to keep; unset: a temporary one, removed.")] = None,
    gateway_port: Annotated[int, typer.Option(min=0, max=65535, help="Where clients connect; 0: a free port.")] = 8080,
    api_port: Annotated[int, typer.Option(min=0, max=65535, help="Where the API is; 0: a free port.")] = 8000,
    xds_port: Annotated[int, typer.Option(min=0, max=65535, help="Where Envoys subscribe; 0: a free port.")] = 18000,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: the report as JSON.")] = False,
) -> None:
    """Run a whole Exitplane on this machine: control plane, gateway, exits behind real tunnels, and a small internet."""
    # With --json the standard output belongs to the program that reads it.
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
    """The exit status: of a check 0 or 1; a demo that was watched until Ctrl-C ends with 0."""
    started = time.monotonic()
    with console.status("starting") as spinner, open_scene(settings, _teller(console, started)) as scene:
        scene.start()
        console.print(f"[green]ready[/] after {time.monotonic() - started:.1f} s")
        spinner.stop()
        if check:
            report = _check(scene, console)
        else:
            show_scene(console, scene)
            _wait_for_the_end(console)
            return 0
        spinner.update("removing everything")
        spinner.start()
    report.seconds = round(time.monotonic() - started, 1)
    show_report(console, report)
    if as_json:
        json.dump(report.as_json(), sys.stdout, indent=2)
        print()
    return 0 if report.ok else 1


def _check(scene: Lab, console: Console) -> CheckReport:
    for found in check_scene(scene):
        if isinstance(found, RequestCheck):
            show_finding(console, found)
        else:
            return found
    raise AssertionError("a check ends with its report")


def _wait_for_the_end(console: Console) -> None:
    console.print("Ctrl-C ends the demo and removes everything.")
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("removing everything")


def _teller(console: Console, started: float) -> Callable[[str], None]:
    """Prints each step with the seconds since the start."""

    def tell(step: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:5.1f} s[/]  {step}", soft_wrap=True)

    return tell
