"""Compiler of the .proto files beside this script into the package xds.wire: `python proto/compile.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Write a module and a stub for each .proto file. Raises CalledProcessError if one does not compile."""
    source = Path(__file__).resolve().parent
    target = source.parent / "xds" / "wire"
    target.mkdir(exist_ok=True)
    (target / "__init__.py").touch()
    outputs = (f"--python_out={target}", f"--pyi_out={target}")
    files = sorted(source.glob("*.proto"))
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{source}", *outputs, *files], check=True)


if __name__ == "__main__":
    main()
