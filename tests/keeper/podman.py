"""A real container engine for tests: podman's service on a socket of its own, and an image without a registry."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

IMAGE = "localhost/exitplane-test"
MAIN = b"""
import runpy, sys
sys.path.insert(0, "/site")
runpy.run_path("/script.py", run_name="__main__")
"""


def require_podman() -> str:
    """Return the podman program, or skip the test with the reason."""
    program = shutil.which("podman")
    if program is None:
        pytest.skip("podman is not installed: apt-get install podman")
    if os.geteuid() != 0:
        pytest.skip("containers with networks of their own need root")
    return program


@asynccontextmanager
async def podman(folder: Path, until: Callable[..., Any]) -> AsyncIterator[str]:
    """Run podman's service during the block, and yield its address."""
    program, socket = require_podman(), folder / "podman.sock"
    with (folder / "podman.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(program, "system", "service", "--time=0", f"unix://{socket}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        await until(socket.exists)
        yield f"unix://{socket}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def run_podman(*arguments: str, stdin: bytes | None = None) -> str:
    done = subprocess.run(["podman", *arguments], input=stdin, capture_output=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


@contextmanager
def imported(name: str, content: dict[str, bytes | Path]) -> Iterator[str]:
    """Build an image of only these files during the block. Contents are bytes, or files and folders of this machine."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", dereference=True) as archive:
        for folder in ("tmp", "run", "var/lib", "proc", "sys", "dev", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for path, each in content.items():
            if isinstance(each, Path):
                archive.add(each, path.lstrip("/"), filter=_without_caches)
            else:
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.size, entry.mode = len(each), 0o755
                archive.addfile(entry, io.BytesIO(each))
    run_podman("import", "-", name, stdin=written.getvalue())
    try:
        yield name
    finally:
        run_podman("rmi", "--force", name)


def _without_caches(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    left_out = (
        "/__pycache__",
        "/site-packages",
        "/test/",
        "/idlelib",
        "/ensurepip",
        "/lib2to3",
        "/tkinter",
        "/turtledemo",
    )
    return None if any(part in f"/{entry.name}/" for part in left_out) else entry


def with_libraries(programs: Iterable[Path]) -> dict[str, bytes | Path]:
    """Return programs and shared libraries at their own paths, with the libraries that they are linked with."""
    found: dict[str, bytes | Path] = {}
    for program in programs:
        found[str(program)] = program
        listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False, timeout=120).stdout
        for line in listed.splitlines():
            words = [word for word in line.split() if word.startswith("/")]
            found |= {word: Path(word) for word in words}
    return found


def python_content(*, packages: Iterable[str], rooms: Iterable[Path], script: Path) -> dict[str, bytes | Path]:
    """Return the files of an image whose /main.py runs a script with this Python, with these packages and folders below /site."""
    library, site = Path(os.__file__).parent, Path(pytest.__file__).parent.parent
    extensions = [path for package in packages for path in (site / package).rglob("*.so")]
    content = with_libraries([Path(sys.executable).resolve(), *library.glob("lib-dynload/*.so"), *extensions])
    content = {path: each for path, each in content.items() if not path.startswith((str(library), str(site)))}
    content |= {
        str(library): library,
        "/main.py": MAIN,
        "/script.py": script,
        "/etc/passwd": b"root:x:0:0::/:/bin/sh\n",
    }
    content |= {f"/site/{package}": site / package for package in packages}
    content |= {f"/site/{path.name}": path for path in site.glob("_cffi_backend*.so")}
    content |= {f"/site/{room.name}": room for room in rooms}
    return content
