"""Creation and removal of labs.

with open_lab(LabSettings(exits=("us", "jp"))) as lab:
    lab.start()
    lab.request("jp").json()["source"]
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Final

from demo.errors import LabError
from demo.instance import Instance, choose_ports, claim_instance, temporary_folder
from demo.lab import Lab, LabSettings, ProgressCallback
from demo.plan import AddressPlan, plan_loopback, plan_tunnels
from demo.processes import ProcessGroup, shielded
from demo.underlay import build_underlay, choose_underlay_block, find_tunnel_obstacle, remove_underlay
from demo.wireguard import open_tunnels

_PAGE: Final = "the page"
_EXIT: Final = "the exits"


@contextlib.contextmanager
def open_lab(settings: LabSettings | None = None, on_progress: ProgressCallback = lambda _text: None) -> Iterator[Lab]:
    """Prepare names, ports, network and tunnels; `Lab.start` starts the rest. Everything is removed at the end of the block.

    `on_progress` is called with a text for every step. Raises LabError, after the removal, if a step is impossible.
    """
    settings = settings or LabSettings()
    stack = contextlib.ExitStack()
    try:
        yield _prepare(stack, settings, on_progress)
    finally:
        with shielded():
            stack.close()


def _prepare(stack: contextlib.ExitStack, settings: LabSettings, on_progress: ProgressCallback) -> Lab:
    """Create the parts of a lab; the removal of each is on the stack first. Processes go first, then network, then files."""
    tunnels, reason = _choose_mode(settings.tunnels)
    instance = stack.enter_context(claim_instance(_sweep))
    ports = _choose_ports(instance, settings, tunnels)
    plan = _plan(instance, settings, ports, tunnels)
    if settings.state_dir is None:
        state_dir = stack.enter_context(temporary_folder(instance))
    else:
        state_dir = settings.state_dir.resolve()
    logs = state_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    processes = ProcessGroup(instance.mark, logs)
    if tunnels:
        stack.callback(remove_underlay, plan.index)
    stack.callback(processes.end_all)
    lab = Lab(settings, plan, reason, ports, state_dir, processes, on_progress)
    for agent in (lab.gateway, *lab.exits):
        agent.remove_enrolment()
    on_progress(f"mode: {lab.mode}, because {reason}")
    if tunnels:
        on_progress(f"network: {len(plan.sites)} exits' namespaces and an internet, named {plan.prefix}*")
        build_underlay(plan)
        on_progress("tunnels: a WireGuard for each exit")
        open_tunnels([exit_.tunnel for exit_ in lab.exits if exit_.tunnel])
    return lab


def _choose_mode(wanted: bool | None) -> tuple[bool, str]:  # noqa: FBT001 - a setting, passed on
    """Return True if exits get tunnels, and the reason. Raises LabError if tunnels are required but impossible."""
    obstacle = find_tunnel_obstacle()
    if wanted is False:
        return False, "--plain was given"
    if obstacle is None:
        return True, "this is root, and wireguard-go is installed"
    if wanted:
        raise LabError(f"tunnels cannot be created: {obstacle}", hint="use --plain")
    return False, obstacle


def _choose_ports(instance: Instance, settings: LabSettings, tunnels: bool) -> dict[str, int]:  # noqa: FBT001
    wanted = {
        "--gateway-port": settings.gateway_port,
        "--api-port": settings.api_port,
        "--xds-port": settings.xds_port,
    }
    if not tunnels:
        wanted |= {_PAGE: 0, _EXIT: 0}
    return choose_ports(instance, wanted)


def _plan(instance: Instance, settings: LabSettings, ports: Mapping[str, int], tunnels: bool) -> AddressPlan:  # noqa: FBT001
    if tunnels:
        return plan_tunnels(instance.index, settings.exits, choose_underlay_block())
    return plan_loopback(instance.index, settings.exits, ports[_PAGE], ports[_EXIT])


def _sweep(index: int) -> None:
    if find_tunnel_obstacle() is None:
        remove_underlay(index)
