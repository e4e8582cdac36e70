"""See that dist/ holds whole archives, and run the wheel in an environment of its own, away from the checkout.

`make dist-check` calls it. It uses a temporary folder and free ports, and ends with 1 and one line at the first thing that is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

ROOT: Final = Path(__file__).resolve().parents[1]
NOT_SHIPPED: Final = {"bench", "tests"}
"""Folders with Python that are for work on Exitplane, not for its use."""
COUNTRIES: Final = "us,gb"
# in the installed environment: what each distribution installs at the top level of site-packages
TOP_LEVEL: Final = """
import json
from importlib.metadata import distributions

def names(found):
    tops = {file.parts[0] for file in found.files or () if file.parts[0] != ".."}
    return sorted(name for name in tops if not name.endswith((".dist-info", ".data")) and name != "__pycache__")

print(json.dumps({found.metadata["Name"]: names(found) for found in distributions()}))
"""


def main() -> None:
    """Check the archives that `make dist` made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", type=Path, required=True, help="the uv that builds and installs")
    uv = str(parser.parse_args().uv.resolve())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    wheel, sdist = (
        only(f"exitplane-{version}-*.whl"),
        only(f"exitplane-{version}.tar.gz"),
    )
    with tempfile.TemporaryDirectory(prefix="exitplane-wheel-") as folder:
        place = Path(folder)
        place.chmod(0o755)  # as root, the embedded PostgreSQL runs as somebody else, who must reach its programs
        check_content(uv, wheel, sdist, place)
        check_installed(uv, wheel, version, place)
    print(f"{wheel.name} and {sdist.name} are whole, and the wheel runs")


def only(pattern: str) -> Path:
    """The file of dist/ that the pattern names."""
    found = [*(ROOT / "dist").glob(pattern)]
    return found[0] if len(found) == 1 else fail(f"dist/ holds {len(found)} files named {pattern}; run `make dist`")


# -- content -----------------------------------------------------------------------------------------------------------


def check_content(uv: str, wheel: Path, sdist: Path, place: Path) -> None:
    """Compare both archives with the files of the repository, and with a wheel that is built from the checkout."""
    wanted = expected_files()
    shipped = wheel_files(wheel)
    modules = {name: content for name, content in shipped.items() if ".dist-info/" not in name}
    if missing := sorted(wanted - modules.keys()):
        fail(f"{wheel.name} lacks {', '.join(missing)}")
    if strange := sorted(modules.keys() - wanted):
        fail(f"{wheel.name} holds what is no part of Exitplane: {', '.join(strange)}")
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    if missing := sorted(wanted - sources):
        fail(f"{sdist.name} lacks {', '.join(missing)}")
    build = (uv, "build", "-q", "--wheel", "--python", sys.executable, "--out-dir", str(place))
    run([*build, "--build-constraint", "requirements-dev.lock"], ROOT)
    if differing := sorted(name for name, _ in shipped.items() ^ wheel_files(place / wheel.name).items()):
        fail(f"the wheels from the sdist and from the checkout differ in {', '.join(differing)}")


def expected_files() -> set[str]:
    """List the files that the wheel must hold besides its metadata: packages, Envoy's files, and the compiled classes."""
    tracked = run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], ROOT).splitlines()
    packages = {name.partition("/")[0] for name in tracked if name.endswith("/__init__.py") and name.count("/") == 1}
    files = {name for name in tracked if name.partition("/")[0] in packages - NOT_SHIPPED and name != "xds/envoy"}
    files |= {f"xds/{name}" for name in tracked if name.startswith("envoy/")}
    files |= {f"{package}/py.typed" for package in packages - NOT_SHIPPED}
    stems = [Path(name).stem for name in tracked if name.startswith("proto/") and name.endswith(".proto")]
    return (
        files | {f"xds/wire/{stem}_pb2.{kind}" for stem in stems for kind in ("py", "pyi")} | {"xds/wire/__init__.py"}
    )


def wheel_files(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# -- installed ---------------------------------------------------------------------------------------------------------


def check_installed(uv: str, wheel: Path, version: str, place: Path) -> None:
    """Install the wheel as a tool of a user who has nothing else, and run its commands as he does."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EXITPLANE_", "PYTHON"))}
    environment |= {"UV_TOOL_DIR": str(place / "tools"), "UV_TOOL_BIN_DIR": str(place / "bin")}
    environment |= {"HOME": str(place), "EXITPLANE_STATE_DIR": str(place / "state"), "TMPDIR": str(place)}
    cache = run([uv, "cache", "dir"], ROOT).strip()
    install = (uv, "tool", "install", "-q", "--cache-dir", cache, "--python", python(), "--compile-bytecode")
    run([*install, "--constraints", str(ROOT / "requirements.lock"), str(wheel)], place, environment)
    check_names(place / "tools" / "exitplane" / "bin" / "python", place, environment)

    def exitplane(*arguments: str, status: int = 0) -> str:
        return run([str(place / "bin" / "exitplane"), *arguments], place, environment, status=status)

    if (said := exitplane("--version").strip()) != f"exitplane {version}":
        fail(f"`exitplane --version` says {said!r}")
    exitplane("db", "check", status=1)  # of a database that nobody has set up
    exitplane("db", "upgrade")
    exitplane("db", "check")
    # free ports: whatever else runs on this machine stays out of it
    ports = ("--gateway-port", "0", "--api-port", "0", "--xds-port", "0")
    report = json.loads(exitplane("demo", "--check", "--plain", "--json", "--exits", COUNTRIES, *ports))
    if not report["ok"]:
        fail(f"`exitplane demo --check --plain` reports {report}")


def check_names(interpreter: Path, place: Path, environment: Mapping[str, str]) -> None:
    """No name that Exitplane installs at the top level is another distribution's, of all that the lock installs."""
    installed = json.loads(run([str(interpreter), "-c", TOP_LEVEL], place, environment))
    ours = set(installed.pop("exitplane"))
    for distribution, names in installed.items():
        if taken := sorted(ours.intersection(names)):
            fail(f"{', '.join(taken)} is installed by {distribution} too; see docs/decisions/0027")


def python() -> str:
    """The interpreter that this environment was made of: one without its packages."""
    return os.path.realpath(sys.executable)


# -- processes ---------------------------------------------------------------------------------------------------------


def run(
    command: list[str],
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    *,
    status: int = 0,
    timeout_s: float = 600,
) -> str:
    """The standard output of a command, which must end with `status`; what it says else is shown as it comes."""
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True, timeout=timeout_s, check=False
    )
    if done.returncode != status:
        fail(f"`{' '.join(command)}` ended with {done.returncode}, not {status}\n{done.stdout}".rstrip())
    return done.stdout


def fail(reason: str) -> NoReturn:
    """End with 1, and say why."""
    sys.exit(f"dist-check: {reason}")


if __name__ == "__main__":
    main()
