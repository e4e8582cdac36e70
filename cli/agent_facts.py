"""Facts about the agent of a state folder, and its host, for `exitplane doctor --agent`."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from agent.config import state_dir as files
from agent.config.identity import Enrolment
from agent.config.state_dir import StateDir
from agent.control.enrolment import load
from agent.vpn.firewall.rules import FAMILY, TABLE
from agent.vpn.servers import holds_secret
from cli.host_facts import NoAnswer, ask_health, read_sysctl, stat_existing, stat_file
from model.doctor.agent_host import RunningFacts, StateFacts
from model.doctor.host import FileFact, ValidityFact
from model.errors import ExitplaneError

_VARIABLE: Final = "EXITPLANE_AGENT_"
_LOCK: Final = "agent.lock"
_SWITCHES: Final = frozenset({"kill_switch", "no_kill_switch", "open_kill_switch"})
"""Options without a value."""
_SECRET_FILES: Final = (
    *("token_file", "parent_credentials", "tunnel_credentials"),
    *("gluetun_key_file", "gluetun_credentials"),
)
_NFT_TIMEOUT_S: Final = 5


def gather(state: Path) -> tuple[StateFacts, RunningFacts | None]:
    """Gather the facts about a state folder, and about the agent that runs with it, if there is one."""
    now, folder = datetime.now(UTC), StateDir(state)
    if not _is_folder(state):
        unusable = (
            f"{state} is not a folder, or not this user's",
            "name the agent's --state, and run this as its user",
        )
        return StateFacts(now=now, unusable=unusable, runs=False), None
    pid = find_agent(state)
    private = [state / name for name in (files.KEY, files.RECORD, files.ADMIN_SOCKET, files.SOCKET)]
    facts = StateFacts(
        now=now,
        runs=pid is not None,
        open_admin=_find_open_admin(state),
        folder=stat_file(state),
        private_files=stat_existing([state, *private, *sorted(state.glob("secrets/*.yaml"))]),
    )
    try:
        enrolment = load(folder)
        expires = [] if enrolment is None else [_read_validity(enrolment.certificate_pem)]
    except (ExitplaneError, OSError, ValueError) as error:
        return _unusable(facts, f"{state} cannot be read ({error})", "run this as the agent's user"), None
    if enrolment is None:
        return _unusable(facts, f"no proxy has enrolled in {state}", "start `exitplane agent` with a join token"), None
    return replace(facts, role=enrolment.role, certificates=expires), None if pid is None else _gather_running(
        pid, state, enrolment
    )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _unusable(facts: StateFacts, reason: str, hint: str) -> StateFacts:
    return replace(facts, unusable=(reason, hint))


def _find_open_admin(state: Path) -> str | None:
    """Return the TCP address of the admin interface in the bootstrap; None for a Unix socket, or without a bootstrap."""
    try:
        address = json.loads((state / files.BOOTSTRAP).read_text())["admin"]["address"]["socket_address"]
        return f"{address['address']}:{address['port_value']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_validity(pem: str) -> ValidityFact:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    begins, expires = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return ValidityFact("the proxy's certificate", begins, expires, "see that the agent reaches the API")


def find_agent(state: Path) -> int | None:
    """Return the process that holds the lock of a state folder (proc_locks(5)); None without one."""
    try:
        inode = (state / _LOCK).stat().st_ino
        locks = Path("/proc/locks").read_text()
    except OSError:
        return None
    for line in locks.splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4])
    return None


def parse_options(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the options of `exitplane agent` by name, with `_` for `-`. Arguments win over variables, as in typer."""
    found: dict[str, list[str]] = {}
    remaining = list(arguments)
    while remaining:
        name, separator, value = remaining.pop(0).partition("=")
        if not name.startswith("--"):
            continue
        option = name.removeprefix("--").replace("-", "_")
        if option in _SWITCHES:
            found[option] = ["true"]
        elif separator or remaining:
            found.setdefault(option, []).append(value if separator else remaining.pop(0))
    for variable, value in environment.items():
        option = variable.removeprefix(_VARIABLE).lower()
        if not variable.startswith(_VARIABLE) or not value or option in found:
            continue
        if option in _SWITCHES:
            option = option if value.lower() in {"1", "true", "yes", "on", "t", "y"} else f"no_{option}"
            if found.keys() & _SWITCHES:
                continue
        found[option] = value.split()
    return found


def _gather_running(pid: int, state: Path, enrolment: Enrolment) -> RunningFacts | None:
    """Gather the facts about a running agent; None if this user may not look at it, or if it has ended."""
    process = Path("/proc", str(pid))
    try:
        arguments = [os.fsdecode(each) for each in (process / "cmdline").read_bytes().split(b"\0")]
        pairs = [os.fsdecode(each).partition("=") for each in (process / "environ").read_bytes().split(b"\0")]
        folder = (process / "cwd").readlink()
    except OSError:
        return None
    options = parse_options(arguments, {name: value for name, _, value in pairs})
    envoy = _read_envoy_pid(state)
    facts = RunningFacts(role=enrolment.role, options=options)
    away, clock = None, None
    for url in options.get("api", ())[:1]:
        try:
            _, clock = ask_health(url, _trust(options, folder, enrolment))
        except (NoAnswer, OSError) as error:
            away = (
                f"no API answers at {url} ({error})",
                "see that the control plane runs and can be reached from here",
            )
    return RunningFacts(
        role=enrolment.role,
        options=options,
        option_files=_stat_option_files(options, folder),
        descriptors=_read_limit(envoy or pid),
        envoy_runs=envoy is not None,
        switch_closed=_find_switch(process) if facts.wants_switch else None,
        sysctl=read_sysctl(),
        read_only_sysctl=not os.access("/proc/sys/net/ipv4/conf/all/rp_filter", os.W_OK),
        api_away=away,
        clock=clock,
    )


def _trust(options: Mapping[str, Sequence[str]], folder: Path, enrolment: Enrolment) -> ssl.SSLContext:
    """Return a context that trusts what the agent trusts. Raises OSError."""
    for file in options.get("api_ca", ())[:1]:
        return ssl.create_default_context(cafile=folder / file)
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=enrolment.authority_pem)
    return context


def _stat_option_files(options: Mapping[str, Sequence[str]], folder: Path) -> list[FileFact]:
    secret = [folder / each for option in _SECRET_FILES for each in options.get(option, ())]
    tunnels = [folder / each for each in options.get("tunnel", ())]
    return stat_existing([*secret, *(each for each in tunnels if _holds_secret(each))])


def _holds_secret(path: Path) -> bool:
    try:
        return holds_secret(path.read_text(errors="replace"))
    except OSError:
        return True  # its mode tells whether others can read it


def _read_envoy_pid(state: Path) -> int | None:
    """Return the process id of the agent's Envoy, if it runs."""
    try:
        pid = int(json.loads((state / files.ENVOY).read_text())["pid"])
        os.kill(pid, 0)
    except PermissionError:
        return pid
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid


def _read_limit(pid: int) -> int:
    """Return the hard limit of a process on descriptors."""
    try:
        lines = Path("/proc", str(pid), "limits").read_text().splitlines()
    except OSError:
        lines = []
    return parse_limit(lines)


def parse_limit(lines: Iterable[str]) -> int:
    """Return the hard limit on open files in /proc/PID/limits; without one, more than any check wants."""
    hard = next((line.split()[4] for line in lines if line.startswith("Max open files")), "unlimited")
    return int(hard) if hard.isdecimal() else 2**31 - 1


def _find_switch(process: Path) -> bool | None:
    """Tell whether the kill switch's table is in the kernel; None where that cannot be seen."""
    try:
        if not (process / "ns" / "net").samefile("/proc/self/ns/net"):
            return None
        command = ("nft", "list", "table", FAMILY, TABLE)
        done = subprocess.run(command, capture_output=True, text=True, timeout=_NFT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return True
    return False if "No such file" in done.stderr else None
