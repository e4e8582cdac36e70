"""Opens scenes, and removes them without a trace.

with open_scene(SceneSettings(exits=("us", "jp"))) as scene:
    scene.start()
    scene.ask("jp").json()["source"]
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Final

from demo.errors import LabError
from demo.instance import Instance, choose_ports, claim_instance, temporary_folder
from demo.lab import Lab, LabSettings, Tell
from demo.plan import AddressPlan, plan_loopback, plan_tunnels
from demo.processes import ProcessGroup, shielded
from demo.underlay import build_underlay, choose_underlay_block, remove_underlay, why_no_tunnels
from demo.wireguard import open_tunnels

_PAGE: Final = "the page"
_EXIT: Final = "the exits"


@contextlib.contextmanager
def open_scene(settings: LabSettings | None = None, tell: Tell = lambda _text: None) -> Iterator[Lab]:
    """Prepare names, ports, network and tunnels; `Scene.start` starts the rest. At the end nothing of it is left.

    `tell` is told of every step. Raises SceneError, after removing what was made, if something is in the way.
    """
    settings = settings or LabSettings()
    stack = contextlib.ExitStack()
    try:
        yield _prepare(stack, settings, tell)
    finally:
        with shielded():
            stack.close()


def _prepare(stack: contextlib.ExitStack, settings: LabSettings, tell: Tell) -> Lab:
    """Each thing's removal is on the stack before the thing is made: processes first, then the network, then files."""
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
    scene = Lab(settings, plan, reason, ports, state_dir, processes, tell)
    for agent in (scene.gateway, *scene.exits):
        agent.forget()
    tell(f"mode: {scene.mode}, because {reason}")
    if tunnels:
        tell(f"network: {len(plan.sites)} exits' namespaces and an internet, named {plan.prefix}*")
        build_underlay(plan)
        tell("tunnels: a WireGuard for each exit")
        open_tunnels([exit_.tunnel for exit_ in scene.exits if exit_.tunnel])
    return scene


def _choose_mode(wanted: bool | None) -> tuple[bool, str]:  # noqa: FBT001 - a setting, passed on
    """Whether exits get tunnels, and why. Raises SceneError if tunnels are demanded and cannot be had."""
    obstacle = why_no_tunnels()
    if wanted is False:
        return False, "--plain was asked for"
    if obstacle is None:
        return True, "this is root, and wireguard-go is here"
    if wanted:
        raise LabError(f"no tunnels can be made: {obstacle}")
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
    if why_no_tunnels() is None:
        remove_underlay(index)
