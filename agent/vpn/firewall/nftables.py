"""Closing and opening the kill switch, and seeing that it is closed."""

from __future__ import annotations

import json
from typing import Any, Final

from agent.net.commands import CommandFailed, run
from agent.vpn.errors import KillSwitchFailed
from agent.vpn.firewall.rules import FAMILY, OPEN, TABLE, AllowedTraffic, output_rules, render

_MEND: Final = "see that the kernel has nf_tables and nf_conntrack; --no-kill-switch goes without, and lets traffic out"


async def close(openings: AllowedTraffic) -> None:
    """Let nothing out but through `openings`, in one step, whatever was there before. Raises KillSwitchFailed."""
    try:
        await run("nft", "-f", "-", text=render(openings))
    except CommandFailed as error:
        raise KillSwitchFailed(f"the kill switch cannot be closed: {error.message}", hint=_MEND) from error
    trouble = await check_table(openings)
    if trouble is not None:
        raise KillSwitchFailed(f"the kill switch is not closed: {trouble}", hint=_MEND)


async def open_() -> None:
    """Remove the kill switch; none is fine. Raises KillSwitchFailed."""
    try:
        await run("nft", "-f", "-", text=OPEN)
    except CommandFailed as error:
        raise KillSwitchFailed(f"the kill switch cannot be opened: {error.message}", hint="run this as root") from error


async def check_table(openings: AllowedTraffic) -> str | None:
    """What the kernel has that is not what was asked for; None if it is."""
    try:
        listed = json.loads(await run("nft", "-j", "list", "table", FAMILY, TABLE))["nftables"]
    except (CommandFailed, ValueError, KeyError) as error:
        return f"the table cannot be read ({error})"
    return compare(listed, len(output_rules(openings)))


def compare(listed: list[dict[str, Any]], rules: int) -> str | None:
    """What is wrong with a table as `nft -j` lists it, which is to hold that many rules."""
    chains = {each["chain"]["name"]: each["chain"] for each in listed if "chain" in each}
    for hook in ("output", "forward"):
        chain = chains.get(hook, {})
        if (chain.get("hook"), chain.get("policy")) != (hook, "drop"):
            return f"the chain {hook} drops nothing"
    found = sum("rule" in each for each in listed)
    return None if found == rules and len(chains) == 2 else f"it holds {found} rules instead of {rules}"
