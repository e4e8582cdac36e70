"""Compile proto/ before setuptools looks for packages; pyproject.toml states everything else.

xds/wire is generated and not committed, so every way to build (wheel, sdist, editable, from a checkout or an sdist) compiles it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools import setup

subprocess.run([sys.executable, Path(__file__).with_name("proto") / "compile.py"], check=True)
setup()
