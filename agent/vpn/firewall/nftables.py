"""The kill switch in the kernel: closing, opening and checking its nftables table."""

from __future__ import annotations

import json
from typing import Any, Final

from agent.net.commands import CommandFailed, run
from agent.vpn.errors import KillSwitchFailed
from agent.vpn.firewall.rules import FAMILY, REMOVE_TABLE, TABLE, AllowedTraffic, output_rules, render

_HINT: Final = "see that the kernel has nf_tables and nf_conntrack; --no-kill-switch goes without, and lets traffic out"


async def close(allowed: AllowedTraffic) -> None:
    """Drop everything but `allowed`, in one transaction that replaces the table. Raises KillSwitchFailed."""
    try:
        await run("nft", "-f", "-", text=render(allowed))
    except CommandFailed as error:
        raise KillSwitchFailed(f"the kill switch cannot be closed: {error.message}", hint=_HINT) from error
    reason = await check_table(allowed)
    if reason is not None:
        raise KillSwitchFailed(f"the kill switch is not closed: {reason}", hint=_HINT)


async def open_() -> None:
    """Remove the table if it exists. Raises KillSwitchFailed."""
    try:
        await run("nft", "-f", "-", text=REMOVE_TABLE)
    except CommandFailed as error:
        raise KillSwitchFailed(f"the kill switch cannot be opened: {error.message}", hint="run this as root") from error


async def check_table(allowed: AllowedTraffic) -> str | None:
    """Compare the kernel's table with `allowed`. Return the difference, or None."""
    try:
        listed = json.loads(await run("nft", "-j", "list", "table", FAMILY, TABLE))["nftables"]
    except (CommandFailed, ValueError, KeyError) as error:
        return f"the table cannot be read ({error})"
    return compare(listed, len(output_rules(allowed)))


def compare(listed: list[dict[str, Any]], rules: int) -> str | None:
    """Compare a table as `nft -j` lists it with the number of rules that it must hold. Return the difference, or None."""
    chains = {each["chain"]["name"]: each["chain"] for each in listed if "chain" in each}
    for hook in ("output", "forward"):
        chain = chains.get(hook, {})
        if (chain.get("hook"), chain.get("policy")) != (hook, "drop"):
            return f"the chain {hook} drops nothing"
    found = sum("rule" in each for each in listed)
    return None if found == rules and len(chains) == 2 else f"it holds {found} rules instead of {rules}"
