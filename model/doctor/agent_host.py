"""The checks beside an agent: its state folder, the options that it runs with, and its host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from model.doctor.findings import Check, Judgement, error, note, warning
from model.doctor.host import (
    ClockFact,
    FileFact,
    ValidityFact,
    judge_clocks,
    judge_folder,
    judge_private_files,
    judge_sysctl,
    judge_validity,
)
from model.entities import Role

DESCRIPTORS: Final = 65_536
TUNNEL_DESCRIPTORS: Final = 3
"""Descriptors of Envoy for a tunnel: one connection on either side, and those that are kept ready."""
TUNNEL_CONNTRACK: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFacts:
    """The state folder, and the certificate in it; `unusable` has the reason why it is no agent's folder, and a hint."""

    now: datetime
    unusable: tuple[str, str] | None = None
    runs: bool = True
    """True if an agent holds the folder's lock."""
    role: Role | None = None
    open_admin: str | None = None
    """The address and port of Envoy's admin interface, unless that is a Unix socket."""
    folder: FileFact | None = None
    private_files: Sequence[FileFact] = ()
    certificates: Sequence[ValidityFact] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningFacts:
    """The agent that runs: its options by name, with `_` for `-`, and the limits of it and its Envoy.

    `switch_closed` tells whether the kill switch's table is in the kernel; None where it cannot be looked at.
    """

    role: Role
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    option_files: Sequence[FileFact] = ()
    """Files with keys, tokens or credentials that options name."""
    descriptors: int = DESCRIPTORS
    envoy_runs: bool = True
    switch_closed: bool | None = None
    sysctl: Mapping[str, str] = field(default_factory=dict)
    read_only_sysctl: bool = False
    api_away: tuple[str, str] | None = None
    clock: ClockFact | None = None

    def has(self, *names: str) -> bool:
        return any(self.options.get(name) for name in names)

    @property
    def wants_switch(self) -> bool:
        """True if these options close a kill switch (agent/options.py)."""
        if self.role is not Role.EXIT or self.has("no_kill_switch"):
            return False
        return self.has("kill_switch", "tunnel") or (self.has("tunnel_interface") and not self.has("parent"))


def judge_state(facts: StateFacts) -> Iterator[Judgement]:
    if facts.unusable is not None:
        yield error(*facts.unusable)


def judge_process(facts: StateFacts) -> Iterator[Judgement]:
    if not facts.runs:
        yield warning("no agent runs with this state folder", "start `exitplane agent` with it")


def judge_admin(facts: StateFacts) -> Iterator[Judgement]:
    if facts.open_admin is not None:
        yield error(
            f"Envoy's admin interface is open to everybody who reaches {facts.open_admin}",
            "restart the agent with this version; for an Envoy without an agent, write its bootstrap anew",
        )


def judge_envoy(facts: RunningFacts) -> Iterator[Judgement]:
    if not facts.envoy_runs:
        yield error("the agent's Envoy does not run", "see envoy.log in the state folder")


def judge_api(facts: RunningFacts) -> Iterator[Judgement]:
    for url in facts.options.get("api", ()):
        host = url.partition("://")[2].partition("/")[0].rpartition(":")[0] or url.partition("://")[2]
        if url.startswith("http://") and host not in {"127.0.0.1", "[::1]", "localhost"}:
            yield warning(
                f"the agent reaches the API at {url} in clear: its join token can be read on the way",
                "use https:// with --api-ca (docs/settings.md#tls-on-the-api)",
            )
    if facts.api_away is not None:
        yield error(*facts.api_away)


def judge_metrics(facts: RunningFacts) -> Iterator[Judgement]:
    for address in facts.options.get("metrics_listen", ()):
        if not address.startswith(("127.", "[::1]")):
            yield note(
                f"everybody who reaches {address} can read the metrics, which name pools and their traffic",
                "let Prometheus alone connect there, or use a loopback address",
            )


def judge_kill_switch(facts: RunningFacts) -> Iterator[Judgement]:
    if facts.role is not Role.EXIT:
        return
    if not facts.wants_switch:
        if not facts.has("parent"):
            what = "is off (--no-kill-switch)" if facts.has("no_kill_switch") else "is missing, and so is a tunnel"
            yield warning(
                f"the kill switch {what}: traffic can leave from the host's own address",
                "start the agent with --tunnel FILE, or with --tunnel-interface and --tunnel-endpoint (docs/tunnels.md)",
            )
    elif facts.switch_closed is False:
        yield error(
            "the kill switch is not closed: nftables has no table inet exitplane",
            "see the agent's log for kill_switch.failed",
        )
    elif facts.switch_closed is None:
        yield note("the kill switch could not be looked at", "run this as root in the agent's network namespace")


def judge_observation(facts: RunningFacts) -> Iterator[Judgement]:
    if facts.role is Role.EXIT and not facts.has("observe"):
        yield warning(
            "nothing verifies the exit's address and country", "start the agent with --observe URL (docs/exits.md)"
        )


def judge_descriptors(facts: RunningFacts) -> Iterator[Judgement]:
    if facts.descriptors < DESCRIPTORS:
        yield note(
            f"Envoy may open {facts.descriptors} file descriptors: about {facts.descriptors // TUNNEL_DESCRIPTORS} tunnels",
            f"raise the hard limit of the agent: LimitNOFILE={DESCRIPTORS}, or ulimit -Hn {DESCRIPTORS}",
        )


def judge_kernel(facts: RunningFacts) -> Iterator[Judgement]:
    yield from judge_sysctl(facts.sysctl)
    tunnels = facts.descriptors // TUNNEL_DESCRIPTORS
    ports = facts.sysctl.get("net.ipv4.ip_local_port_range", "").split()
    if facts.role is Role.GATEWAY and len(ports) == 2 and int(ports[1]) - int(ports[0]) < tunnels:
        yield note(
            f"net.ipv4.ip_local_port_range allows {int(ports[1]) - int(ports[0]) + 1} tunnels to one exit, and descriptors about {tunnels}",
            'sysctl -w net.ipv4.ip_local_port_range="1024 65535", and keep listeners\' ports out of it',
        )
    tracked = facts.sysctl.get("net.netfilter.nf_conntrack_max", "")
    if facts.wants_switch and tracked.isdecimal() and int(tracked) < TUNNEL_CONNTRACK * tunnels:
        yield warning(
            f"the kernel tracks {tracked} connections, less than {tunnels} tunnels need: the kill switch drops what is not tracked",
            f"sysctl -w net.netfilter.nf_conntrack_max={TUNNEL_CONNTRACK * tunnels}",
        )
    if facts.has("tunnel") and facts.sysctl.get("net.ipv4.conf.all.rp_filter") == "1" and facts.read_only_sysctl:
        yield warning(
            "net.ipv4.conf.all.rp_filter is strict, and the agent cannot change it: answers through a second tunnel are dropped",
            "sysctl -w net.ipv4.conf.all.rp_filter=2, outside the container",
        )


STATE_CHECKS: Final = (
    Check("agent-state", "a proxy has enrolled here", judge_state),
    Check("agent-process", "an agent runs with this state folder", judge_process),
    Check[StateFacts]("agent-folder", "nobody else can write to the state folder", lambda it: judge_folder(it.folder)),
    Check[StateFacts]("agent-keys", "keys in the state folder are readable by their owner alone", lambda it: judge_private_files(it.private_files)),
    Check("agent-admin", "Envoy's admin interface is a socket", judge_admin),
    Check[StateFacts]("agent-certificate", "the proxy's certificate is valid for long", lambda it: judge_validity(it.certificates, it.now)),
)  # fmt: skip
RUNNING_CHECKS: Final = (
    Check("agent-envoy", "the agent's Envoy runs", judge_envoy),
    Check("agent-api", "the API answers, and is not reached in clear", judge_api),
    Check[RunningFacts]("agent-clock", "the clocks of this host and of the control plane agree", lambda it: judge_clocks([it.clock] if it.clock else [])),
    Check[RunningFacts]("agent-files", "tokens, tunnel files and credentials are readable by their owner alone", lambda it: judge_private_files(it.option_files)),
    Check("kill-switch", "the kill switch is closed, or not needed", judge_kill_switch),
    Check("observation", "the exit's address and country are verified, or this is a gateway", judge_observation),
    Check("metrics", "metrics are offered on loopback alone, or not at all", judge_metrics),
    Check("agent-descriptors", "there are enough file descriptors", judge_descriptors),
    Check("agent-kernel", "the kernel's limits are high enough", judge_kernel),
)  # fmt: skip
