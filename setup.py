"""Compile proto/ before setuptools looks for packages; pyproject.toml states everything else.

xds/wire is generated and not committed, so every way to build (wheel, sdist, editable, from a checkout or an sdist) compiles it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent

# setuptools would ship modules of an earlier build that are gone by now
shutil.rmtree(ROOT / "build", ignore_errors=True)
subprocess.run([sys.executable, ROOT / "proto" / "compile.py"], check=True)
setup()
